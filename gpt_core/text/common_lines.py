"""Lines, or paragraphs, that many documents share: Wenzek et al. 2020 (CCNet), section 3.1.

Lines are compared by 64-bit hashes of their words, case and white space aside.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from gpt_core.recipe import LineDedup
from gpt_core.text.clean import DOCUMENTS
from gpt_core.text.table import TableWriter, read_groups

LINES = pa.schema([("hash", pa.int64()), ("file", pa.int64()), ("documents", pa.int64())])


@dataclass(frozen=True, slots=True)
class Dropped:
    """What dropping common lines took."""

    lines: int = 0
    documents: int = 0
    text_bytes: int = 0

    def __add__(self, other: "Dropped") -> "Dropped":
        return Dropped(self.lines + other.lines, self.documents + other.documents, self.text_bytes + other.text_bytes)


def count_lines(path: Path, file: int, settings: LineDedup) -> pa.Table:
    """LINES of one file of documents: each distinct line, and how many of its documents have it."""
    counts: Counter[int] = Counter()
    for _, table in read_groups(path, ["text"]):
        for text in table["text"].to_pylist():
            counts.update(set(hash_units(text, settings)))
    hashes = np.fromiter(counts.keys(), np.int64, len(counts))
    documents = np.fromiter(counts.values(), np.int64, len(counts))
    columns = [pa.array(hashes), pa.array(np.full(len(counts), file)), pa.array(documents)]
    return pa.Table.from_arrays(columns, schema=LINES)


def find_common(lines: pa.Table, settings: LineDedup) -> pa.Table:
    """LINES of those lines that too many documents have. `lines`: of all files, every one of their hashes."""
    totals = lines.group_by("hash", use_threads=False).aggregate([("documents", "sum")])
    common = totals.filter(pc.greater(totals["documents_sum"], settings.max_documents))
    return lines.filter(pc.is_in(lines["hash"], common["hash"].combine_chunks()))


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


def hash_units(text: str, settings: LineDedup) -> list[int]:
    """A hash of every line, or paragraph, that is long enough to be dropped."""
    return [hash_ for _, hash_ in _units(text, settings) if hash_ is not None]


def drop_lines(text: str, common: Collection[int], settings: LineDedup) -> tuple[str, int]:
    """(the text without the lines whose hashes are in `common`, how many those are)."""
    units = list(_units(text, settings))
    left = [unit for unit, hash_ in units if hash_ is None or hash_ not in common]
    if len(left) == len(units):
        return text, 0
    return _separator(settings).join(left).strip("\n"), len(units) - len(left)


def _units(text: str, settings: LineDedup) -> Iterator[tuple[str, int | None]]:
    for unit in text.split(_separator(settings)):
        folded = " ".join(unit.lower().split())
        is_long = len(folded) >= max(1, settings.min_characters)
        yield unit, xxhash.xxh3_64_intdigest(folded.encode()) - (1 << 63) if is_long else None


def _separator(settings: LineDedup) -> str:
    return "\n" if settings.unit == "line" else "\n\n"
