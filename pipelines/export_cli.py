"""`gptmill export`: a recipe as a file that a scheduler reads. Printed; nothing is started."""

from datetime import datetime
from typing import Annotated

import typer

from pipelines.options import Overrides, RecipePath, example

app = typer.Typer(
    help="Write a recipe for a scheduler: each stage a task that runs `gptmill run RECIPE --only STAGE`.",
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
