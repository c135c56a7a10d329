"""Raw files to documents: what a record may hold, and what becomes of one that holds none."""

import dataclasses
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.recipe import Fields
from gpt_core.text import read
from gpt_core.text.document import Document
from gpt_core.text.inputs import RawInput
from gpt_core.text.read import RAW, Split, plan_splits, read_split
from gpt_core.text.record import parse_record

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)
PLACE = "some.jsonl.gz:7"


def raw_input(path: Path | str, fmt: str = "jsonl", source: str | None = None, **fields: str) -> RawInput:
    return RawInput(0, str(path), Path(path).name, fmt, Fields.model_validate(fields), source)


def parse(raw: bytes, source: str | None = None, **fields: str) -> Document:
    return parse_record(raw, place=PLACE, given=raw_input("some.jsonl.gz", source=source, **fields))


def rows(given: RawInput, max_record_bytes: int = 1 << 20) -> list[dict[str, object]]:
    batches = [batch for split in plan_splits([given]) for batch in read_split(split, max_record_bytes)]
    assert all(batch.schema == RAW for batch in batches)
    return [row for batch in batches for row in batch.to_pylist()]


def record(**fields: object) -> bytes:
    return json.dumps({"text": "a text", **fields}).encode()


def test_plain_and_gzip_files_give_the_same_numbered_documents(tmp_path: Path) -> None:
    lines = record(id="a") + b"\n\n  \r\n" + record(id="b") + b"\r\n" + record(id="c")
    plain, packed = tmp_path / "x.jsonl", tmp_path / "x.jsonl.gz"
    plain.write_bytes(lines)
    packed.write_bytes(gzip.compress(lines))
    places = [(row["place"], row["id"], row["source"], row["text_bytes"]) for row in rows(raw_input(plain))]
    assert places == [("x.jsonl:1", "a", "x", 6), ("x.jsonl:4", "b", "x", 6), ("x.jsonl:5", "c", "x", 6)]
    for ending, compress in ((".gz", gzip.compress), (".zst", zstandard.compress)):
        packed = tmp_path / f"x.jsonl{ending}"
        packed.write_bytes(compress(lines[:20]) + compress(lines[20:]))  # two members, or frames
        assert [row["id"] for row in rows(raw_input(packed))] == ["a", "b", "c"]


def test_a_whole_record_keeps_its_fields() -> None:
    document = parse(
        record(id="i", source="s", url="u", language="en", metadata={"year": 1946, "by": "x", "no": None, "l": [1]})
    )
    metadata = {"year": "1946", "by": "x", "no": None, "l": "[1]"}
    assert document == Document("i", "a text", "s", "u", "en", metadata, place=PLACE)


def test_a_bare_record_gets_the_hash_of_its_text_and_the_stem_of_its_file() -> None:
    assert parse(b'{"text": "a text"}') == Document(xxhash.xxh3_128_hexdigest(b"a text"), "a text", "some", place=PLACE)


@pytest.mark.parametrize(
    ("given_id", "expected"), [(7, "7"), (1.5, "1.5"), (True, "true"), ("", None), (None, None), ([1], "[1]")]
)
def test_an_id_becomes_a_string_and_an_empty_one_the_hash(given_id: object, expected: str | None) -> None:
    assert parse(record(id=given_id)).id == (expected or xxhash.xxh3_128_hexdigest(b"a text"))


def test_the_source_of_the_input_goes_before_that_of_the_record() -> None:
    assert parse(record(source="mine"), source="given").source == "given"


def test_fields_may_have_other_names() -> None:
    document = parse(b'{"key": 1, "body": "b"}', id="key", text="body")
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
    assert document.text == raw.decode("utf-8", errors="replace")[:1_000].replace("\0", "\ufffd")


def test_half_a_pair_of_surrogates_is_refused_but_a_whole_pair_is_a_character() -> None:
    assert parse(b'{"text": "\\ud83d\\ude00"}').text == "\U0001f600"


def test_a_line_without_end_is_rejected_and_the_next_one_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(record(text="a" * 300) + b"\n" + record(id="b"))
    first, second = rows(raw_input(path), 64)
    assert first["detail"] == "x.jsonl:1: the line has more than 64 bytes (corpus.max_record_bytes)"
    assert (second["place"], second["id"]) == ("x.jsonl:2", "b")


@pytest.mark.parametrize(
    ("ending", "compress", "kind"), [(".gz", gzip.compress, "gzip"), (".zst", zstandard.compress, "zstd")]
)
def test_a_compressed_file_cut_short_gives_what_stands_before_the_cut(
    tmp_path: Path, ending: str, compress: Callable[[bytes], bytes], kind: str
) -> None:
    path = tmp_path / f"x.jsonl{ending}"
    lines = b"".join(record(id=i, text=f"text {i * i}") + b"\n" for i in range(60_000))
    path.write_bytes(compress(lines)[:-20_000])
    *whole, last = rows(raw_input(path))
    assert [row["id"] for row in whole] == [str(i) for i in range(len(whole))]
    assert 0 < len(whole) < 60_000
    assert str(last["detail"]).startswith(f"x.jsonl{ending}:{len(whole) + 1}: the {kind} stream breaks off here")


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_file_that_only_claims_to_be_compressed_is_one_malformed_record(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.jsonl{ending}"
    path.write_bytes(record())
    (row,) = rows(raw_input(path))
    assert (row["id"], row["source"], row["reason"]) == (f"x.jsonl{ending}:1", "x", "malformed")


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_records_is_counted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    (row,) = rows(raw_input(path))
    assert (row["id"], row["detail"]) == ("x.jsonl", "x.jsonl: the file holds no record")


def test_a_large_file_is_read_in_pieces_and_every_line_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"".join(record(id=i, text="x" * (i % 90)) + b"\n" for i in range(1, 300)))
    whole = [row["id"] for row in rows(raw_input(path))]
    for size in (37, 256, 1_000):
        monkeypatch.setattr(read, "SPLIT_BYTES", size)
        pieces = rows(raw_input(path))
        assert [row["id"] for row in pieces if row["reason"] is None] == [
            id_ for id_ in whole if not str(id_).startswith("x.jsonl")
        ]
    assert "x.jsonl byte " in str(pieces[-1]["place"])


@pytest.mark.parametrize("fmt", ["jsonl", "lines", "text", "parquet", "wet"])
def test_places_and_the_ids_made_of_them_call_a_file_what_its_input_calls_it(tmp_path: Path, fmt: str) -> None:
    path = tmp_path / "x.any"
    path.write_bytes(b"\xff")
    if fmt == "parquet":
        pq.write_table(pa.table({"text": ["a text", None]}), path)
    given = dataclasses.replace(raw_input(path, fmt), name="en/x.any")
    within = {"jsonl": ":1", "lines": ":1", "text": "", "parquet": " row 1", "wet": " record 1"}[fmt]
    *_, last = rows(given)
    assert (last["id"], last["place"], last["source"]) == (f"en/x.any{within}", f"en/x.any{within}", "x")
    assert str(last["detail"]).startswith(f"en/x.any{within}: ")
    if fmt in ("lines", "text"):
        path.write_bytes(b"a text")
        assert [row["id"] for row in rows(given)] == [f"x/en/x.any{within}"]


def test_batches_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"".join(record(text="x" * 100) + b"\n" for _ in range(50)))
    monkeypatch.setattr(read, "BATCH_BYTES", 1_000)
    split = Split(raw_input(path), 0, None, 0)
    assert [batch.num_rows for batch in read_split(split, 1 << 20)] == [10] * 5


def test_text_files_are_a_document_each_or_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "poem.txt"
    path.write_bytes("one\r\n\ntw\xf6\n".encode())
    (whole,) = rows(raw_input(path, "text"))
    assert (whole["id"], whole["text"], whole["source"]) == ("poem/poem.txt", "one\r\n\ntw\xf6", "poem")
    assert [(row["id"], row["text"]) for row in rows(raw_input(path, "lines"))] == [
        ("poem/poem.txt:1", "one"),
        ("poem/poem.txt:3", "tw\xf6"),
    ]
    path.write_bytes(b"a\0b")
    assert rows(raw_input(path, "text"))[0]["detail"] == "poem.txt: a NUL at character 1"
    assert rows(raw_input(path, "text"), 2)[0]["detail"] == (
        "poem.txt: the file has more than 2 bytes (corpus.max_record_bytes)"
    )


def test_parquet_is_read_by_row_groups_with_its_columns_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table(
        {
            "key": [1, 2, 3],
            "body": ["a", None, "c"],
            "metadata": pa.array([[("k", "v")], [], None], pa.map_(pa.string(), pa.string())),
        }
    )
    pq.write_table(table, path, row_group_size=2)
    given = raw_input(path, "parquet", id="key", text="body")
    assert len(plan_splits([given])) == 2
    first, second, third = rows(given)
    assert (first["id"], first["text"], first["metadata"]) == ("1", "a", [("k", "v")])
    assert second["detail"] == "x.parquet row 1: the field 'body' is missing"
    assert (third["place"], third["text"]) == ("x.parquet row 2", "c")
    (lacking,) = rows(raw_input(path, "parquet", text="gone"))[:1]
    assert lacking["detail"] == "x.parquet: has no column 'gone'; it has key, body, metadata"
    path.write_bytes(b"no Parquet")
    (broken,) = rows(given)
    assert "cannot be read as Parquet" in str(broken["detail"])


def warc(*records: tuple[str, str, bytes]) -> bytes:
    """Records of (WARC-Type, further headers, body)."""
    found = b""
    for number, (kind, headers, body) in enumerate(records):
        head = (
            f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:id-{number}>\r\n"
            f"WARC-Date: 2024-01-01T00:00:00Z\r\nWARC-Target-URI: https://example.org/{number}\r\n{headers}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        found += head.encode() + body + b"\r\n\r\n"
    return found


def test_wet_records_are_documents_with_url_and_date(tmp_path: Path) -> None:
    archive = warc(("warcinfo", "", b"x"), ("conversion", "", "Text \xe9.".encode()), ("conversion", "", b"\xff"))
    for name, content in (("x.wet", archive), ("x.wet.gz", gzip.compress(archive))):
        (tmp_path / name).write_bytes(content)
        text, broken = rows(raw_input(tmp_path / name, "wet"))
        assert (text["id"], text["text"], text["url"]) == ("id-1", "Text \xe9.", "https://example.org/1")
        assert text["metadata"] == [("date", "2024-01-01T00:00:00Z")]
        assert str(broken["detail"]).endswith("record 2: byte 0 is not UTF-8")


def test_warc_pages_give_their_main_text_and_title(tmp_path: Path) -> None:
    page = (
        b"<html><head><title>Whales</title></head><body><nav><a href='/'>Home</a></nav><main><p>The whale is a very "
        b"large animal that lives in the sea.</p></main><script>x()</script></body></html>"
    )
    http = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n\r\n"
    kind = "Content-Type: application/http; msgtype=response\r\n"
    archive = warc(
        ("request", "", b"GET / HTTP/1.1\r\n\r\n"),
        ("response", kind, http % b"text/html; charset=utf-8" + page),
        ("response", kind, http % b"image/png" + b"\x89PNG"),
    )
    (tmp_path / "x.warc").write_bytes(archive)
    text, image = rows(raw_input(tmp_path / "x.warc", "warc"))
    assert text["text"] == "The whale is a very large animal that lives in the sea."
    assert dict(text["metadata"])["title"] == "Whales"  # type: ignore[call-overload]
    assert (image["reason"], image["detail"]) == ("not_html", "x.warc record 2: image/png")


@pytest.mark.parametrize("content", [b"", b"no archive at all"])
def test_a_file_that_is_no_archive_is_counted(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.warc").write_bytes(content)
    (row,) = rows(raw_input(tmp_path / "x.warc", "warc"))
    assert row["reason"] == "malformed"


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(raw: bytes) -> None:
    document = parse(raw)
    assert document.rejection is not None or document.text.strip()


@given(TEXTS)
def test_every_text_is_read_as_it_was_written(text: str) -> None:
    assert parse(record(text=text)).text == text
    assert parse(json.dumps({"text": text}, ensure_ascii=False).encode()).text == text
