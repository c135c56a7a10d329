"""What several commands of the command line share: their arguments, and how they load a recipe."""

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
    """The line below a command's help."""
    return f"Example: {command}"


def load(path: Path, overrides: list[str] | None) -> Recipe:
    """The recipe with its overrides, every path absolute. Raises RecipeError."""
    return resolve_paths(load_recipe(path, overrides or []))
