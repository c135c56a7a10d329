"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from gpt_core.errors import InputError
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import load_recipe
from pipelines.plan import resolve_paths

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as recipes/demo.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a field; may be given again.")
]
Only = Annotated[str | None, typer.Option(metavar="STAGE", help="This stage alone; its inputs must be made.")]
Until = Annotated[str | None, typer.Option(metavar="STAGE", help="The stages up to this one.")]


def require_one(only: str | None, until: str | None) -> None:
    """Not both are given. Raises InputError."""
    if only is not None and until is not None:
        raise InputError("--only and --until exclude each other; give one")


def example(command: str) -> str:
    """The last line of a command's help."""
    return f"Example: {command}"


def load(path: Path, overrides: list[str] | None) -> Recipe:
    """The recipe of a command line, its paths absolute."""
    return resolve_paths(load_recipe(path, overrides or []))
