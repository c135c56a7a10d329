"""Runs a plan: stage after stage, each a job of its own, each whole before the next begins.

Killed at any time, by any signal, and started again, a run goes on behind the last whole stage. Nothing runs
twice, and a stage that two recipes share runs once.

A stage reads, at least by way of others, all that come before it, so that no two stages of a recipe can run at once.
Recipes of one workspace can: a runner each, which makes, awaits or takes over the stages that they share.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from rich.console import Console

from gpt_core.artifact import Artifact, write_atomically, write_json
from gpt_core.fingerprint import Json
from gpt_core.recipe import Recipe
from jobs.tracking import page_command
from pipelines.checks import check_before_start, prepare_workspace
from pipelines.events import Events
from pipelines.lease import busy, lease_owner, server_time
from pipelines.plan import RUNS, PlannedStage, make_plan
from pipelines.stage_job import Run, make_stage
from pipelines.watch import watch_run


@dataclass(frozen=True)
class RunResult:
    """What a run made: the outputs of all its whole stages, and which of them ran now."""

    artifacts: dict[str, Artifact]
    ran: list[str]
    report: Path | None
    tracking_command: str  # opens MLflow's page, or the run's address
    wall_seconds: float


def run_recipe(
    recipe: Recipe,
    *,
    console: Console,
    only: str | None = None,
    until: str | None = None,
    run_id: str | None = None,
    wait: bool = False,
    events: Events | None = None,
) -> RunResult:
    """Every chosen stage of the resolved `recipe` is whole, and the report tells of it; `run_id` is MLflow's.

    Raises UserError before anything starts for what can be known by then, StageError when a stage fails, BusyError
    where another runner makes one, unless it shall `wait`, and PreemptedError where one was cancelled.
    """
    started = time.monotonic()
    events = events or Events()
    prepare_workspace(Path(recipe.workspace))
    since = server_time(Path(recipe.workspace))
    plan = make_plan(recipe, only=only, until=until)
    waiting = [planned for planned in plan if planned.action == "run"]
    _tell_plan(recipe, plan, events)
    if waiting and not wait:
        _require_free(waiting[0])
    check_before_start(recipe, plan)
    artifacts = {planned.stage.name: planned.artifact for planned in plan if planned.artifact}
    ran: list[str] = []
    with watch_run(recipe, needed=bool(waiting), run_id=run_id) as watcher:
        if watcher.run is not None:
            events.tell("tracking", {"run_id": watcher.run.run_id, "page": watcher.page})
        run = Run(recipe=recipe, console=console, events=events, watcher=watcher, wait=wait, since=since)
        for planned in plan:
            name = planned.stage.name
            if planned.action == "skip":
                console.print(f"{name:<10} whole: {planned.why}", highlight=False)
                events.tell("skip", {"output": str(planned.output), "why": planned.why}, stage=name)
                watcher.skipped(planned, artifacts[name])
            elif planned.action == "run":
                artifacts[name], made = make_stage(planned, run)
                ran += [name] if made else []
            if name in artifacts:
                _point_to(recipe, planned)
        report = _report(recipe, artifacts, stale=bool(waiting))
        watcher.finished(report, artifacts)
    return RunResult(
        artifacts=artifacts,
        ran=ran,
        report=report,
        tracking_command=watcher.page or page_command(recipe),
        wall_seconds=time.monotonic() - started,
    )


def write_report(recipe: Recipe, artifacts: Mapping[str, Artifact]) -> Path:
    """report.html of this recipe's outputs stands beside their links. Returns its path."""
    from gpt_core.report.page import render_report  # jinja2 loads only where a page is made

    path = Path(recipe.workspace) / RUNS / recipe.name / "report.html"
    write_atomically(path, render_report(recipe, artifacts))
    return path


def _tell_plan(recipe: Recipe, plan: Sequence[PlannedStage], events: Events) -> None:
    stages: list[Json] = [
        {"stage": p.stage.name, "action": p.action, "why": p.why, "output": str(p.output)} for p in plan
    ]
    events.tell("plan", {"recipe": recipe.name, "workspace": recipe.workspace, "stages": stages})


def _require_free(planned: PlannedStage) -> None:
    """No other runner makes the stage. Raises BusyError: before MLflow learns of a run that makes nothing."""
    owner = lease_owner(planned.output)
    if owner is not None:
        raise busy(planned.output, owner)


def _point_to(recipe: Recipe, planned: PlannedStage) -> None:
    """runs/{recipe name}/{stage} leads to the output; outputs.json says the same where links do not exist."""
    folder = Path(recipe.workspace) / RUNS / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    link, draft = folder / planned.stage.name, folder / f".{planned.stage.name}.{uuid4().int}"
    target = os.path.relpath(planned.output, folder)
    if not link.is_symlink() or str(link.readlink()) != target:
        draft.symlink_to(target)
        draft.replace(link)
    index = folder / "outputs.json"
    outputs = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    if outputs.get(planned.stage.name) != str(planned.output):
        write_json(index, {**outputs, planned.stage.name: str(planned.output)})


def _report(recipe: Recipe, artifacts: Mapping[str, Artifact], *, stale: bool) -> Path | None:
    path = Path(recipe.workspace) / RUNS / recipe.name / "report.html"
    if stale or not path.exists():
        return write_report(recipe, artifacts) if artifacts else None
    return path
