"""`gptmill sweep`: listed values tried in every combination, and a table of what came out."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gpt_core.errors import StageError
from gpt_core.report import units
from pipelines.options import Only, RecipePath, Until, require_one

if TYPE_CHECKING:
    from pipelines.sweep import Sweep

Values = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B=VALUE,VALUE",
        help="A field and the values to try, a list in brackets; with one value as in `run`. May be given again.",
    ),
]


def sweep(
    recipe: RecipePath,
    overrides: Values = None,
    only: Only = None,
    until: Until = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Run every combination of the listed values, and name the best by its validation figure.

    Stages that combinations share are made once. Exit 3 where a combination failed; the others are made.
    """
    from pipelines.grid import read_grid
    from pipelines.sweep import run_sweep

    require_one(only, until)
    base, combinations = read_grid(recipe, overrides or [])
    console = Console(stderr=as_json)
    made = run_sweep(base, combinations, console=console, only=only, until=until)
    if as_json:
        print(json.dumps(sweep_json(made), indent=1))
    else:
        console.print()
        console.print(sweep_table(made))
        console.print(made.judged_by, highlight=False, soft_wrap=True)
        console.print(f"MLflow     {made.tracking_command}", highlight=False, soft_wrap=True)
    if any(tried.error for tried in made.tried):
        raise typer.Exit(StageError.exit_code)


def sweep_table(made: "Sweep") -> Table:
    """A row for each combination, in their order: values, headline figures, what ran, and which is best."""
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    fields = [name for name, _ in made.tried[0].combination.short_values]
    figures = list(dict.fromkeys(name for tried in made.tried for name in made.headlines(tried)))
    for name in fields:
        table.add_column(escape(name))
    for name in figures:
        table.add_column(name.replace("_", " "), justify="right")
    for name in ("made now", ""):
        table.add_column(name)
    best = made.best
    for tried in made.tried:
        values, found = tried.combination.values.values(), made.headlines(tried)
        shown = [units.significant(found[name], digits=4) if name in found else "" for name in figures]
        note = "best" if tried is best else f"failed: {tried.error.splitlines()[0]}" if tried.error else ""
        table.add_row(
            *map(escape, values), *shown, ", ".join(tried.ran), escape(note), style="bold" if tried is best else ""
        )
    return table


def sweep_json(made: "Sweep") -> dict[str, Any]:
    """The sweep as plain values; `best` is the name of a combination, or null."""
    best, judge = made.best, made.judge
    return {
        "sweep": made.run_id,
        "judged_by": judge and {"stage": judge.stage, "figure": judge.figure, "more_is_better": judge.sign > 0},
        "same_validation_data": made.same_text,
        "best": best.combination.recipe.name if best is not None else None,
        "combinations": [
            {
                "name": tried.combination.recipe.name,
                "values": tried.combination.values,
                "run_id": tried.run_id,
                "figures": made.headlines(tried),
                "made": tried.ran,
                "outputs": {stage: str(artifact.root) for stage, artifact in tried.artifacts.items()},
                "error": tried.error,
            }
            for tried in made.tried
        ],
    }
