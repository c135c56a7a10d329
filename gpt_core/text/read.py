"""Raw files to Arrow batches of documents; what cannot be read becomes a rejected record and the rest goes on.

A rejected record has reason `malformed`, detail `place: why`, its place as id and up to 1,000 characters of what
stood there as its text. Lines of white space alone are no records. A file is read in splits that depend on the file
alone: pieces of plain lines, row groups of Parquet, other files whole.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gpt_core.errors import InputError
from gpt_core.recipe import Fields
from gpt_core.text.document import DOCUMENT_FIELDS, REJECTION_FIELDS, Document, malformed
from gpt_core.text.inputs import COMPRESSIONS, RawInput, stem
from gpt_core.text.read_lines import read_lines
from gpt_core.text.read_parquet import read_rows
from gpt_core.text.record import parse_record, plain_document

SPLIT_BYTES = 16 << 20
BATCH_ROWS = 1_000
BATCH_BYTES = 8 << 20

RAW = pa.schema(
    [
        *DOCUMENT_FIELDS,
        *REJECTION_FIELDS,
        pa.field("text_bytes", pa.int64(), nullable=False),  # UTF-8 bytes of the text as it was read; malformed: 0
    ]
)


@dataclass(frozen=True, slots=True)
class Split:
    """A piece of a raw file: of plain lines those that begin at bytes start to stop, of Parquet row groups."""

    input: RawInput
    start: int
    stop: int | None  # None: to the end
    size: int  # bytes of the file, about


def plan_splits(inputs: Iterable[RawInput]) -> list[Split]:
    """The splits of every file, in order. Reads sizes and the footers of Parquet files."""
    return [split for given in inputs for split in _plan(given)]


def read_split(split: Split, max_record_bytes: int) -> Iterator[pa.RecordBatch]:
    """Batches of RAW: every record of the split, malformed ones with their reason.

    Raises OSError only where the file cannot be opened or the disk fails.
    """
    rows: list[Document] = []
    pending_bytes = 0
    for document in _read(split, max_record_bytes):
        rows.append(document)
        pending_bytes += len(document.text)
        if len(rows) == BATCH_ROWS or pending_bytes >= BATCH_BYTES:
            yield _batch(rows)
            rows, pending_bytes = [], 0
    if rows:
        yield _batch(rows)


def read_texts(path: str, fields: Fields) -> Iterator[tuple[str, str]]:
    """("file id", text) of every record of a JSONL file, plain or compressed: evaluation texts must all be read.

    Raises InputError for a file that cannot be opened and for the first malformed record.
    """
    name = Path(path).name
    try:
        for document in _read(Split(RawInput(0, path, name, "jsonl", fields, None), 0, None, 0), 1 << 30):
            if document.rejection is not None:
                raise InputError(f"{document.rejection.detail}; evaluation texts must all be read")
            yield f"{name} {document.id}", document.text
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}; it holds evaluation texts") from None


def _plan(given: RawInput) -> list[Split]:
    size = Path(given.path).stat().st_size
    if given.format == "parquet":
        try:
            metadata = pq.read_metadata(given.path)
        except (OSError, pa.ArrowInvalid):
            return [Split(given, 0, 0, size)]  # told when it is read
        groups = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
        return [Split(given, i, i + 1, group) for i, group in enumerate(groups)] or [Split(given, 0, 0, size)]
    if given.format in ("jsonl", "lines") and not given.path.endswith(COMPRESSIONS) and size > SPLIT_BYTES:
        splits = -(-size // SPLIT_BYTES)
        borders = [size * number // splits for number in range(splits + 1)]
        return [Split(given, start, stop, stop - start) for start, stop in itertools.pairwise(borders)]
    return [Split(given, 0, None, size)]


def _read(split: Split, max_record_bytes: int) -> Iterator[Document]:
    given = split.input
    if given.format == "parquet":
        yield from read_rows(given, split.start, split.stop or 0)
    elif given.format in ("wet", "warc"):
        from gpt_core.text.read_web import read_archive  # 0.3 s that only archives need

        yield from read_archive(given, max_record_bytes)
    else:
        yield from _read_plain(split, max_record_bytes)


def _read_plain(split: Split, max_record_bytes: int) -> Iterator[Document]:
    given, whole = split.input, split.input.format == "text"
    source, found = given.source or stem(given.path), False
    lines = read_lines(given.path, split.start, split.stop, max_record_bytes, name=given.name, whole=whole)
    for place, raw in lines:
        if isinstance(raw, str):
            found = True
            yield malformed(place, raw, source=source)
        elif raw and not raw.isspace():
            found = True
            if given.format == "jsonl":
                yield parse_record(raw, place=place, given=given)
            else:
                yield plain_document(raw, place=place, source=source)
    if not found and split.start == 0:
        yield malformed(given.name, "the file holds no record", source=source)


def _batch(rows: list[Document]) -> pa.RecordBatch:
    columns = [
        [row.id for row in rows],
        [row.text for row in rows],
        [row.source for row in rows],
        [row.url for row in rows],
        [row.language for row in rows],
        [list(row.metadata.items()) for row in rows],
        [row.place for row in rows],
        [row.rejection and row.rejection.reason for row in rows],
        [row.rejection and row.rejection.detail for row in rows],
        [0 if row.rejection else len(row.text.encode()) for row in rows],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, RAW, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=RAW)
