"""The per-file halves of `dedup`: what tasks read, and write, of the documents' files."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from gpt_core.recipe import Dedup, LineDedup
from gpt_core.text.clean import DOCUMENTS
from gpt_core.text.common_lines import drop_lines, hash_units
from gpt_core.text.near import Sketcher
from gpt_core.text.table import TableWriter, read_groups, without_rows

SKETCHES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("priority", pa.int32(), nullable=False),  # of its source: the least is kept
        pa.field("characters", pa.int64(), nullable=False),
        pa.field("exact_high", pa.int64(), nullable=False),  # equal for texts that differ in case and space alone
        pa.field("exact_low", pa.int64(), nullable=False),
        pa.field("bands", pa.list_(pa.int64()), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
    ]
)
LINES = pa.schema([pa.field("hash", pa.int64(), nullable=False), pa.field("documents", pa.int64(), nullable=False)])


@dataclass(frozen=True, slots=True)
class Dropped:
    """What dropping common lines took."""

    lines: int = 0
    documents: int = 0
    text_bytes: int = 0

    def __add__(self, other: "Dropped") -> "Dropped":
        return Dropped(self.lines + other.lines, self.documents + other.documents, self.text_bytes + other.text_bytes)


def sketch_file(path: Path, dedup: Dedup, folder: Path, *, attempt: str) -> None:
    """`folder` holds the SKETCHES of one file of documents."""
    sketcher = Sketcher(dedup)
    ranks = {source: rank for rank, source in enumerate(dedup.source_priority)}
    with TableWriter(folder, path.stem, SKETCHES, attempt=attempt) as sketches:
        for first, table in read_groups(path, ["id", "text", "source"]):
            texts = table["text"].combine_chunks()
            bands = sketcher.bands(texts)
            borders = np.arange(0, bands.size + 1, bands.shape[1], dtype=np.int32)
            high, low = _exact_keys(texts)
            columns = [
                table["id"],
                table["source"],
                pa.array([ranks.get(source, len(ranks)) for source in table["source"].to_pylist()], pa.int32()),
                pc.utf8_length(texts).cast(pa.int64()),
                pa.array(high),
                pa.array(low),
                pa.ListArray.from_arrays(pa.array(borders), pa.array(bands.reshape(-1))),
                pa.array([path.name] * len(table)),
                pa.array(np.arange(first, first + len(table))),
            ]
            sketches.write(pa.Table.from_arrays(columns, schema=SKETCHES))


def read_text(path: Path, row: int) -> str:
    """The text of one document of a file."""
    for first, table in read_groups(path, ["text"]):
        if row < first + len(table):
            return str(table["text"][row - first].as_py())
    raise IndexError(f"{path} has no row {row}")


def count_lines(path: Path, settings: LineDedup, folder: Path, *, attempt: str) -> None:
    """`folder` holds LINES of one file of documents: each distinct line, and how many of its documents have it."""
    counts: Counter[int] = Counter()
    for _, table in read_groups(path, ["text"]):
        for text in table["text"].to_pylist():
            counts.update(set(hash_units(text, settings)))
    with TableWriter(folder, path.stem, LINES, attempt=attempt) as lines:
        hashes = np.fromiter(counts.keys(), np.int64, len(counts))
        numbers = np.fromiter(counts.values(), np.int64, len(counts))
        lines.write(pa.Table.from_arrays([pa.array(hashes), pa.array(numbers)], schema=LINES))


def drop_common_lines(
    path: Path, common: Collection[int], settings: LineDedup, folder: Path, *, attempt: str
) -> Dropped:
    """`folder` holds the documents of one file without their common lines; of a document of such alone, no text."""
    total = Dropped()
    with TableWriter(folder, path.stem, DOCUMENTS, attempt=attempt) as documents:
        for _, table in read_groups(path):
            texts = []
            for text in table["text"].to_pylist():
                left, lines = drop_lines(text, common, settings)
                texts.append(left)
                total += Dropped(lines, int(lines > 0), len(text.encode()) - len(left.encode()) if lines else 0)
            column = table.column_names.index("text")
            documents.write(table.set_column(column, DOCUMENTS.field("text"), pa.array(texts, pa.string())))
    return total


def keep_unique(path: Path, rows: Collection[int], folder: Path, *, attempt: str) -> Mapping[str, tuple[int, int]]:
    """`folder` holds the file's documents that are not in `rows`. Returns (documents, bytes of text) by source."""
    found: dict[str, tuple[int, int]] = {}
    with TableWriter(folder, path.stem, DOCUMENTS, attempt=attempt) as documents:
        for kept, _ in without_rows(path, rows):
            documents.write(kept)
            sizes = pc.binary_length(kept["text"]).to_pylist()
            for source, size in zip(kept["source"].to_pylist(), sizes, strict=True):
                n, total = found.get(source, (0, 0))
                found[source] = (n + 1, total + size)
    return found


def _exact_keys(texts: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    digests = b"".join(xxhash.xxh3_128_digest(" ".join(text.lower().split()).encode()) for text in texts.to_pylist())
    halves = np.frombuffer(digests, ">i8").astype(np.int64).reshape(-1, 2)
    return halves[:, 0].copy(), halves[:, 1].copy()
