"""What the files have in common that schedulers read: constants of one recipe, then code that never changes.

A generated file imports nothing of gptmill. Values of the recipe and of the command line stand in it as escaped string
literals, and go to `gptmill` as items of an argument list; no shell sees them.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt_core.errors import RecipeError
from gpt_core.fingerprint import Json
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import load_recipe
from pipelines.gpt import stages_of


@dataclass(frozen=True)
class Export:
    """A recipe as a scheduler's file shall run it."""

    recipe: Recipe
    path: Path
    overrides: Sequence[str]  # of --set
    gptmill: str  # the command, as the scheduler's machines find it
    folder: Path  # where it is given
    parameters: Mapping[str, Json]  # fields that whoever starts a run may change, with their values now
    schedule: str | None
    command: Sequence[str]  # that wrote the file

    @property
    def stages(self) -> dict[str, list[str]]:
        """Each stage, in the plan's order, with those that it reads."""
        stages = stages_of(self.recipe)
        names = {stage.name for stage in stages}
        return {stage.name: [name for name in stage.reads if name in names] for stage in stages}


def open_export(
    path: Path,
    overrides: Sequence[str],
    *,
    gptmill: str | None,
    schedule: str | None,
    fields: Sequence[str] = (),
) -> Export:
    """What the command line asks for. Raises RecipeError for a recipe or a field of `fields` that is refused."""
    recipe = load_recipe(path, overrides)
    return Export(
        recipe=recipe,
        path=path,
        overrides=overrides,
        gptmill=gptmill or own_command(),
        folder=Path.cwd(),
        parameters={field: _value_of(recipe, field) for field in fields},
        schedule=schedule,
        command=["gptmill", *sys.argv[1:]],
    )


def own_command() -> str:
    """This environment's `gptmill`; where it is not installed, the one of the scheduler's PATH."""
    script = Path(sys.executable).with_name("gptmill")
    return str(script) if script.exists() else "gptmill"


def made_by(export: Export) -> str:
    """The lines of a docstring that tell how the file was made."""
    return f"    cd {_escaped(shlex.quote(str(export.folder)))}\n    {_escaped(shlex.join(export.command))}"


def constants(export: Export) -> str:
    """The assignments at the head of a generated file."""
    settings = [word for override in export.overrides for word in ("--set", override)]
    stages = "".join(f"    {_literal(name)}: {_literals(reads)},\n" for name, reads in export.stages.items())
    return (
        f"NAME = {_literal(export.recipe.name)}\n"
        f"GPTMILL = {_literal(export.gptmill)}  # on every machine that runs tasks\n"
        f"FOLDER = {_literal(str(export.folder))}  # relative paths of the recipe begin here\n"
        f"RECIPE = {_literal(str(export.path))}\n"
        f"SETTINGS = {_literals(settings)}\n"
        f"SCHEDULE = {'None' if export.schedule is None else _literal(export.schedule)}\n"
        f"STAGES = {{  # each with those that it reads\n{stages}}}\n"
    )


def parameters(export: Export) -> str:
    """The assignment of the fields that whoever starts a run may change."""
    fields = "".join(f"    {_literal(name)}: {_python(value)},\n" for name, value in export.parameters.items())
    return f"PARAMETERS = {{\n{fields}}}\n" if fields else "PARAMETERS = {}\n"


def _value_of(recipe: Recipe, field: str) -> Json:
    """The value of a field. Raises RecipeError where there is none that could be typed into a form."""
    value: Json = recipe.model_dump(mode="json")
    for part in field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None or isinstance(value, dict):
        raise RecipeError([f"{field} has no value in the recipe; name a field that has one"], origin="--param")
    return value


def _python(value: Json) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_python, value)) + "]"
    return _literal(value) if isinstance(value, str) else repr(value)


def _literals(texts: Sequence[str]) -> str:
    return "[" + ", ".join(map(_literal, texts)) + "]"


def _literal(text: str) -> str:
    """A Python string in ASCII. JSON's would break signs beyond U+FFFF in two."""
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
