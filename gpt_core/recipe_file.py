"""Reading a recipe: YAML 1.2 scalars, `--set` overrides, and refusals that name the way out.

YAML 1.1, which PyYAML reads, takes 3e-4 for a string, `no` (Norwegian) for false and forgives a key given
twice. Here numbers are numbers, only true and false are booleans, and a doubled key is refused.
"""

import difflib
import json
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gpt_core.errors import RecipeError
from gpt_core.fingerprint import Json
from gpt_core.recipe import Recipe


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema and no doubled keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012  as the base class declares it
        first: [(tag, pattern) for tag, pattern in resolvers if tag in ("tag:yaml.org,2002:null",)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9][0-9_]*$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.inf|\.nan)$"),
    list("-+.0123456789"),
)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value.replace("_", "")))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: _read_float(node.value))


def _read_float(scalar: str) -> float:
    """The float that YAML 1.2 means: `.inf` and `.nan` have a dot that Python does not know."""
    return float(scalar.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in the YAML (or JSON) file `path`, with `section.field=value` overrides applied in order.

    Raises RecipeError that lists every offending field: its path, the value, what is allowed, the nearest name.
    """
    origin = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError([f"cannot be read: {error.strerror}; give the path of a recipe"], origin=origin) from None
    except UnicodeDecodeError as error:
        raise RecipeError([f"is not UTF-8 at byte {error.start}"], origin=origin) from None
    tree = _parse_yaml(text, origin)
    if not isinstance(tree, dict):
        raise RecipeError(["is not a mapping of sections; see recipes/demo.yaml"], origin=origin)
    for override in overrides:
        _apply_override(tree, override)
    return parse_recipe(tree, origin=origin)


def parse_recipe(tree: Json, *, origin: str) -> Recipe:
    """The validated recipe of a plain tree. No type is coerced, except an integer to a float field."""
    try:
        return Recipe.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        raise RecipeError([_word(problem) for problem in error.errors()], origin=origin) from None


def _parse_yaml(text: str, origin: str) -> Json:
    try:
        tree: Json = yaml.load(text, _Loader)  # noqa: S506  a SafeLoader with fewer tags
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise RecipeError([f"{where}{getattr(error, 'problem', None) or error}"], origin=origin) from None
    return tree


def _apply_override(tree: dict[str, Json], override: str) -> None:
    """Set one field of `tree` from `a.b=value`; the value is read as YAML, so lists and null work."""
    path, equals, value = override.partition("=")
    keys = path.strip().split(".")
    origin = f"--set {override}"
    if not equals or not all(keys):
        raise RecipeError(["write it as section.field=value"], origin=origin)
    node = tree
    for key in keys[:-1]:
        child = node.get(key)
        if child is None:
            child = node[key] = {}
        if not isinstance(child, dict):
            raise RecipeError([f"{path}: {key} has no fields"], origin=origin)
        node = child
    node[keys[-1]] = _parse_yaml(value, origin)


def _word(problem: ErrorDetails) -> str:
    """One line for one refused field: path, value, what is allowed."""
    branch = re.compile(r"\w+\[.*\]")  # pydantic's name for one side of `A | B`
    where = ".".join(str(part) for part in problem["loc"] if not branch.fullmatch(str(part)))
    kind, message = problem["type"], problem["msg"]
    if kind == "extra_forbidden":
        allowed = _fields_at(problem["loc"][:-1])
        key = str(problem["loc"][-1])
        near = difflib.get_close_matches(key, allowed, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{where}: unknown field; {hint}allowed: {', '.join(allowed)}"
    if kind == "missing":
        return f"{where}: is required and missing"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    shown = json.dumps(problem["input"], default=str)
    return f"{where}: {shown if len(shown) < 80 else shown[:77] + '...'} is refused; {message[0].lower()}{message[1:]}"


def _fields_at(loc: Sequence[int | str]) -> list[str]:
    """Names of the fields that the section at `loc` has."""
    model: type[BaseModel] = Recipe
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            model = _section_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _section_in(annotation: object) -> type[BaseModel] | None:
    """The section class inside `Section`, `Section | None` or `tuple[Section, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section_in(inner))), None)
