"""`gptmill export`: a recipe as a file that a scheduler reads, printed."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from gpt_core.errors import InputError
from pipelines.options import Overrides, RecipePath, example, load

app = typer.Typer(
    help="Print a recipe as a file for a scheduler; nothing is started.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Schedule = Annotated[str | None, typer.Option(metavar="CRON", help="When to run, as `0 3 * * *`; default: by hand.")]
Command = Annotated[
    str | None,
    typer.Option("--gptmill", metavar="PATH", help="The command where tasks run; default: this environment's."),
]


@app.command(epilog=example("gptmill export airflow recipes/demo.yaml --schedule '0 3 * * *' > ~/airflow/dags/demo.py"))
def airflow(
    recipe: RecipePath,
    overrides: Overrides = None,
    schedule: Schedule = None,
    start: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="First day of the schedule, UTC; nothing missed is made up for."),
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="A.B", help="Field that a run may be triggered with; may be given again."),
    ] = None,
    gptmill: Command = None,
) -> None:
    """Print a DAG file for Airflow 3.3 or newer. Airflow's environment needs no gptmill."""
    from pipelines.airflow import render_airflow
    from pipelines.export import open_export

    export = open_export(recipe, overrides or [], gptmill=gptmill, schedule=schedule, fields=fields or [])
    print(render_airflow(export, start=start or datetime(2026, 1, 1)), end="")


@app.command(epilog=example("gptmill export dagster recipes/demo.yaml > demo.py"))
def dagster(
    recipe: RecipePath, overrides: Overrides = None, schedule: Schedule = None, gptmill: Command = None
) -> None:
    """Print a file of Dagster assets. Dagster's environment needs no gptmill."""
    from pipelines.dagster import render_dagster
    from pipelines.export import open_export

    print(render_dagster(open_export(recipe, overrides or [], gptmill=gptmill, schedule=schedule)), end="")


@app.command(epilog=example("gptmill export skypilot recipes/demo.yaml --accelerators H100:8 > task.yaml"))
def skypilot(
    recipe: RecipePath,
    accelerators: Annotated[str | None, typer.Option(metavar="NAME:N", help="Of each machine; default: none.")] = None,
) -> None:
    """Print a task file for SkyPilot, which finds the machines, and starts again where they are taken away."""
    from jobs.launch.skypilot import task_file

    here = Path.cwd()
    if not recipe.absolute().is_relative_to(here):
        raise InputError(f"{recipe}: SkyPilot copies the working folder, {here}; give a recipe below it")
    path = recipe.absolute().relative_to(here)
    print(task_file(load(recipe, None), recipe_path=str(path), accelerators=accelerators), end="")
