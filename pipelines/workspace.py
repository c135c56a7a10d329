"""What stands in a workspace: the outputs of all stages, whole and not, and what its recipes' last runs name.

A workspace is looked at by its own folders, and no link is followed: what it links to is not in it.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpt_core.artifact import MANIFEST, Manifest, read_manifest
from gpt_core.errors import ArtifactError, InputError
from gpt_core.fingerprint import SHORT, Json
from jobs.job import IDENTITY
from pipelines.gpt import STAGES
from pipelines.plan import RUNS

STAGE_NAMES = tuple(stage.name for stage in STAGES)
_OUTPUT_NAME = re.compile(rf"[0-9a-f]{{{SHORT}}}")
_OUTPUT_PATH = re.compile(rf"(?:^|/)({'|'.join(STAGE_NAMES)})/([0-9a-f]{{{SHORT}}})(?=/|$)")

Place = tuple[str, str]  # stage, first digits of the fingerprint: an output's last two names, in any workspace


@dataclass(frozen=True)
class Output:
    """An output folder. Without a manifest it is a killed attempt, or one that somebody makes; `damage` if unreadable.

    `changed` is the newest time of change in it, in Unix seconds.
    """

    root: Path
    manifest: Manifest | None
    damage: str | None
    size_bytes: int
    changed: float

    @property
    def place(self) -> Place:
        """Stage and name."""
        return self.root.parent.name, self.root.name

    @property
    def inputs(self) -> list[str]:
        """Fingerprints of what it is, or is being, made of."""
        identity: Json = self.manifest.identity if self.manifest is not None else _identity(self.root)
        inputs = identity.get("inputs") if isinstance(identity, dict) else None
        return [str(digest) for digest in inputs.values()] if isinstance(inputs, dict) else []


def open_workspace(path: Path) -> Path:
    """The workspace's folder, its own links resolved. Raises InputError for what is none."""
    if not any((path / name).is_dir() for name in (RUNS, *STAGE_NAMES)):
        raise InputError(f"--workspace: {path}: is no workspace; give the folder that a recipe names as `workspace`")
    return path.resolve()


def outputs_in(workspace: Path) -> Iterator[Output]:
    """Every output folder of the workspace."""
    for folder in stage_folders(workspace):
        for root in sorted(folder.iterdir()):
            if _OUTPUT_NAME.fullmatch(root.name) and root.is_dir() and not root.is_symlink():
                yield _look(root)


def stage_folders(workspace: Path) -> list[Path]:
    """The folders of the stages that stand in the workspace itself."""
    folders = [workspace / name for name in STAGE_NAMES]
    return [folder for folder in folders if folder.is_dir() and not folder.is_symlink()]


def run_folders(workspace: Path) -> list[Path]:
    """runs/NAME of every recipe that ran."""
    runs = workspace / RUNS
    if runs.is_symlink() or not runs.is_dir():
        return []
    return [folder for folder in sorted(runs.iterdir()) if folder.is_dir() and not folder.is_symlink()]


def named_places(workspace: Path) -> dict[Place, str]:
    """The outputs that a recipe's last run names, by link or in outputs.json, each with that recipe's name.

    Wherever a link leads, it names an output of this workspace by its last two names alone.
    """
    named: dict[Place, str] = {}
    for folder in run_folders(workspace):
        told = [str(link.readlink()) for link in folder.iterdir() if link.is_symlink()]
        index = folder / "outputs.json"
        try:
            told += map(str, json.loads(index.read_text(encoding="utf-8")).values()) if index.exists() else []
        except (ValueError, AttributeError):
            raise ArtifactError(f"{index}: is no list of outputs; delete it and run the recipe again") from None
        named |= {place: folder.name for text in told for place in places_in(text)}
    return named


def places_in(text: str) -> list[Place]:
    """The outputs that a path or URI leads to or into."""
    return [(match[1], match[2]) for match in _OUTPUT_PATH.finditer(text)]


def measure(path: Path) -> tuple[int, float]:
    """(bytes, newest time of change) of a file, link or folder; no link is followed."""
    paths = [path]
    if path.is_dir() and not path.is_symlink():
        paths += [Path(folder, name) for folder, folders, files in os.walk(path) for name in (*folders, *files)]
    size, changed = 0, 0.0
    for each in paths:
        with suppress(FileNotFoundError):  # somebody makes it
            status = each.lstat()
            size, changed = size + status.st_size, max(changed, status.st_mtime)
    return size, changed


def _look(root: Path) -> Output:
    size, changed = measure(root)
    try:
        return Output(root, read_manifest(root), None, size, changed)
    except (ArtifactError, OSError) as error:
        return Output(root, None, f"{MANIFEST} cannot be used: {error}", size, changed)


def _identity(root: Path) -> Json:
    try:
        identity: Json = json.loads((root / IDENTITY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return identity
