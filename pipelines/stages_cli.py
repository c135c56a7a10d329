"""`gptmill status`, `logs` and `cancel`: from any shell on any machine that sees the workspace."""

import json
from typing import Annotated

import typer
from rich.console import Console

from pipelines.options import Overrides, RecipePath, load
from pipelines.plan import PlannedStage, find_stage, make_plan

StageName = Annotated[str | None, typer.Argument(metavar="[STAGE]", show_default=False)]


def status(
    recipe: RecipePath,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what of a recipe is made, is being made and by whom, waits on a cluster, failed or was cancelled."""
    from pipelines.status import stage_state, state_json

    states = [stage_state(planned) for planned in make_plan(load(recipe, overrides))]
    if as_json:
        print(json.dumps([state_json(state) for state in states], indent=1))
        return
    for state in states:
        print(f"{state.planned.stage.name:<10} {state.told}")


def logs(
    recipe: RecipePath,
    stage: StageName = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Until it ends: exit 0 when it is made, 3 when it failed.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Show the log of a stage: the given one, else the one that is being made, else the last that was."""
    from pipelines.logs import choose_stage, follow_log, show_log

    resolved = load(recipe, overrides)
    plan = make_plan(resolved)
    planned = find_stage(plan, stage, origin="STAGE") if stage is not None else choose_stage(plan)
    if follow:
        follow_log(planned, plan, resolved)
    else:
        show_log(planned)


def cancel(recipe: RecipePath, stage: StageName = None, overrides: Overrides = None) -> None:
    """Stop a stage, or all of a recipe that are being made, here, elsewhere or on a cluster. They can go on later."""
    from pipelines.stop import stop_stage

    plan = make_plan(load(recipe, overrides))
    chosen: list[PlannedStage] = [find_stage(plan, stage, origin="STAGE")] if stage is not None else plan
    console = Console()
    stopped = [planned for planned in chosen if stop_stage(planned, console)]
    if not stopped:
        console.print(f"nothing runs{f' of {stage}' if stage else ''}", highlight=False)
