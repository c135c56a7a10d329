"""How each stage of a recipe is, from what stands in its output folder and what the cluster says of its job.

Anybody who sees the workspace may ask, from any machine: the lease tells of a runner, handle.json of a submitted job,
progress.json how far it is, error.json why it failed.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gpt_core.errors import GptmillError
from gpt_core.fingerprint import Json, fingerprint
from gpt_core.recipe_file import load_recipe
from gpt_core.store_uri import without_secrets
from jobs.job import ERROR, LOG, PROGRESS, RECIPE
from jobs.launch.spec import Handle, read_handle
from jobs.launch.target import Attempt, Target, open_target
from pipelines.cancel_request import CANCELLED
from pipelines.display import describe_progress
from pipelines.lease import lease_owner
from pipelines.plan import PlannedStage

State = Literal["made", "running", "submitted", "failed", "cancelled", "not made"]


@dataclass(frozen=True)
class Submission:
    """The last job that a cluster got for an output. `attempt` is None where the cluster cannot be asked: `problem`."""

    handle: Handle
    attempt: Attempt | None = None
    problem: str | None = None

    @property
    def living(self) -> bool:
        """Whether it is, or may be, pending or running."""
        return self.attempt is None or not self.attempt.ended

    @property
    def asked(self) -> bool:
        """Whether its cluster has answered."""
        return self.attempt is not None

    def __str__(self) -> str:
        state = self.attempt.state if self.attempt else f"its state cannot be asked: {self.problem}"
        name, native = self.handle.name, self.handle.native_id
        return f"{self.handle.target} job {name if name == native else f'{name} ({native})'}, {state}"


@dataclass(frozen=True)
class StageState:
    """A stage as it is now. `runner` has host, pid and since of the process that holds the lease."""

    planned: PlannedStage
    state: State
    told: str  # one line, with the state
    runner: dict[str, Any] | None = None
    job: Submission | None = None
    progress: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def living(self) -> bool:
        """Whether somebody makes it."""
        return self.state in ("running", "submitted")


def stage_state(planned: PlannedStage) -> StageState:
    """The stage's state; its cluster is asked where a job was submitted and the stage is not made."""
    output = planned.output
    if planned.artifact is not None:
        manifest = planned.artifact.manifest
        size = sum(entry.size_bytes for entry in manifest.files)
        told = f"made {manifest.created_at}, {len(manifest.files)} files, {size / 1e6:,.1f} MB: {output}"
        return StageState(planned, "made", told)
    owner, progress, job = lease_owner(output), _read(output / PROGRESS), ask_cluster(output)
    if owner is not None:
        ours = job is not None and job.handle.submitted_at >= owner["since"]
        by = f"process {owner['pid']} on {owner['host']} since {owner['since']}{f'; {job}' if ours else ''}"
        told = f"running: {_describe(output, progress)} ({by})"
        return StageState(planned, "running", told, runner=owner, job=job if ours else None, progress=progress)
    error = _read(output / ERROR)
    if job is not None and job.living and (job.asked or not error):  # a follower may have given up
        told = f"submitted, and no runner follows it: {_describe(output, progress)} ({job})"
        return StageState(planned, "submitted", told, job=job, progress=progress)
    return _ended(planned, job, error)


def _ended(planned: PlannedStage, job: Submission | None, error: dict[str, Any]) -> StageState:
    """Nobody makes the stage, and it is not made: why."""
    answer = _read(planned.output / CANCELLED)
    if answer:
        told = f"cancelled by {answer['user']} on {answer['host']} at {answer['at']}"
        return StageState(planned, "cancelled", told, job=job)
    if error:
        first = str(error["message"]).partition("\n")[0]
        return StageState(planned, "failed", f"failed ({error['kind']}): {first}", job=job, error=error)
    if job is not None and job.attempt is not None and job.attempt.state == "stopped":
        return StageState(planned, "cancelled", f"cancelled on the cluster: {job}", job=job)
    if job is not None:
        return StageState(planned, "failed", f"failed, and no runner was there to tell why: {job}", job=job)
    if (planned.output / LOG).exists():
        told = "failed: whoever made it is gone, and did not tell why; see its log, or run again"
        return StageState(planned, "failed", told)
    return StageState(planned, "not made", f"not made: {planned.why}")


def ask_cluster(output: Path) -> Submission | None:
    """The last job that a cluster got for this output and how it is; None where none was submitted."""
    handle = read_handle(output)
    if handle is None:
        return None
    try:
        return Submission(handle, open_cluster(handle, output).look(handle.native_id))
    except (GptmillError, OSError) as error:
        return Submission(handle, problem=str(error).partition("\n")[0])


def open_cluster(handle: Handle, output: Path) -> Target:
    """The cluster that the job went to, as the recipe says with which it was submitted."""
    return open_target(handle.target, load_recipe(output / RECIPE).cluster)


def state_json(state: StageState) -> dict[str, Json]:
    """What `status --json` prints of a stage."""
    return {
        "stage": state.planned.stage.name,
        "state": state.state,
        "told": without_secrets(state.told),
        "output": str(state.planned.output),
        "fingerprint": fingerprint(state.planned.identity),
        "runner": state.runner,
        "job": _submission_json(state.job) if state.job is not None else None,
        "progress": state.progress or None,
        "error": state.error,
    }


def _submission_json(job: Submission) -> dict[str, Json]:
    attempt = job.attempt
    message = attempt.message if attempt is not None else job.problem
    return {**asdict(job.handle), "state": attempt.state if attempt is not None else None, "message": message}


def _describe(output: Path, report: dict[str, Any]) -> str:
    try:
        age = time.time() - (output / PROGRESS).stat().st_mtime
    except FileNotFoundError:
        return "starting"
    if not report:
        return "starting"
    state = describe_progress(report["done"], report["total"], report["unit"], rate=0, measures=report["measures"])
    return f"{state}, {age:.0f} s ago"


def _read(path: Path) -> dict[str, Any]:
    """What a note says; nothing where there is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content
