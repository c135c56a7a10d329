"""The workspace's disk: whether it keeps the promises that leases and manifests stand on, and has room for a recipe."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gpt_core.errors import SetupError
from gpt_core.recipe import Recipe
from gpt_core.report.units import size
from pipelines.finding import Finding
from pipelines.plan import PlannedStage
from pipelines.training_plan import plan_training

CLOCK_SECONDS = 5.0  # by which a file server's clock may differ before times look odd
COMPRESSED = (".gz", ".zst")
TEXT_OF_COMPRESSED = 3.2  # bytes of text a byte; the demo's JSONL in gzip
OF_TEXT = {"clean": 0.45, "dedup": 0.45, "shards": 1.2}  # bytes on disk a byte of text, with scratch: the demo's
OPTIMIZER_BYTES = 16  # a parameter, of a checkpoint of finetune
WEIGHT_BYTES = 4
TRY_LOCK = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"


def check_commits(workspace: Path) -> None:
    """A file that is written here is durable, appears at once or not at all, and a lock or link holds others off.

    Raises SetupError that names what the file system fails to do, and the way out.
    """
    probe = workspace / f".doctor-{os.getpid()}"
    shutil.rmtree(probe, ignore_errors=True)
    try:
        with _doing(workspace, "make a folder"):
            probe.mkdir()
        with _doing(workspace, "write durably (fsync)"):
            for name in ("old", "new"):
                _write(probe / name, name)
        with _doing(workspace, "replace a file in one step (rename)"):
            (probe / "new").replace(probe / "old")
            _require((probe / "old").read_text(encoding="utf-8") == "new", "the old file is still there")
        with _doing(workspace, "refuse to make what exists (hard link)"):
            os.link(probe / "old", probe / "lease")
            _require(not _links(probe / "old", probe / "lease"), "a second link was made")
        with _doing(workspace, "make symbolic links"):
            (probe / "link").symlink_to("old")
        with _doing(workspace, "lock files against other processes (flock)"), (probe / "old").open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            second = subprocess.run([sys.executable, "-c", TRY_LOCK, probe / "old"], capture_output=True, check=False)
            _require(second.returncode != 0, "another process got the lock, too")
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def clock_finding(workspace: Path) -> Finding | None:
    """A warning where the file server's clock is not this machine's."""
    probe = workspace / f".doctor-{os.getpid()}"
    probe.touch()
    ahead = probe.stat().st_mtime - time.time()
    probe.unlink()
    if abs(ahead) < CLOCK_SECONDS:
        return None
    told = f"the clock of its file server is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    return Finding("clock", True, f"{told}; set both by NTP", warning=True)


def disk_finding(recipe: Recipe, plan: Sequence[PlannedStage], workspace: Path) -> Finding:
    """Whether what the recipe has yet to make finds room. An estimate, from sizes of raw files and of the model."""
    free = shutil.disk_usage(workspace).free
    needs = {name: count for name, count in _needs(recipe, plan) if count}
    need = sum(needs.values())
    if not need:
        return Finding("disk", True, f"{size(free)} free below {workspace}; the recipe has nothing more to make")
    parts = ", ".join(f"{name} {size(count)}" for name, count in needs.items())
    told = f"{size(free)} free below {workspace}; the recipe makes about {size(need)} more"
    told += f" ({parts})" if len(needs) > 1 else ""
    way_out = "" if free >= need else "; make room (gptmill gc), or set `workspace:` to a larger disk"
    return Finding("disk", free >= need, told + way_out)


def _needs(recipe: Recipe, plan: Sequence[PlannedStage]) -> Iterator[tuple[str, float]]:
    """(stage, bytes it will write) of those that will run."""
    running = {planned.stage.name: planned for planned in plan if planned.action == "run"}
    text = _text_bytes(recipe, plan)
    for name, share in OF_TEXT.items():
        if name in running:
            yield name, share * text
    training = plan_training(recipe, plan)
    if training is not None:
        checkpoints = training.training.checkpoint_bytes() * training.training.checkpoints_kept()
        yield "pretrain", checkpoints + WEIGHT_BYTES * training.training.config.n_parameters
    made = {planned.stage.name: planned.artifact.manifest.counts for planned in plan if planned.artifact}
    parameters = training.training.config.n_parameters if training else made.get("pretrain", {}).get("parameters", 0)
    if "finetune" in running and recipe.finetune is not None:
        models = (2 if recipe.finetune.from_scratch_baseline else 1) * WEIGHT_BYTES
        yield "finetune", parameters * (models + OPTIMIZER_BYTES * (recipe.cluster.train.keep_checkpoints + 1))


def _text_bytes(recipe: Recipe, plan: Sequence[PlannedStage]) -> float:
    """Of the corpus as far as it is known: what dedup or clean kept, else the raw files, unpacked."""
    made = {planned.stage.name: planned.artifact.manifest.counts for planned in plan if planned.artifact}
    for stage in ("dedup", "clean"):
        if "text_bytes_kept" in made.get(stage, {}):
            return made[stage]["text_bytes_kept"]
    raw = [file.path for planned in plan for file in planned.stage.raw_files(recipe) if file.role == "corpus"]
    return sum(path.stat().st_size * (TEXT_OF_COMPRESSED if path.suffix in COMPRESSED else 1) for path in raw)


@contextmanager
def _doing(workspace: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"workspace: {workspace}: its file system does not {what}: {(error.strerror or str(error)).lower()}; runs "
            "need that: take a local disk, NFS 4, or Lustre mounted with -o flock"
        ) from None


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _links(source: Path, name: Path) -> bool:
    try:
        os.link(source, name)
    except FileExistsError:
        return False
    return True


def _require(held: bool, otherwise: str) -> None:
    if not held:
        raise OSError(otherwise)
