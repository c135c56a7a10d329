"""The process of a stage's job: its environment, how it is stopped, and what its end means."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress

from gpt_core.errors import GptmillError, PreemptedError, StageError
from jobs.environment import python_environment, training_environment
from jobs.job import ERROR, KINDS, LOG, RUNNER_PID
from pipelines.plan import PlannedStage

POLL_SECONDS = 0.25
GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL of an interrupted stage
TORCHRUN_GRACE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"  # torchrun's own, which it gives its ranks for a checkpoint
TORCHRUN_GRACE_SECONDS = 30.0  # its default
TAIL_LINES = 15
OUT_OF_MEMORY = "often the system's memory is too small"


def job_environment(planned: PlannedStage, additions: Mapping[str, str]) -> dict[str, str]:
    """The environment of a stage's job that ends with this process."""
    own = training_environment() if planned.stage.engine == "deepspeed" else {}
    return {**os.environ, **python_environment(), **own, RUNNER_PID: str(os.getpid()), **additions}


def grace_seconds(planned: PlannedStage) -> float:
    """How long after SIGTERM the stage may still save what it did."""
    if planned.stage.engine != "deepspeed":
        return GRACE_SECONDS
    return float(os.environ.get(TORCHRUN_GRACE, TORCHRUN_GRACE_SECONDS)) + GRACE_SECONDS


def stop_job(job: "subprocess.Popen[bytes]", grace_seconds: float) -> None:
    """The job and all it started have ended, by SIGTERM or, after the grace, by SIGKILL."""
    with suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            job.wait(grace_seconds)
        os.killpg(job.pid, signal.SIGKILL)
    job.wait()


def stop_on_cluster(planned: PlannedStage) -> None:
    """No job of the stage runs on a cluster. Raises StageError where the cluster does not say so in time."""
    if planned.stop_command is None:
        return
    patience = grace_seconds(planned) + 60
    try:
        done = subprocess.run(
            planned.stop_command,
            env=job_environment(planned, {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        told = f"its job on the cluster still runs, {patience:.0f} s after it was told to end"
        raise StageError(f"{planned.stage.name}: {told}") from None
    if done.returncode != 0:
        raise StageError(f"{planned.stage.name}: its job on the cluster may go on: {done.stdout.strip()}")


def told_error(planned: PlannedStage) -> GptmillError | None:
    """The error that the job wrote down, if it came to that."""
    try:
        told = json.loads((planned.output / ERROR).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return KINDS.get(told["kind"], StageError)(f"{planned.stage.name}: {told['message']}")


def error_of(planned: PlannedStage, returncode: int) -> GptmillError:
    """Why a job that ended without a manifest has failed: in its own words, or by its exit code and its log."""
    name, log = planned.stage.name, planned.output / LOG
    if returncode == 0:
        return StageError(f"{name}: the job ended without a manifest; its log is {log}")
    told = told_error(planned)
    if told is not None:
        return told
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
    tail = "\n".join([f"; the whole log is {log}", *(f"  | {line}" for line in lines)])
    if returncode < 0:
        hint = f": {OUT_OF_MEMORY}" if returncode == -signal.SIGKILL else ""
        return StageError(f"{name}: the job was killed by signal {-returncode}{hint}{tail}")
    hint = f" of a process killed by signal 9: {OUT_OF_MEMORY}" if "(SIGKILL)" in tail else ""  # torchrun's words
    kind = PreemptedError if returncode == PreemptedError.exit_code else StageError
    return kind(f"{name}: the job exited {returncode}{hint}{tail}")
