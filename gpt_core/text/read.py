"""JSONL, plain or gzip, to documents; what cannot be read becomes a rejected record and the rest goes on.

A rejected record has reason `malformed`, detail `file:line: why`, id `file:line` and up to 1,000 characters of
the line as its text. Lines of white space alone are no records. Memory: one line, at most MAX_LINE_BYTES.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import xxhash

from gpt_core.text.document import Document, Rejection
from gpt_core.text.inputs import stem

MAX_LINE_BYTES = 64 << 20  # a longer line is no record of a document but a file without line ends
EXCERPT_CHARACTERS = 1_000


@dataclass(frozen=True, slots=True)
class RecordFormat:
    """Which fields of a record hold what. `source`, where given, is the source of every record."""

    id_field: str = "id"
    text_field: str = "text"
    source: str | None = None


class _RecordError(ValueError):
    """A record that holds no document; the message says why."""


def read_documents(path: str, fmt: RecordFormat) -> Iterator[tuple[int, Document]]:
    """(line number from 1, document) for every record of the file, malformed ones as rejected documents.

    Raises OSError only where the file cannot be opened or the disk fails.
    """
    name = Path(path).name
    for line, raw in read_lines(path):
        if isinstance(raw, str):
            yield line, _malformed(b"", name=name, line=line, why=raw, source=fmt.source or stem(path))
        elif raw and not raw.isspace():
            yield line, parse_record(raw, name=name, line=line, fmt=fmt)


def read_lines(path: str) -> Iterator[tuple[int, bytes | str]]:
    """(line number from 1, its bytes), or as the last item (line number, why the file cannot be read on)."""
    line = 0
    with _open(path) as stream:
        try:
            while raw := stream.readline(MAX_LINE_BYTES):
                line += 1
                yield line, raw
                while len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):  # drop the rest of an endless line
                    raw = stream.readline(MAX_LINE_BYTES)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            yield line + 1, f"the gzip stream breaks off here ({error}); later lines are lost"


def parse_record(raw: bytes, *, name: str, line: int, fmt: RecordFormat) -> Document:
    """The document in one line of the file `name`; a rejected one if the line holds none. Never raises."""
    try:
        return _parse(raw, name=name, fmt=fmt)
    except _RecordError as error:
        return _malformed(raw, name=name, line=line, why=str(error), source=fmt.source or stem(name))


def _open(path: str) -> BufferedIOBase:
    return gzip.open(path, "rb") if path.endswith(".gz") else Path(path).open("rb")


def _malformed(raw: bytes, *, name: str, line: int, why: str, source: str) -> Document:
    where = f"{name}:{line}"
    excerpt = raw[: 4 * EXCERPT_CHARACTERS].decode("utf-8", errors="replace").rstrip("\r\n")[:EXCERPT_CHARACTERS]
    return Document(id=where, text=excerpt, source=source, rejection=Rejection("malformed", f"{where}: {why}"))


def _parse(raw: bytes, *, name: str, fmt: RecordFormat) -> Document:
    record = _load(raw)
    text = record.get(fmt.text_field)
    if text is None:
        raise _RecordError(f"the field {fmt.text_field!r} is missing")
    if not isinstance(text, str):
        raise _RecordError(f"the field {fmt.text_field!r} is {_kind(text)}, not a string")
    if not text.strip():
        raise _RecordError(f"the field {fmt.text_field!r} is empty")
    if "\0" in text:
        raise _RecordError(f"the field {fmt.text_field!r} has a NUL at character {text.index(chr(0))}")
    identifier = _as_text(record.get(fmt.id_field)) or xxhash.xxh3_128_hexdigest(text.encode())
    return Document(
        id=identifier,
        text=text,
        source=fmt.source or _string(record.get("source")) or stem(name),
        url=_string(record.get("url")),
        language=_string(record.get("language")),
        metadata=_read_metadata(record.get("metadata")),
    )


def _load(raw: bytes) -> dict[str, object]:
    if len(raw) >= MAX_LINE_BYTES:
        raise _RecordError(f"the line has {MAX_LINE_BYTES} bytes or more")
    try:
        line = raw.decode("utf-8").removeprefix("\ufeff").rstrip()
    except UnicodeDecodeError as error:
        raise _RecordError(f"byte {error.start} is not UTF-8") from None
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise _RecordError(f"broken JSON at character {error.pos}: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, a thousand brackets
        raise _RecordError(f"JSON that is not read: {error}") from None
    if not isinstance(record, dict):
        raise _RecordError(f"the record is {_kind(record)}, not an object")
    if b"\\u" in raw:
        _refuse_surrogates(record)
    return record


def _refuse_surrogates(record: dict[str, object]) -> None:
    r"""Half of a surrogate pair (`"\ud800"`) is JSON, but no text: nothing can encode it."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _RecordError("an escape is half of a surrogate pair") from None


def _read_metadata(value: object) -> dict[str, str | None]:
    """Its values as strings, null as null; metadata that is no object stands under the key `metadata`."""
    if value is None:
        return {}
    return {key: _as_text(item) for key, item in (value if isinstance(value, dict) else {"metadata": value}).items()}


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _string(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _kind(value: object) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return {str: "a string", int: "a number", float: "a number", list: "an array"}.get(type(value), "an object")
