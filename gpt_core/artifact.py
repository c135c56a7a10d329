"""Stage outputs: a folder is whole when, and only when, its manifest.json stands there.

An engine writes its files anywhere below the output folder; the manifest is written last and lists each of
them with size and SHA-256. Readers open only what the manifest lists, so that a killed attempt leaves rubbish
and never a half result. The manifest also keeps what the output is (identity and fingerprint), what came in
and went out (counts, figures) and what it took (versions, seconds, memory).
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from gpt_core.errors import ArtifactError
from gpt_core.fingerprint import Json, file_sha256, fingerprint

MANIFEST = "manifest.json"
FORMAT_VERSION = 1


class FileEntry(BaseModel):
    """One file of an output. `path` is relative to the output folder, with forward slashes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: str

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if not parts or ".." in parts or parts[0] == "/" or "\\" in path or "\0" in path:
            raise ValueError(f"{path!r} leaves the output")
        return path


class Manifest(BaseModel):
    """What an output is, what is in it and what it took. Only `identity` gives the fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    stage: str
    fingerprint: str = Field(description="SHA-256 of the canonical JSON of `identity`.")
    identity: dict[str, Json] = Field(description="The stage's slice of the recipe, its inputs, its revision.")
    recipe_name: str
    created_at: str = Field(description="UTC, ISO 8601.")
    inputs: dict[str, str] = Field(description="Name of an input -> where it was read.")
    files: tuple[FileEntry, ...]
    counts: dict[str, int] = Field(description="Whole numbers: documents, tokens, parameters.")
    figures: dict[str, float] = Field(description="Measures: losses, accuracies, rates.")
    schemas: dict[str, dict[str, str]] = Field(description="Table -> column -> type.")
    versions: dict[str, str] = Field(description="Of Python, gptmill and the engines used.")
    command: list[str]
    host: str
    git_commit: str | None
    wall_seconds: float
    cpu_seconds: float = Field(description="Of the job's process and its ended children.")
    peak_memory_bytes: int = Field(description="Resident, of the job's process tree, sampled.")


@dataclass(frozen=True)
class Artifact:
    """A whole output: its folder and its verified manifest."""

    root: Path
    manifest: Manifest

    def file(self, path: str) -> Path:
        """The listed file `path`. Raises ArtifactError if the manifest does not list it."""
        if all(entry.path != path for entry in self.manifest.files):
            raise ArtifactError(f"{self.root}: the manifest lists no {path}")
        return self.root / path

    def files(self, prefix: str) -> list[Path]:
        """All listed files below the folder `prefix`, sorted by path."""
        return sorted(self.root / entry.path for entry in self.manifest.files if entry.path.startswith(f"{prefix}/"))

    def has(self, path: str) -> bool:
        """Whether the manifest lists the file `path`."""
        return any(entry.path == path for entry in self.manifest.files)

    def verify(self) -> None:
        """Every listed file has its size and checksum. Raises ArtifactError that names the first that has not."""
        for entry in self.manifest.files:
            problem = find_damage(self.root, entry)
            if problem is not None:
                raise ArtifactError(f"{self.root / entry.path}: {problem}; delete {self.root} and run again")


def open_artifact(root: Path, *, elsewhere: Sequence[str] = ()) -> Artifact | None:
    """The output in `root`, or None where no manifest stands.

    Sizes are checked, checksums are not (Artifact.verify does). The files of the folders `elsewhere` may be missing,
    since they are read from a copy; one that is there must have its size as all others. Raises ArtifactError for a
    manifest that cannot be read, whose fingerprint is not that of its identity, or that lists a file which is gone or
    of another size.
    """
    manifest = read_manifest(root)
    if manifest is None:
        return None
    for entry in manifest.files:
        if entry.path.partition("/")[0] in elsewhere and not (root / entry.path).exists():
            continue
        problem = find_wrong_size(root, entry)
        if problem is not None:
            raise ArtifactError(f"{root / entry.path}: {problem}; delete {root} and run again")
    return Artifact(root, manifest)


def read_manifest(root: Path) -> Manifest | None:
    """The manifest in `root`, or None where there is none; no file that it lists is looked at.

    Raises ArtifactError for a manifest that cannot be read or whose fingerprint is not that of its identity.
    """
    path = root / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ArtifactError(
            f"{path}: not a manifest of format {FORMAT_VERSION} ({error.error_count()} problems, first {where}: "
            f"{first['msg']}); delete {root} and run again"
        ) from None
    if manifest.fingerprint != fingerprint(dict(manifest.identity)):
        raise ArtifactError(f"{path}: the fingerprint is not that of the identity; delete {root} and run again")
    return manifest


def find_damage(root: Path, entry: FileEntry) -> str | None:
    """What is wrong with a listed file: gone, of another size or with another checksum; None if nothing is."""
    problem = find_wrong_size(root, entry)
    if problem is None and file_sha256(root / entry.path) != entry.sha256:
        return "the checksum differs from the manifest's"
    return problem


def find_wrong_size(root: Path, entry: FileEntry) -> str | None:
    """What is wrong with a listed file at a glance: gone, or of another size; None if neither."""
    file = root / entry.path
    size = file.stat().st_size if file.is_file() else None
    if size == entry.size_bytes:
        return None
    found = "is missing" if size is None else f"has {size} bytes"
    return f"{found}, the manifest says {entry.size_bytes}"


def list_files(root: Path, paths: Iterable[Path]) -> tuple[FileEntry, ...]:
    """Entries, sorted by path, for all files among and below `paths`, which lie inside `root`."""
    found: set[Path] = set()
    for path in paths:
        found.update(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else found.add(path)
    return tuple(
        FileEntry(path=file.relative_to(root).as_posix(), size_bytes=file.stat().st_size, sha256=file_sha256(file))
        for file in sorted(found)
    )


def write_manifest(root: Path, manifest: Manifest) -> None:
    """`root` is whole from now on: the manifest appears in one step, durable on disk."""
    write_atomically(root / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """`path` holds `text`, or what it held before; never a part. Durable on return, unless that is not wanted.

    Durable takes some 10 ms of a disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid4().int}")  # process ids of two machines may be alike
    with draft.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        if durable:
            os.fsync(stream.fileno())
    draft.replace(path)


def write_json(path: Path, value: Mapping[str, Json]) -> Path:
    """`path` holds `value` as indented JSON. Returns `path`."""
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def utc_now() -> str:
    """The time now in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
