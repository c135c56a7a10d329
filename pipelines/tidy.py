"""Removes from a workspace what nobody needs: rubbish of killed attempts, and results that nothing leads to.

What is being made, or may be, stays: an output whose lease, cluster job or lock is held, and everything that changed
within the last hour. Where a registry cannot be asked, no result goes. Whatever goes, goes under its stage's lease, and
its manifest first, so that a half-removed result never looks whole. No link is followed.
"""

import fcntl
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gpt_core.artifact import MANIFEST
from gpt_core.errors import ArtifactError, BusyError
from jobs.job import ENVIRONMENT
from pipelines.lease import LEASE, Lease, lease_owner
from pipelines.needed import Kin, registered_models
from pipelines.status import ask_cluster
from pipelines.workspace import Output, measure, named_places, outputs_in, run_folders, stage_folders

LEAST_AGE_SECONDS = 3_600.0  # of all that goes: a runner may be preparing it
DAY_SECONDS = 86_400.0
RESUMABLE_DAYS = 7.0
FAILED = "cannot be removed"
ATTEMPT = ".attempt"  # locked by a job that runs
SCRATCH = {"clean": ("spark-scratch",), "dedup": ("spark-scratch",), "shards": ("runs",)}  # of whole outputs
# Of write_atomically, the lease, probes of the disk, and write_environment.
_DRAFT = re.compile(r"\..+\.\d+|\.(lease|clock|write)-.+|\.environment\.json\..+")

Kind = Literal["attempt", "result", "scratch", "draft"]


@dataclass(frozen=True)
class Item:
    """What can go: a path, why, and how much that frees. `changed` in Unix seconds."""

    path: Path
    kind: Kind
    why: str
    size_bytes: int
    changed: float


@dataclass
class Findings:
    """What of a workspace can go, and what a reader must know of what cannot."""

    items: list[Item] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_rubbish(workspace: Path, *, keep_days: float | None = None) -> Findings:
    """All that can go from the workspace and was not changed in the last `keep_days`, at least not in the last hour.

    Without `keep_days` a training that can go on from a checkpoint stays for RESUMABLE_DAYS. MLflow is asked only where
    a result might go.
    """
    outputs, named, found = list(outputs_in(workspace)), named_places(workspace), Findings()
    kin, kept, results = Kin(outputs), list[Output](), list[Output]()
    for output in outputs:
        why_not = _why_not(output, keep_days)
        if why_not is None and output.manifest is None:
            why = "killed attempt: no manifest, and nobody makes it"
            found.items.append(Item(output.root, "attempt", why, output.size_bytes, output.changed))
        elif why_not is None and output.place not in named:
            results.append(output)
        else:
            kept.append(output)
            if why_not and (output.manifest is None or output.damage):
                found.notes.append(f"left alone: {'/'.join(output.place)}: {why_not}")
    _add_results(workspace, kin, kept, results, found)
    going = {item.path for item in found.items}
    found.items += _small_rubbish(workspace, [output for output in outputs if output.root not in going], keep_days)
    return found


def remove(item: Item, workspace: Path) -> str | None:
    """The item is gone from the workspace; or stays, and what is returned says why."""
    if item.path.parent.resolve() != item.path.parent or not item.path.is_relative_to(workspace):
        return "leads out of the workspace"
    try:
        if item.kind in ("attempt", "result"):
            return _remove_output(item, workspace)
        if item.path.parent.parent in stage_folders(workspace):
            with Lease(item.path.parent):
                _delete(item.path)
        else:
            _delete(item.path)
    except BusyError as error:
        return f"is in use by now: {error}"
    except OSError as error:
        return f"{FAILED}: {error.filename}: {error.strerror or error}"
    return None


def _why_not(output: Output, keep_days: float | None) -> str | None:
    """Why an output must stay, whoever needs it or not; None where it need not."""
    if output.damage is not None:
        return output.damage
    owner = lease_owner(output.root)
    if owner is not None:
        return f"process {owner['pid']} on {owner['host']} makes it"
    resumable = output.manifest is None and (output.root / "checkpoints" / "latest").exists()
    days = (RESUMABLE_DAYS if resumable else 0.0) if keep_days is None else keep_days
    if not _is_old(output.changed, days):
        return f"goes on from its checkpoint; kept for {days:g} days" if resumable else "changed not long ago"
    if output.manifest is not None:
        return None
    try:
        job = ask_cluster(output.root)
    except ArtifactError as error:
        return str(error)
    if job is not None and job.living:
        return f"the {job}"
    with _attempt_lock(output.root) as free:
        return None if free else "a job runs in it"


def _is_old(changed: float, keep_days: float) -> bool:
    return changed < time.time() - max(LEAST_AGE_SECONDS, keep_days * DAY_SECONDS)


def _add_results(workspace: Path, kin: Kin, kept: Sequence[Output], results: Sequence[Output], found: Findings) -> None:
    """Those of `results` that nothing kept is made of can go, unless a registered model is."""
    needed = kin.ancestry(kept)
    unnamed = [output for output in results if output.root not in needed]
    if not unnamed:
        return
    registered = registered_models(workspace, kin)
    if registered.problems:
        found.notes += [f"no result is removed: {problem}" for problem in registered.problems]
        return
    of_models = kin.ancestry(output for output in kin.outputs if output.root in registered.models)
    staying = [output for output in unnamed if output.root in of_models]
    if staying:
        names = ", ".join(sorted(set(registered.models.values())))
        found.notes.append(f"{len(staying)} results that no run names stay, for registered models need them: {names}")
    for output in unnamed:
        if output.root not in of_models:
            assert output.manifest is not None
            why = f"result of {output.manifest.recipe_name}: no recipe's last run names it, no model descends from it"
            found.items.append(Item(output.root, "result", why, output.size_bytes, output.changed))


def _small_rubbish(workspace: Path, outputs: Sequence[Output], keep_days: float | None) -> Iterator[Item]:
    """Drafts, scratch files and stale leases that killed processes left beside what stays."""
    for folder in (workspace, *stage_folders(workspace), *run_folders(workspace)):
        yield from _items(filter(_is_draft, folder.iterdir()), "draft", "draft of a killed process", keep_days)
    for output in outputs:
        if output.manifest is None or lease_owner(output.root) is not None:
            continue
        left = [path for path in output.root.iterdir() if _is_draft(path) or path.name in (LEASE, ENVIRONMENT)]
        yield from _items(left, "draft", "left by a killed runner", keep_days)
        scratch = [output.root / name for name in SCRATCH.get(output.root.parent.name, ())]
        listed = {entry.path.partition("/")[0] for entry in output.manifest.files}
        left = [path for path in scratch if path.is_dir() and path.name not in listed]
        yield from _items(left, "scratch", "scratch files of a killed job", keep_days)


def _items(paths: Iterable[Path], kind: Kind, why: str, keep_days: float | None) -> Iterator[Item]:
    for path in paths:
        size, changed = measure(path)
        if _is_old(changed, keep_days or 0.0):
            yield Item(path, kind, why, size, changed)


def _is_draft(path: Path) -> bool:
    return _DRAFT.fullmatch(path.name) is not None and (path.is_symlink() or path.is_file())


def _remove_output(item: Item, workspace: Path) -> str | None:
    root = item.path
    with Lease(root), _attempt_lock(root) as free:
        if not free:
            return "a job runs in it by now"
        if item.kind == "attempt" and (root / MANIFEST).exists():
            return "is made by now"
        if (root.parent.name, root.name) in named_places(workspace) and item.kind == "result":
            return "a recipe's run names it by now"
        (root / MANIFEST).unlink(missing_ok=True)
        for path in root.iterdir():
            if path.name != LEASE:
                _delete(path)
    with suppress(OSError):  # a runner begins it anew
        root.rmdir()
    return None


def _delete(path: Path) -> None:
    """The file, link or folder is gone; what a link leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _attempt_lock(root: Path) -> Iterator[bool]:
    """Whether no job works in the output, which none begins to before the block ends."""
    try:
        lock = (root / ATTEMPT).open("rb+")
    except FileNotFoundError:
        yield True
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
