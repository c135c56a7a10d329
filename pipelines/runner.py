"""Runs a plan: stage after stage, each a job of its own, each whole before the next begins.

Killed at any time, by any signal, and started again, a run goes on behind the last whole stage. Nothing runs
twice, and a stage that two recipes share runs once.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from gpt_core.artifact import Artifact, open_artifact, write_atomically, write_json
from gpt_core.errors import GptmillError, PreemptedError, StageError, UserError
from gpt_core.recipe import Recipe
from jobs.environment import python_environment, training_environment
from jobs.job import ENVIRONMENT, ERROR, IDENTITY, LOG, RECIPE, RUNNER_PID
from jobs.tracking import page_command
from pipelines.checks import check_before_start, prepare_workspace
from pipelines.display import StageDisplay
from pipelines.lease import Lease
from pipelines.plan import RUNS, PlannedStage, make_plan
from pipelines.watch import Watcher, watch_run

POLL_SECONDS = 0.25
GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL of an interrupted stage
TORCHRUN_GRACE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"  # torchrun's own, which it gives its ranks for a checkpoint
TORCHRUN_GRACE_SECONDS = 30.0  # its default


@dataclass(frozen=True)
class RunResult:
    """What a run made: the outputs of all its whole stages, and which of them ran now."""

    artifacts: dict[str, Artifact]
    ran: list[str]
    report: Path | None
    tracking_command: str  # opens MLflow's page, or the run's address
    wall_seconds: float


def run_recipe(
    recipe: Recipe, *, console: Console, only: str | None = None, until: str | None = None, run_id: str | None = None
) -> RunResult:
    """Every chosen stage of the resolved `recipe` is whole, and the report tells of it; `run_id` is MLflow's.

    Raises UserError before anything starts for what can be known by then, StageError when a stage fails.
    """
    started = time.monotonic()
    prepare_workspace(Path(recipe.workspace))
    plan = make_plan(recipe, only=only, until=until)
    waiting = [planned for planned in plan if planned.action == "run"]
    check_before_start(recipe, plan)
    artifacts = {planned.stage.name: planned.artifact for planned in plan if planned.artifact}
    with watch_run(recipe, needed=bool(waiting), run_id=run_id) as watcher:
        for planned in plan:
            if planned.action == "skip":
                console.print(f"{planned.stage.name:<10} whole: {planned.why}", highlight=False)
                watcher.skipped(planned)
            elif planned.action == "run":
                artifacts[planned.stage.name] = _run_stage(planned, recipe, console=console, watcher=watcher)
            if planned.stage.name in artifacts:
                _point_to(recipe, planned)
        report = _report(recipe, artifacts, stale=bool(waiting))
        watcher.finished(report, artifacts)
    return RunResult(
        artifacts=artifacts,
        ran=[planned.stage.name for planned in waiting],
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


def _run_stage(planned: PlannedStage, recipe: Recipe, *, console: Console, watcher: Watcher) -> Artifact:
    name, output = planned.stage.name, planned.output
    output.mkdir(parents=True, exist_ok=True)
    with Lease(output):
        artifact = _finished_meanwhile(output)
        if artifact is not None:
            return artifact
        write_atomically(output / RECIPE, recipe.model_dump_json(indent=1) + "\n")
        write_json(output / IDENTITY, planned.identity)
        for stale in (ERROR, ENVIRONMENT):
            (output / stale).unlink(missing_ok=True)
        if not console.is_terminal:
            console.print(f"{name:<10} runs: {planned.why}", highlight=False)
        environment = watcher.started(planned)
        _open_to_others(output, environment)
        try:
            artifact = _run_job(planned, environment, console)
        except BaseException as error:
            watcher.failed(planned, error)
            if planned.stop_command and isinstance(error, KeyboardInterrupt | SystemExit):
                console.print(f"{name:<10} its Ray job goes on; run again to attach, or stop it:", highlight=False)
                console.print(shlex.join(planned.stop_command), highlight=False, soft_wrap=True)
            raise
        finally:
            (output / ENVIRONMENT).unlink(missing_ok=True)
        watcher.made(planned, artifact)
    seconds = artifact.manifest.wall_seconds
    console.print(f"{name:<10} made in {seconds:,.1f} s", highlight=False)
    return artifact


def _open_to_others(output: Path, environment: Mapping[str, str]) -> None:
    """Other machines may start their ranks, which read `environment`; only this user can, as the URI may be secret."""
    draft = output / f".{ENVIRONMENT}.{os.getpid()}"
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        json.dump(dict(environment), stream)
    draft.replace(output / ENVIRONMENT)


def _finished_meanwhile(output: Path) -> Artifact | None:
    """The output, if another runner made it since the plan; a damaged one makes way for a new attempt."""
    try:
        return open_artifact(output)
    except StageError:
        (output / "manifest.json").unlink()
        return None


def _run_job(planned: PlannedStage, environment: Mapping[str, str], console: Console) -> Artifact:
    """What the job made. What it prints goes to log.txt; raises its own error, or StageError with the log's end."""
    log = planned.output / LOG
    with log.open("w", encoding="utf-8") as stream:
        job = subprocess.Popen(
            planned.command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=job_environment(planned, environment),
            start_new_session=True,
        )
    try:
        with StageDisplay(console, stage=planned.stage.name, output=planned.output) as display:
            while job.poll() is None:
                display.update()
                time.sleep(POLL_SECONDS)
    except SystemExit:  # SIGTERM: that the stage has kept its work matters to who sent it
        stop_job(job, grace_seconds(planned))
        error = told_error(planned)
        if isinstance(error, PreemptedError):
            raise error from None
        raise
    finally:
        if job.poll() is None:
            stop_job(job, grace_seconds(planned))
    artifact = open_artifact(planned.output)
    if artifact is not None:  # the manifest is written last: with it, the exit code says nothing more
        return artifact
    if job.returncode == 0:
        raise StageError(f"{planned.stage.name}: the job ended without a manifest; its log is {log}")
    error = told_error(planned)
    if error is not None:
        raise error
    tail = "\n".join(f"  | {line}" for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    raise StageError(f"{planned.stage.name}: the job exited {job.returncode}; the whole log is {log}\n{tail}")


def told_error(planned: PlannedStage) -> GptmillError | None:
    """The error that the job wrote down, if it came to that."""
    try:
        told = json.loads((planned.output / ERROR).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    kind = {"user": UserError, "preempted": PreemptedError}.get(told["kind"], StageError)
    return kind(f"{planned.stage.name}: {told['message']}")


def grace_seconds(planned: PlannedStage) -> float:
    """How long after SIGTERM the stage may still save what it did."""
    if planned.stage.engine != "deepspeed":
        return GRACE_SECONDS
    return float(os.environ.get(TORCHRUN_GRACE, TORCHRUN_GRACE_SECONDS)) + GRACE_SECONDS


def job_environment(planned: PlannedStage, additions: Mapping[str, str]) -> dict[str, str]:
    """The environment of a stage's job that ends with this process."""
    own = training_environment() if planned.stage.engine == "deepspeed" else {}
    return {**os.environ, **python_environment(), **own, RUNNER_PID: str(os.getpid()), **additions}


def stop_job(job: "subprocess.Popen[bytes]", grace_seconds: float) -> None:
    """The job and all it started have ended, by SIGTERM or, after the grace, by SIGKILL."""
    with suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            job.wait(grace_seconds)
        os.killpg(job.pid, signal.SIGKILL)
    job.wait()


def _point_to(recipe: Recipe, planned: PlannedStage) -> None:
    """runs/{recipe name}/{stage} leads to the output; outputs.json says the same where links do not exist."""
    folder = Path(recipe.workspace) / RUNS / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    link, draft = folder / planned.stage.name, folder / f".{planned.stage.name}.{os.getpid()}"
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


def raise_on_sigterm() -> None:
    """A SIGTERM ends the run as Ctrl-C does: the stage is stopped and the lease given back.

    Exit code 75 where the stage has kept its work, 143 elsewhere.
    """

    def stop(*_: object) -> None:
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
