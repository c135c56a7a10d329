"""Slurm: a stage as a batch job, by sbatch, squeue, scontrol, sacct and scancel on the machine that this runs on.

A job has one task a node; of a training over several nodes that is torchrun (jobs/node.py), which starts the node's
ranks. All nodes and this machine see the workspace under the same path.

- One job a stage: it is named as the attempt is, jobs of one name and user never run side by side (singleton), and one
  that starts when the manifest stands ends at once. slurmctld tells which jobs there are; it forgets them some minutes
  after their end (MinJobAge), and then slurmdbd, where there is one, tells how they ended.
- What Slurm stores of a job's environment is SETTINGS, which hold no secret. Credentials of MLflow and of object stores
  go through OUT/environment.json, which this user alone can read.
- Slurm may requeue a job, when a node fails or others go before it; it then goes on from what stands in the output. A
  training near its time limit gets SIGTERM and keeps a checkpoint.
"""

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gpt_core.artifact import MANIFEST
from gpt_core.errors import SetupError, StageError
from gpt_core.recipe import Cluster, Recipe
from jobs.environment import python_environment, training_environment
from jobs.job import ENVIRONMENT, ERROR, write_environment
from jobs.launch.slurm_queue import RefusedError, ask, attempts_at, find, partitions
from jobs.launch.slurm_script import SCRIPT
from jobs.launch.spec import SLURM_LOGS, submission_id
from jobs.launch.target import AlreadySubmittedError, Attempt

PROCESSES, TRAININGS = ("tokenizer", "evaluate"), ("pretrain", "finetune")
COMMANDS = ("sbatch", "squeue", "scontrol", "scancel")
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 20.0  # between two questions: one slurmctld answers everybody
LOG_SECONDS = 0.5
KEEP_SECONDS = 120  # between SIGTERM and the time limit of a training
SETTINGS = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "XDG_CACHE_HOME"),
        *("SLURM_CONF", "NUMBA_CACHE_DIR", "OMP_NUM_THREADS", "CUDA_HOME", "GLIBC_TUNABLES"),
    }
)
SETTINGS_OF = ("SBATCH_", "NCCL_", "GLOO_", "TORCH_", "PET_", "DEEPSPEED_", "DS_")
CREDENTIALS_OF = ("MLFLOW_", "AWS_", "FSSPEC_", "GOOGLE_")


class SlurmTarget:
    """The Slurm whose commands are on PATH."""

    def __init__(self, cluster: Cluster) -> None:
        require_commands()
        self.cluster = cluster
        self.pause_seconds = 0.0
        self.marks: tuple[int, ...] = ()  # when what a job writes at its end was written
        self.passed_on: dict[str, int] = {}  # bytes of each job's log
        self.reason = ""  # why the job waits, as last told

    def latest(self, name: str) -> Attempt | None:
        """This user's attempt that lives, else the last that slurmctld knows."""
        found = attempts_at(name)
        living = [one for one in found if not one.ended]  # younger ones may have withdrawn
        return next(iter(living or found[-1:]), None)

    def submit(self, attempt: str, command: Sequence[str], output: Path) -> str:
        """The job's id. Raises AlreadySubmittedError where an older job of the stage lives, which goes on."""
        _hand_over(output)
        (output / SLURM_LOGS).mkdir(exist_ok=True)
        sbatch = sbatch_command(attempt, command, output, self.cluster)
        try:
            told = ask(sbatch, script=SCRIPT, environment=job_environment(output, self.cluster))
            native_id = told.strip().partition(";")[0]
            older = [one for one in attempts_at(submission_id(output)) if int(one.native_id) < int(native_id)]
        except RefusedError as error:
            raise StageError(f"sbatch: {error}; see cluster.slurm") from None
        if any(not one.ended for one in older):
            self.cancel(native_id)
            raise AlreadySubmittedError
        return native_id

    def look(self, native_id: str) -> Attempt:
        """How the job is; `lost` where neither slurmctld nor slurmdbd knows it."""
        attempt = find(native_id)
        if attempt.ended:
            self.pause_seconds = 0.0
        elif attempt.state == "pending" and attempt.message not in ("", self.reason):
            self.reason = attempt.message
            print(f"the job {native_id} waits: {self.reason}", flush=True)
        return attempt

    def pass_on(self, native_id: str, output: Path) -> None:
        """What the log got stands on stdout; returns after a pause, or once the job has written how it ended."""
        if not self.marks:  # it may wait, and a runner that attached to it has written a new environment.json
            _hand_over(output)
        until = time.monotonic() + self.pause_seconds
        self.pause_seconds = min(max(1.5 * self.pause_seconds, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        while True:
            self._copy_log(output / SLURM_LOGS / f"{native_id}.log", native_id)
            marks = tuple(_changed_ns(output / name) for name in (MANIFEST, ERROR))
            if marks != self.marks:
                self.marks, self.pause_seconds = marks, FIRST_PAUSE_SECONDS
                return
            if time.monotonic() >= until:
                return
            time.sleep(LOG_SECONDS)

    def cancel(self, native_id: str) -> None:
        """All of the job's processes get SIGTERM, and SIGKILL after Slurm's KillWait."""
        ask(["scancel", native_id])

    def _copy_log(self, log: Path, native_id: str) -> None:
        try:
            with log.open("rb") as stream:
                stream.seek(self.passed_on.get(native_id, 0))
                new = stream.read()
        except FileNotFoundError:  # the job waits
            return
        self.passed_on[native_id] = self.passed_on.get(native_id, 0) + len(new)
        sys.stdout.flush()
        sys.stdout.buffer.write(new)
        sys.stdout.buffer.flush()


def sbatch_command(attempt: str, command: Sequence[str], output: Path, cluster: Cluster) -> list[str]:
    """What submits the job; SCRIPT goes to its standard input."""
    once = [f"--job-name={attempt}", "--dependency=singleton", "--requeue", "--export=ALL"]
    files = [f"--chdir={output}", f"--output={output / SLURM_LOGS / '%j.log'}", "--open-mode=append"]
    sbatch = ["sbatch", "--parsable", *once, *files, *requested(output.parent.name, cluster), "/dev/stdin"]
    archived = cluster.archive is not None  # its Python is then found on the node
    return [*sbatch, str(output / MANIFEST), cluster.archive or "", *command[1 if archived else 0 :]]


def requested(stage: str, cluster: Cluster) -> list[str]:
    """sbatch's options that say which machines a stage gets, for how long, and who pays."""
    slurm, train = cluster.slurm, cluster.train
    training = stage in TRAININGS
    nodes = f"{train.min_nodes}-{train.nodes}" if train.min_nodes is not None else str(train.nodes)
    minutes = cluster.limits.minutes_of(stage)
    options: dict[str, object] = {
        "--partition": slurm.partition,
        "--account": slurm.account,
        "--qos": slurm.qos,
        "--constraint": slurm.constraint,
        "--nodes": nodes if training else 1,
        "--ntasks-per-node": 1,
        "--cpus-per-task": slurm.cpus_per_task,
        "--gpus-per-node": (slurm.gpus_per_node or None) if training else None,
        "--mem": slurm.memory,
        "--time": None if minutes is None else math.ceil(minutes),
    }
    if training and minutes is not None:
        options["--signal"] = f"TERM@{min(KEEP_SECONDS, math.ceil(30 * minutes))}"
    return [f"{name}={value}" for name, value in options.items() if value is not None]


def job_environment(output: Path, cluster: Cluster) -> dict[str, str]:
    """What sbatch runs with, and Slurm therefore stores: settings alone, and where this code is without an archive."""
    kept = {k: v for k, v in os.environ.items() if k in SETTINGS or k.startswith(SETTINGS_OF)}
    own = training_environment() if output.parent.name in TRAININGS else {}
    code = python_environment()
    if cluster.archive is not None:
        del code["PYTHONPATH"]
    return {**kept, **own, **code}


def check_slurm(recipe: Recipe) -> None:
    """Slurm would take every stage that the recipe sends there. Raises SetupError that says why not."""
    cluster = recipe.cluster
    stages = [*(PROCESSES if cluster.process.launcher == "slurm" else ())]
    stages += [*(TRAININGS if cluster.train.launcher == "slurm" else ())]
    if not stages:
        return
    require_commands()
    try:
        ask(["scontrol", "ping"])
    except OSError as error:
        raise SetupError(
            f"slurmctld does not answer: {error}; ask `scontrol ping`, and set SLURM_CONF where slurm.conf is not "
            "Slurm's own"
        ) from None
    for stage in stages:
        try:
            ask(["sbatch", "--test-only", *requested(stage, cluster), "/dev/stdin"], script=SCRIPT)
        except OSError as error:
            raise SetupError(
                f"cluster.slurm: sbatch would refuse {stage}: {error}; partitions: {partitions()}"
            ) from None


def require_commands() -> None:
    """Slurm's commands are on PATH. Raises SetupError where not."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        raise SetupError(
            f"launcher `slurm`: no {', '.join(missing)} on PATH; run this on a login node of the cluster, or install "
            "Slurm's commands (slurm-client)"
        )


def _hand_over(output: Path) -> None:
    """The job finds this process' credentials in environment.json, if there is a runner, who removes it in the end."""
    try:
        left = json.loads((output / ENVIRONMENT).read_text(encoding="utf-8"))
    except OSError:
        return
    ours = {name: value for name, value in os.environ.items() if name.startswith(CREDENTIALS_OF)}
    write_environment(output, {**ours, **left})


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
