"""Which raw files a corpus means: globs expanded, each file once, in a fixed order. Standard library only."""

import glob
import os
from pathlib import Path

from gpt_core.errors import InputError
from gpt_core.recipe import Corpus

FOREIGN = frozenset(
    {".arrow", ".avro", ".bz2", ".csv", ".lz4", ".parquet", ".tsv", ".warc", ".wet", ".xz", ".zip", ".zst"}
)


def expand_inputs(corpus: Corpus) -> list[tuple[int, str]]:
    """(index of the entry in corpus.inputs, path) of every raw file: entries in order, a glob's files by name.

    Raises InputError that names the entry for a file that is missing, unreadable, no JSONL or listed twice, and
    for a glob without files.
    """
    found: list[tuple[int, str]] = []
    seen: dict[str, int] = {}
    for index, entry in enumerate(corpus.inputs):
        field = f"corpus.inputs.{index}.path: {entry.path}"
        for path in _match(entry.path, field):
            _check(path, field)
            key = os.path.realpath(path)
            if key in seen:
                raise InputError(f"{field}: {path} is already read by corpus.inputs.{seen[key]}; leave one of them out")
            seen[key] = index
            found.append((index, path))
    return found


def stem(path: str) -> str:
    """The file's name without .gz and its extension: the source of records that name none."""
    return Path(path.removesuffix(".gz")).stem


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
    if Path(path.removesuffix(".gz")).suffix.lower() in FOREIGN:
        raise InputError(f"{field}: {path} is no JSONL file; give one JSON object a line, plain or .gz")
    if not os.access(path, os.R_OK):
        raise InputError(f"{field}: {path} may not be read; check its permissions")
