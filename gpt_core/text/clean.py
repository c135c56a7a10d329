"""The two halves of `clean` over Arrow batches: read raw files, and judge documents.

Between them an engine brings all records of one id together, ordered by id, file and line; so ids are unique after
judging without another pass over the texts. Batches hold at most BATCH_ROWS and little more than BATCH_BYTES.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from gpt_core.text.document import DOCUMENT_FIELDS, REJECTION_FIELDS, Document, Rejection
from gpt_core.text.normalize import normalize
from gpt_core.text.read import RecordFormat, read_documents
from gpt_core.text.rules import Rules

BATCH_ROWS = 1_000
BATCH_BYTES = 8 << 20

_COMMON = [
    *DOCUMENT_FIELDS,
    *REJECTION_FIELDS,
    pa.field("text_bytes", pa.int64(), nullable=False),  # UTF-8 bytes of the text as it was read; malformed: 0
]
RAW = pa.schema(
    [
        *_COMMON,
        pa.field("file", pa.int32(), nullable=False),  # entry in the list of files
        pa.field("line", pa.int64(), nullable=False),
    ]
)
JUDGED = pa.schema([*_COMMON, pa.field("identified", pa.string())])  # the language; none where malformed

Files = Sequence[tuple[str, RecordFormat]]


def read_batches(numbers: Iterable[int], files: Files) -> Iterator[pa.RecordBatch]:
    """Batches of RAW: every record of the files with these numbers, malformed ones with their reason."""
    for number in numbers:
        rows: list[dict[str, Any]] = []
        pending_bytes = 0
        for line, document in read_documents(*files[number]):
            rows.append(_raw_row(document, number, line))
            pending_bytes += rows[-1]["text_bytes"]
            if len(rows) == BATCH_ROWS or pending_bytes >= BATCH_BYTES:
                yield pa.RecordBatch.from_pylist(rows, RAW)
                rows, pending_bytes = [], 0
        if rows:
            yield pa.RecordBatch.from_pylist(rows, RAW)


def judge_batches(batches: Iterable[pa.RecordBatch], rules: Rules, files: Files) -> Iterator[pa.RecordBatch]:
    """Batches of JUDGED for batches of RAW, row by row. RAW holds all records of its ids, by id, file and line.

    Texts are normalized; a language that the record does not name is the identified one. Of several records of one
    id that pass all rules the first is kept, the others are rejected as `duplicate_id`.
    """
    last_kept: str | None = None
    for batch in batches:
        rows = batch.to_pylist()
        for row in rows:
            place = f"{Path(files[row.pop('file')][0]).name}:{row.pop('line')}"
            row["identified"] = None
            if row["reason"] is None:
                _judge(row, rules, place, last_kept=last_kept)
                if row["reason"] is None:
                    last_kept = row["id"]
        yield pa.RecordBatch.from_pylist(rows, JUDGED)


def _raw_row(document: Document, file: int, line: int) -> dict[str, Any]:
    rejection = document.rejection
    return {
        "id": document.id,
        "text": document.text,
        "source": document.source,
        "url": document.url,
        "language": document.language,
        "metadata": list(document.metadata.items()),
        "reason": rejection and rejection.reason,
        "detail": rejection and rejection.detail,
        "text_bytes": 0 if rejection else len(document.text.encode()),
        "file": file,
        "line": line,
    }


def _judge(row: dict[str, Any], rules: Rules, place: str, *, last_kept: str | None) -> None:
    """The row has its normalized text, its languages and, if it is rejected, why."""
    text = normalize(row["text"])
    if not text:
        row["reason"], row["detail"] = "malformed", f"{place}: no visible character in the text"
        return
    rejection, row["identified"] = rules.judge(text)
    if rejection is None and row["id"] == last_kept:
        rejection = Rejection("duplicate_id", f"{place} has the id of an earlier record")
    if rejection is not None:
        row["reason"], row["detail"] = rejection
    row["text"] = text
    row["language"] = row["language"] or row["identified"]
