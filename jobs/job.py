"""The contract of every job: one process, one engine, one output.

    python -m jobs.clean_corpus --recipe OUT/recipe.json --output OUT --inputs dedup=WORKSPACE/dedup/0123456789ab

The runner prepares the output folder: `recipe.json` (the resolved recipe) and `identity.json` (what the
fingerprint is taken of). The job empties it of a former attempt, writes its files, and last its manifest. Beside
them it keeps `progress.json` (how far it is) and, if it fails, `error.json` (why), which no manifest lists.

Under torchrun, DeepSpeed's launcher or Ray Train every rank runs the job; rank 0 alone, on whatever machine it is,
prepares, reports and writes the manifest. Ranks that another machine's runner or `gptmill join` started find what the
runner adds to a job's environment in `environment.json`.
"""

import argparse
import fcntl
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, NoReturn

import psutil

from gpt_core.artifact import (
    MANIFEST,
    Artifact,
    Manifest,
    list_files,
    open_artifact,
    utc_now,
    write_atomically,
    write_json,
    write_manifest,
)
from gpt_core.data.remote import folders_elsewhere
from gpt_core.errors import ArtifactError, GptmillError, PreemptedError, StageError, TransientError, UserError
from gpt_core.fingerprint import Json, fingerprint
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import load_recipe
from gpt_core.store_uri import without_secrets
from jobs.launch.spec import HANDLE, SLURM_LOGS
from jobs.lost_machine import explain_failure, spans_machines

RECIPE, IDENTITY, PROGRESS, ERROR, LOG = "recipe.json", "identity.json", "progress.json", "error.json", "log.txt"
ENVIRONMENT = "environment.json"
KINDS = {"user": UserError, "preempted": PreemptedError, "transient": TransientError}  # of error.json; else "stage"
CANCEL = "cancel.json"  # a request to the runner, see pipelines/cancel_request.py
KEPT_BETWEEN_ATTEMPTS = frozenset(
    {RECIPE, IDENTITY, ENVIRONMENT, LOG, CANCEL, HANDLE, SLURM_LOGS, ".attempt", ".lease"}
)
RUNNER_PID = "GPTMILL_RUNNER_PID"  # set by the local runner: its jobs end when it is gone, even by SIGKILL
RAY_RANK = "GPTMILL_RAY_RANK"
LAUNCHERS = ("TORCHELASTIC_RUN_ID", "CROSS_RANK", RAY_RANK)  # set for a rank by torchrun, DeepSpeed's launcher, ours
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 30.0  # for a killed attempt to be gone
PATIENCE_OVER_NODES_SECONDS = 120.0  # a file server holds the locks of a machine that is gone: NFS 4 for 90 seconds

logger = logging.getLogger("gptmill")


@dataclass(frozen=True)
class Outcome:
    """What a job made: `paths` are files or folders below the output, each file of which the manifest lists."""

    paths: Iterable[Path]
    counts: Mapping[str, int] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    schemas: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    engines: Iterable[str] = ()  # distributions whose versions the manifest records
    scratch: Iterable[Path] = ()  # what goes once the manifest stands: a killed attempt may need it


@dataclass
class Job:
    """One attempt at one stage, as the job's own code sees it."""

    recipe: Recipe
    inputs: Mapping[str, Artifact]
    output: Path
    rank: int
    _reported: float = 0.0

    def report(self, done: float, total: float | None, unit: str, **measures: float) -> None:
        """Anyone who looks sees that `done` of `total` units are made. Cheap: at most two writes a second."""
        now = time.monotonic()
        finished = total is not None and done >= total
        if self.rank or (now - self._reported < POLL_SECONDS and not finished):
            return
        self._reported = now
        state: dict[str, Json] = {"done": done, "total": total, "unit": unit, "measures": dict(measures)}
        write_atomically(self.output / PROGRESS, json.dumps(state, allow_nan=False) + "\n", durable=False)


def run_job(
    stage: str,
    make: Callable[[Job], Outcome],
    argv: list[str] | None = None,
    *,
    keeps: Iterable[str] = (),
    part: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Run `make` under the contract above and exit: 0 with a manifest, else with the error's code.

    `keeps` names what of a former attempt stays in the output: `make` goes on from there. Every rank calls `part` once
    its work is done, rank 0 behind the manifest.
    """
    arguments = _parse_arguments(stage, argv)
    _take_environment(arguments.output)
    rank = int(os.environ.get("RANK", "0"))
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(asctime)s %(message)s")
    end_with_runner()
    try:
        if not (_is_rank() and (arguments.output / MANIFEST).exists()):  # a rank failed behind the manifest
            _attempt(stage, make, arguments, rank, frozenset(keeps))
            part()
    except GptmillError as error:
        end_with_error(error, arguments.output)
    except Exception as error:
        if spans_machines() and not (arguments.output / ERROR).exists():
            told = explain_failure(error)
            if isinstance(told, TransientError):
                end_with_error(told, arguments.output)
            _tell(told, arguments.output)
        raise
    _leave(0)


def end_with_error(error: GptmillError, output: Path) -> NoReturn:
    """The process ends with the error's exit code; error.json and stderr say why."""
    _tell(error, output)
    print(f"error: {without_secrets(str(error))}", file=sys.stderr)
    _leave(error.exit_code)


def _tell(error: GptmillError, output: Path) -> None:
    kind = next((name for name, kind in KINDS.items() if isinstance(error, kind)), "stage")
    if output.is_dir():
        write_json(output / ERROR, {"kind": kind, "message": without_secrets(str(error))})


def _leave(code: int) -> NoReturn:
    if _is_rank():  # gloo's threads now and then abort in the interpreter's teardown
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _parse_arguments(stage: str, argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"The {stage} stage of gptmill.")
    parser.add_argument("--recipe", type=Path, required=True, help="the resolved recipe, JSON")
    parser.add_argument("--output", type=Path, required=True, help="the prepared output folder")
    parser.add_argument("--inputs", nargs="*", default=[], metavar="STAGE=PATH", help="outputs of earlier stages")
    return parser.parse_args(argv)


def _attempt(
    stage: str, make: Callable[[Job], Outcome], arguments: argparse.Namespace, rank: int, keeps: frozenset[str]
) -> None:
    started = time.monotonic()
    recipe = load_recipe(arguments.recipe)
    inputs = {}
    for item in arguments.inputs:
        name, _, path = item.partition("=")
        inputs[name] = _open_input(name, path, elsewhere=folders_elsewhere(recipe, name))
    job = Job(recipe=recipe, inputs=inputs, output=arguments.output, rank=rank)
    if rank:
        make(job)
        return
    patience = PATIENCE_SECONDS if recipe.cluster.train.nodes == 1 else PATIENCE_OVER_NODES_SECONDS
    with _only_attempt(job.output, keeps=keeps, patience_seconds=patience):
        usage = _Usage()
        outcome = make(job)
        cpu_seconds, peak_memory_bytes = usage.stop()
        identity = read_identity(job.output)
        write_manifest(
            job.output,
            Manifest(
                stage=stage,
                fingerprint=fingerprint(identity),
                identity=identity,
                recipe_name=recipe.name,
                created_at=utc_now(),
                inputs={name: str(artifact.root) for name, artifact in inputs.items()},
                files=list_files(job.output, outcome.paths),
                counts=dict(outcome.counts),
                figures=dict(outcome.figures),
                schemas={table: dict(columns) for table, columns in outcome.schemas.items()},
                versions=_versions(outcome.engines),
                command=[without_secrets(part) for part in (sys.executable, *sys.orig_argv[1:])],
                host=socket.gethostname(),
                git_commit=_git_commit(),
                wall_seconds=round(time.monotonic() - started, 3),
                cpu_seconds=round(cpu_seconds, 3),
                peak_memory_bytes=peak_memory_bytes,
            ),
        )
        for path in outcome.scratch:
            if path.is_file():
                path.unlink()
            else:
                shutil.rmtree(path, ignore_errors=True)  # a job that was quick made none


def _open_input(name: str, path: str, *, elsewhere: Sequence[str]) -> Artifact:
    artifact = open_artifact(Path(path), elsewhere=elsewhere) if path else None
    if artifact is None:
        raise StageError(f"--inputs {name}={path}: no {MANIFEST} there; run the stage {name} first")
    return artifact


def _is_rank() -> bool:
    """Whether a launcher of ranks started this process, its parent."""
    return any(name in os.environ for name in LAUNCHERS)


def write_environment(output: Path, values: Mapping[str, str]) -> None:
    """Jobs on other machines find `values`, which only this user can read: a store's URI may be secret."""
    with NamedTemporaryFile("w", dir=output, prefix=f".{ENVIRONMENT}.", delete=False) as draft:  # mode 600
        json.dump(dict(values), draft)
    Path(draft.name).replace(output / ENVIRONMENT)


def _take_environment(output: Path) -> None:
    """What the runner adds to the environment of its job is there in a rank of another machine too."""
    try:
        additions: dict[str, str] = json.loads((output / ENVIRONMENT).read_text(encoding="utf-8"))
    except OSError:  # no runner prepared it, or the environment is the runner's own and its run is over
        return
    os.environ.update(additions)


def read_identity(output: Path) -> dict[str, Json]:
    """What the output's fingerprint is taken of, as the runner prepared it."""
    try:
        identity: dict[str, Json] = json.loads((output / IDENTITY).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{output}: no {IDENTITY}; let `gptmill run` prepare the output folder") from None
    return identity


class _only_attempt:  # noqa: N801  used as a function in a with statement
    """Holds the output folder against another attempt on this file system, and empties it of a former one's files.

    The lock goes when the process goes, however it ends; a killed attempt may need a moment to be gone.
    """

    def __init__(self, output: Path, *, keeps: frozenset[str], patience_seconds: float) -> None:
        self.output = output
        self.kept = KEPT_BETWEEN_ATTEMPTS | keeps
        self.patience_seconds = patience_seconds
        self.lock: IO[str] | None = None

    def __enter__(self) -> None:
        read_identity(self.output)
        self.lock = (self.output / ".attempt").open("w")
        deadline = time.monotonic() + self.patience_seconds
        while True:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TransientError(f"{self.output}: another attempt at this stage is still running") from None
                time.sleep(POLL_SECONDS)
        for path in self.output.iterdir():
            if path.name not in self.kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def __exit__(self, *_: object) -> None:
        if self.lock is not None:
            self.lock.close()


class _Usage:
    """CPU seconds and peak resident memory of the job's processes on this machine: its tree, or all ranks' here."""

    def __init__(self) -> None:
        self.root = psutil.Process(os.getppid() if _is_rank() else os.getpid())
        self.peak_bytes = 0
        self.seen_centiseconds: dict[tuple[int, float], int] = {}  # of each process ever seen, without its children
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.ended.wait(POLL_SECONDS):
            self.peak_bytes = max(self.peak_bytes, sum(self._each(lambda process: process.memory_info().rss)))
            self._each(self._note_cpu)

    def _each(self, read: Callable[[psutil.Process], float]) -> list[int]:
        values = []
        for process in [self.root, *self.root.children(recursive=True)]:
            try:
                values.append(int(read(process)))
            except psutil.Error:  # it ended in between
                continue
        return values

    def _note_cpu(self, process: psutil.Process) -> int:
        centiseconds = int(100 * sum(process.cpu_times()[:2]))
        self.seen_centiseconds[process.pid, process.create_time()] = centiseconds
        return centiseconds

    def stop(self) -> tuple[float, int]:
        """(CPU seconds, peak bytes) so far; the watch ends.

        The system forgets processes whose parent did not wait for them, as Ray's workers; the watch misses the last
        moments of those that ended. Both sums are at most the truth, so the greater is nearer.
        """
        self.ended.set()
        self.thread.join()
        self._each(self._note_cpu)
        centiseconds = self._each(lambda process: 100 * sum(process.cpu_times()[:4]))
        return max(sum(centiseconds), sum(self.seen_centiseconds.values())) / 100, self.peak_bytes


def end_with_runner() -> None:
    """Where a local runner started this process, the process ends when that runner is gone."""
    pid = os.environ.get(RUNNER_PID)
    if pid is None:
        return
    runner = psutil.Process(int(pid)) if psutil.pid_exists(int(pid)) else None

    def watch() -> None:
        while runner is not None and runner.is_running() and runner.status() != psutil.STATUS_ZOMBIE:
            time.sleep(POLL_SECONDS)
        os._exit(PreemptedError.exit_code)

    threading.Thread(target=watch, daemon=True).start()


def _versions(engines: Iterable[str]) -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in sorted(engines)}
    return {"python": platform.python_version(), "gptmill": own_version(), **versions}


def own_version() -> str:
    """The version of gptmill: as installed, or of a checkout that is not (`mlflow run --env-manager uv`)."""
    try:
        return importlib.metadata.version("gptmill")
    except importlib.metadata.PackageNotFoundError:
        project = Path(__file__).parents[1] / "pyproject.toml"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])


def _git_commit() -> str | None:
    """The commit of the code that runs, or None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
