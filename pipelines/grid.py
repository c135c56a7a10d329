"""The grid of a sweep: every combination of the values that `--set` lists, each a recipe of its own name.

    --set finetune.learning_rate=1e-4,3e-4 --set dedup.bands=16,32     four combinations
    --set 'evaluate.prompts=["a", "b"],["c"]'                          two, each a list

Values are the entries of a YAML flow sequence: commas within brackets, braces and quotes part nothing.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import yaml

from gpt_core.errors import RecipeError
from gpt_core.fingerprint import SHORT, fingerprint
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import parse_recipe
from pipelines.options import load

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")  # of a recipe
MOST_COMBINATIONS = 1_000


@dataclass(frozen=True)
class Combination:
    """One choice of the swept values, as they were typed, and its recipe."""

    values: dict[str, str]
    recipe: Recipe

    @property
    def label(self) -> str:
        """`learning_rate=1e-4 bands=16`, with whole paths where two fields have one name."""
        return " ".join(f"{name}={value}" for name, value in self.short_values)

    @property
    def short_values(self) -> list[tuple[str, str]]:
        """The fields' short names, each with its value."""
        return list(zip(short_names(self.values), self.values.values(), strict=True))


def read_grid(path: Path, overrides: Sequence[str]) -> tuple[Recipe, list[Combination]]:
    """(the first combination's recipe under its own name, every combination): the last field's values vary fastest.

    Each combination registers its models under the names that the recipe alone would. Raises RecipeError that lists
    what is wrong with any of them.
    """
    choices = [_choices(override) for override in overrides]
    fields = [field for field, _ in choices]
    swept = [field for field, values in choices if len(values) > 1]
    _require_grid(fields, swept, math.prod(len(values) for _, values in choices))
    problems: list[str] = []
    found: list[Combination] = []
    for picked in product(*(values for _, values in choices)):
        chosen = list(zip(fields, picked, strict=True))
        try:
            recipe = load(path, [f"{field}={value}" for field, value in chosen])
            found.append(Combination({field: value for field, value in chosen if field in swept}, recipe))
        except RecipeError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise RecipeError(problems, origin=str(path))
    return found[0].recipe, _named(found)


def _require_grid(fields: Sequence[str], swept: Sequence[str], count: int) -> None:
    problems = [f"{field} is given twice; list all its values at once" for field in swept if fields.count(field) > 1]
    if not swept:
        problems.append("no field has several values; list them, section.field=VALUE,VALUE, or use `gptmill run`")
    if count > MOST_COMBINATIONS:
        problems.append(f"{count:,} combinations are more than {MOST_COMBINATIONS:,}; list fewer values")
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)), origin="--set")


def split_values(text: str) -> list[str]:
    """The values that `text` lists, each as it is written there. Raises ValueError that says what is wrong.

    >>> split_values('1e-4, "a, b", [1, 2]')
    ['1e-4', '"a, b"', '[1, 2]']
    """
    flow = f"[{text}\n]"  # the line break ends a comment
    try:
        node = yaml.compose(flow, yaml.SafeLoader)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(f"is no list of values: {reason}; put what holds commas or marks in quotes") from None
    assert isinstance(node, yaml.SequenceNode)
    if not node.value:
        return [""]  # null, as `gptmill run` reads it
    if re.match(r"\s*,", flow[node.value[-1].end_mark.index :]):
        raise ValueError("ends with a comma; leave it out")
    return [flow[item.start_mark.index : item.end_mark.index].strip() for item in node.value]


def short_names(fields: Iterable[str]) -> list[str]:
    """The last part of each field's path, or all of it where that is another's, too."""
    fields = list(fields)
    last = [field.rpartition(".")[2] for field in fields]
    return [name if last.count(name) == 1 else field for name, field in zip(last, fields, strict=True)]


def _choices(override: str) -> tuple[str, list[str]]:
    field, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(["write it as section.field=VALUE,VALUE"], origin=f"--set {override}")
    try:
        return field.strip(), split_values(text)
    except ValueError as error:
        raise RecipeError([str(error)], origin=f"--set {override}") from None


def _named(found: Sequence[Combination]) -> list[Combination]:
    """The combinations under names of their own: the values where they can stand in one, else a digest."""
    base = found[0].recipe
    names = [f"{base.name}-{'-'.join(f'{name}-{value}' for name, value in c.short_values)}" for c in found]
    if len(set(names)) < len(names) or not all(NAME.fullmatch(name) for name in names):
        names = [f"{base.name[:48]}-{fingerprint(dict(c.values))[:SHORT]}" for c in found]
    return [Combination(c.values, _rename(c.recipe, name)) for c, name in zip(found, names, strict=True)]


def _rename(recipe: Recipe, name: str) -> Recipe:
    """The recipe under another name that registers the same models."""
    tree = recipe.model_dump(mode="json")
    tree["name"] = name
    tree["tracking"]["registered_model"] = recipe.tracking.registered_model or f"{recipe.name}-classifier"
    language = recipe.tracking.registered_language_model or f"{recipe.name}-language-model"
    tree["tracking"]["registered_language_model"] = language
    return parse_recipe(tree, origin=f"the combination {name}")
