"""Which raw files a corpus means: globs expanded, each file once, in a fixed order. Standard library only."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt_core.errors import InputError
from gpt_core.recipe import Corpus, Fields

FORMATS = {
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
    ".wet": "wet",
    ".warc": "warc",
}
COMPRESSIONS = (".gz", ".zst")


@dataclass(frozen=True, slots=True)
class RawInput:
    """One raw file, and how its records are read."""

    entry: int  # in corpus.inputs
    path: str
    name: str  # what the places of its records call it
    format: str
    fields: Fields
    source: str | None  # of every record, where given


def expand_inputs(corpus: Corpus) -> list[RawInput]:
    """Every raw file: the entries of corpus.inputs in order, a glob's files by name.

    A file is called by its name; of several with one name each by its path from the folder that these have in common:
    no two are called the same, and files that move together keep what they are called.

    Raises InputError that names the entry for a file that is missing, unreadable, of unknown format or listed
    twice, and for a glob without files.
    """
    found: dict[str, tuple[int, str]] = {}  # path -> (entry, format)
    seen: dict[str, int] = {}
    for index, entry in enumerate(corpus.inputs):
        field = f"corpus.inputs.{index}.path: {entry.path}"
        for path in _match(entry.path, field):
            _check(path, field)
            key = os.path.realpath(path)
            if key in seen:
                raise InputError(f"{field}: {path} is already read by corpus.inputs.{seen[key]}; leave one of them out")
            seen[key] = index
            fmt = _format(path, field, index) if entry.format == "auto" else entry.format
            found[path] = (index, fmt)
    names, entries = _names(list(found)), corpus.inputs
    return [
        RawInput(index, path, name, fmt, entries[index].fields or corpus.fields, entries[index].source)
        for (path, (index, fmt)), name in zip(found.items(), names, strict=True)
    ]


def stem(path: str) -> str:
    """The file's name without its compression and its extension: the source of records that name none."""
    return Path(_uncompressed(path)).stem


def _names(paths: Sequence[str]) -> list[str]:
    """What each of the files, all different, is called."""
    # ".." stays: leaving it out would give two files one name where a link stands before it
    absolute = [Path(path).absolute() for path in paths]
    folders: dict[str, list[Path]] = {}
    for path in absolute:
        folders.setdefault(path.name, []).append(path.parent)
    common = {name: os.path.commonpath(found) for name, found in folders.items()}
    return [path.relative_to(common[path.name]).as_posix() for path in absolute]


def _uncompressed(path: str) -> str:
    for ending in COMPRESSIONS:
        path = path.removesuffix(ending)
    return path


def _match(path: str, field: str) -> list[str]:
    if Path(path).exists() or not glob.has_magic(path):
        return [path]
    names = glob.glob(path, recursive=True)  # noqa: PTH207  Path.glob refuses absolute patterns
    matches = sorted(name for name in names if Path(name).is_file())
    if not matches:
        raise InputError(f"{field}: no file matches; relative paths count from {Path.cwd()}")
    return matches


def _check(path: str, field: str) -> None:
    if not Path(path).exists():
        raise InputError(f"{field}: no such file; relative paths count from {Path.cwd()}")
    if not Path(path).is_file():
        raise InputError(f"{field}: is a folder; give a file, or a glob such as {Path(path) / '*.jsonl.gz'}")
    if not os.access(path, os.R_OK):
        raise InputError(f"{field}: {path} may not be read; check its permissions")


def _format(path: str, field: str, index: int) -> str:
    ending = Path(_uncompressed(path)).suffix.lower()
    if ending not in FORMATS:
        known = ", ".join(FORMATS)
        raise InputError(
            f"{field}: {path} has an ending that says no format (known: {known}, with .gz or .zst or without); "
            f"set corpus.inputs.{index}.format"
        )
    return FORMATS[ending]
