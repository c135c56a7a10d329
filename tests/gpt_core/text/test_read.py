"""JSONL to documents: what a record may hold, and what becomes of one that holds none."""

import gzip
import json
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.text import read
from gpt_core.text.document import Document
from gpt_core.text.read import RecordFormat, parse_record, read_documents

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)


def parse(raw: bytes, **fmt: str) -> Document:
    return parse_record(raw, name="some.jsonl.gz", line=7, fmt=RecordFormat(**fmt))


def record(**fields: object) -> bytes:
    return json.dumps({"text": "a text", **fields}).encode()


def test_plain_and_gzip_files_give_the_same_numbered_documents(tmp_path: Path) -> None:
    lines = record(id="a") + b"\n\n  \r\n" + record(id="b") + b"\r\n" + record(id="c")
    plain, packed = tmp_path / "x.jsonl", tmp_path / "x.jsonl.gz"
    plain.write_bytes(lines)
    packed.write_bytes(gzip.compress(lines))
    found = list(read_documents(str(plain), RecordFormat()))
    assert [(line, document.id, document.source) for line, document in found] == [
        (1, "a", "x"),
        (4, "b", "x"),
        (5, "c", "x"),
    ]
    assert list(read_documents(str(packed), RecordFormat())) == found


def test_a_whole_record_keeps_its_fields() -> None:
    document = parse(
        record(id="i", source="s", url="u", language="en", metadata={"year": 1946, "by": "x", "no": None, "l": [1]})
    )
    assert document == Document("i", "a text", "s", "u", "en", {"year": "1946", "by": "x", "no": None, "l": "[1]"})


def test_a_bare_record_gets_the_hash_of_its_text_and_the_stem_of_its_file() -> None:
    assert parse(b'{"text": "a text"}') == Document(xxhash.xxh3_128_hexdigest(b"a text"), "a text", "some")


@pytest.mark.parametrize(
    ("given_id", "expected"), [(7, "7"), (1.5, "1.5"), (True, "true"), ("", None), (None, None), ([1], "[1]")]
)
def test_an_id_becomes_a_string_and_an_empty_one_the_hash(given_id: object, expected: str | None) -> None:
    assert parse(record(id=given_id)).id == (expected or xxhash.xxh3_128_hexdigest(b"a text"))


def test_the_source_of_the_input_goes_before_that_of_the_record() -> None:
    assert parse(record(source="mine"), source="given").source == "given"


def test_fields_may_have_other_names() -> None:
    document = parse(b'{"key": 1, "body": "b"}', id_field="key", text_field="body")
    assert (document.id, document.text) == ("1", "b")


def test_a_url_that_is_no_string_and_metadata_that_is_no_object_do_no_harm() -> None:
    document = parse(record(url=3, language=["en"], metadata=[1, 2]))
    assert (document.url, document.language, document.metadata) == (None, None, {"metadata": "[1, 2]"})


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b'{"text": "a', "broken JSON at character 9: Unterminated string starting at"),
        (b'{"text": "a"} {', "broken JSON at character 14: Extra data"),
        (b'["a"]', "the record is an array, not an object"),
        (b"null", "the record is null, not an object"),
        (b"{}", "the field 'text' is missing"),
        (b'{"text": null}', "the field 'text' is missing"),
        (b'{"text": 3}', "the field 'text' is a number, not a string"),
        (b'{"text": {"a": 1}}', "the field 'text' is an object, not a string"),
        (b'{"text": " \\n\\t"}', "the field 'text' is empty"),
        (b'{"text": "ab\\u0000c"}', "the field 'text' has a NUL at character 2"),
        (b'{"text": "\xff"}', "byte 10 is not UTF-8"),
        (b'{"text": "\\ud800"}', "an escape is half of a surrogate pair"),
        (b'{"text": "a", "id": "\\udc00"}', "an escape is half of a surrogate pair"),
        (b'{"text": "a", "n": ' + b"9" * 5_000 + b"}", "JSON that is not read: Exceeds the limit"),
        (b"[" * 100_000, "JSON that is not read: maximum recursion"),
    ],
)
def test_a_record_without_a_document_is_rejected_with_its_place_and_why(raw: bytes, why: str) -> None:
    document = parse(raw)
    assert document.id == "some.jsonl.gz:7"
    assert document.rejection is not None
    assert document.rejection.reason == "malformed"
    assert document.rejection.detail.startswith(f"some.jsonl.gz:7: {why}")
    assert document.text == raw.decode("utf-8", errors="replace")[:1_000]


def test_half_a_pair_of_surrogates_is_refused_but_a_whole_pair_is_a_character() -> None:
    assert parse(b'{"text": "\\ud83d\\ude00"}').text == "\U0001f600"


def test_a_line_without_end_is_rejected_and_the_next_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_LINE_BYTES", 64)
    path = tmp_path / "x.jsonl"
    path.write_bytes(record(text="a" * 300) + b"\n" + record(id="b"))
    (_, first), (line, second) = read_documents(str(path), RecordFormat())
    assert first.rejection is not None
    assert first.rejection.detail == "x.jsonl:1: the line has 64 bytes or more"
    assert (line, second.id) == (2, "b")


def test_a_gzip_file_cut_short_gives_what_stands_before_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    lines = b"".join(record(id=i, text=f"text {i * i}") + b"\n" for i in range(20_000))
    path.write_bytes(gzip.compress(lines)[:-20_000])
    *whole, (line, last) = read_documents(str(path), RecordFormat())
    assert [document.id for _, document in whole] == [str(i) for i in range(len(whole))]
    assert 0 < len(whole) < 20_000
    assert last.rejection is not None
    assert last.rejection.detail.startswith(f"x.jsonl.gz:{line}: the gzip stream breaks off here")


def test_a_file_that_only_claims_to_be_gzip_is_one_malformed_record(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(record())
    ((line, document),) = read_documents(str(path), RecordFormat())
    assert (line, document.id, document.source) == (1, "x.jsonl.gz:1", "x")


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(raw: bytes) -> None:
    document = parse(raw)
    assert document.rejection is not None or document.text.strip()


@given(TEXTS)
def test_every_text_is_read_as_it_was_written(text: str) -> None:
    assert parse(record(text=text)).text == text
    assert parse(json.dumps({"text": text}, ensure_ascii=False).encode()).text == text
