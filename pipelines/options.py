"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from gpt_core.recipe import Recipe
from gpt_core.recipe_file import load_recipe
from pipelines.plan import resolve_paths

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as recipes/demo.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a field; may be given again.")
]


def example(command: str) -> str:
    """The last line of a command's help."""
    return f"Example: {command}"


def load(path: Path, overrides: list[str] | None) -> Recipe:
    """The recipe of a command line, its paths absolute."""
    return resolve_paths(load_recipe(path, overrides or []))
