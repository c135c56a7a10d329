"""One record, a line of JSON or of plain text, to a document."""

import json

import xxhash

from gpt_core.text.document import EXCERPT_CHARACTERS, Document, malformed
from gpt_core.text.inputs import RawInput, stem


class _RecordError(ValueError):
    """A record that holds no document; the message says why."""


def parse_record(raw: bytes, *, place: str, given: RawInput) -> Document:
    """The document in one line of a file; a rejected one if the line holds none. Never raises."""
    try:
        return document_of(_load(raw), place=place, given=given)
    except _RecordError as error:
        excerpt = raw[: 4 * EXCERPT_CHARACTERS].decode("utf-8", errors="replace").rstrip("\r\n")
        return malformed(place, str(error), source=given.source or stem(given.path), excerpt=excerpt)


def plain_document(raw: bytes, *, place: str, source: str) -> Document:
    """The document that the bytes are, a file or a line; a rejected one if they are no text."""
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        excerpt = raw[: 4 * EXCERPT_CHARACTERS].decode("utf-8", errors="replace")
        return malformed(place, f"byte {error.start} is not UTF-8", source=source, excerpt=excerpt)
    if "\0" in text:
        return malformed(place, f"a NUL at character {text.index(chr(0))}", source=source, excerpt=text)
    return Document(id=f"{source}/{place}", text=text.rstrip("\r\n"), source=source, place=place)


def document_of(record: dict[str, object], *, place: str, given: RawInput) -> Document:
    """The document in a record. Raises _RecordError if it has no text."""
    fields = given.fields
    text = record.get(fields.text)
    if text is None:
        raise _RecordError(f"the field {fields.text!r} is missing")
    if not isinstance(text, str):
        raise _RecordError(f"the field {fields.text!r} is {_kind(text)}, not a string")
    if not text.strip():
        raise _RecordError(f"the field {fields.text!r} is empty")
    if "\0" in text:
        raise _RecordError(f"the field {fields.text!r} has a NUL at character {text.index(chr(0))}")
    return Document(
        id=_as_text(record.get(fields.id)) or xxhash.xxh3_128_hexdigest(text.encode()),
        text=text,
        source=given.source or _string(record.get(fields.source)) or stem(given.path),
        url=_string(record.get(fields.url)),
        language=_string(record.get(fields.language)),
        metadata=_read_metadata(record.get(fields.metadata)),
        place=place,
    )


def try_document(record: dict[str, object], *, place: str, given: RawInput) -> Document:
    """The document in a record, or a rejected one."""
    try:
        return document_of(record, place=place, given=given)
    except _RecordError as error:
        return malformed(place, str(error), source=given.source or stem(given.path))


def _load(raw: bytes) -> dict[str, object]:
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
    if isinstance(value, list) and all(isinstance(item, tuple) and len(item) == 2 for item in value):
        value = dict(value)  # an Arrow map
    return {key: _as_text(item) for key, item in (value if isinstance(value, dict) else {"metadata": value}).items()}


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _string(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _kind(value: object) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return {str: "a string", int: "a number", float: "a number", list: "an array"}.get(type(value), "an object")
