"""Places: each leads to the file and the line, row or record it was read from, or says why not."""

import gzip
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.errors import InputError
from gpt_core.recipe import Corpus
from gpt_core.text import place as places
from gpt_core.text import read
from gpt_core.text.inputs import RawInput, expand_inputs
from gpt_core.text.place import locate, read_line
from gpt_core.text.read import plan_splits, read_split


def inputs_of(*paths: Path, fmt: str = "auto") -> list[RawInput]:
    return expand_inputs(Corpus.model_validate({"inputs": [{"path": str(path), "format": fmt} for path in paths]}))


def documents(inputs: list[RawInput]) -> list[dict[str, object]]:
    batches = [batch for split in plan_splits(inputs) for batch in read_split(split, 1 << 20)]
    return [row for batch in batches for row in batch.to_pylist()]


def test_a_line_of_one_of_two_files_of_one_name_is_found(tmp_path: Path) -> None:
    for folder, ending, compress in (("en", "gz", gzip.compress), ("fr", "gz", gzip.compress), ("", "zst", None)):
        (tmp_path / folder).mkdir(exist_ok=True)
        lines = "".join(json.dumps({"id": i, "text": f"{folder} {i}"}) + "\n\n" for i in range(4)).encode()
        (tmp_path / folder / f"x.jsonl.{ending}").write_bytes((compress or zstandard.compress)(lines))
    inputs = inputs_of(*sorted(tmp_path.rglob("*.jsonl.*")))
    rows = documents(inputs)
    assert [row["place"] for row in rows[:2]] == ["en/x.jsonl.gz:1", "en/x.jsonl.gz:3"]
    assert locate("fr/x.jsonl.gz:5", inputs) == (tmp_path / "fr/x.jsonl.gz", "line", 5)
    for row in rows:
        path, unit, line = locate(str(row["place"]), inputs)
        assert unit == "line"
        assert line is not None
        assert json.loads(read_line(path, line, max_bytes=100))["text"] == row["text"]


@given(
    lines=st.lists(st.sampled_from([b"", b" ", b"a", b"bc d", b"e" * 30]), max_size=40),
    split_bytes=st.integers(1, 40),
    piece_bytes=st.integers(1, 9),
)
def test_the_line_of_a_byte_is_counted_whatever_pieces_the_file_is_read_in(
    lines: list[bytes], split_bytes: int, piece_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "x.txt"
        path.write_bytes(b"\n".join(lines))
        patch.setattr(read, "SPLIT_BYTES", split_bytes)
        patch.setattr(places, "_PIECE_BYTES", piece_bytes)
        inputs = inputs_of(path, fmt="lines")
        found = [locate(str(row["place"]), inputs) for row in documents(inputs) if row["reason"] is None]
        numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        assert found == [(path, "line", number) for number, _ in numbered]
        for number, line in numbered:
            assert read_line(path, number, max_bytes=100).rstrip(b"\n") == line


def test_rows_records_and_whole_files_are_found_as_they_are_told(tmp_path: Path) -> None:
    table, poem, archive = tmp_path / "x.parquet", tmp_path / "a:7.txt", tmp_path / "x.wet"
    pq.write_table(pa.table({"text": ["a", "b", "c"]}), table, row_group_size=2)
    poem.write_text("a poem")
    archive.write_bytes(b"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: 4\r\n\r\ntext\r\n\r\n")
    inputs = inputs_of(table, poem, archive)
    assert [locate(str(row["place"]), inputs) for row in documents(inputs)] == [
        *[(table, "row", row) for row in range(3)],
        (poem, "file", None),
        (archive, "record", 1),
    ]
    table.write_bytes(b"no Parquet")
    (broken,) = documents(inputs[:1])
    assert locate(str(broken["place"]), inputs) == (table, "group", 0)


def test_a_place_in_no_file_or_in_two_is_refused(tmp_path: Path) -> None:
    names = ("a", "a:7", "a.jsonl")
    for name in names:
        (tmp_path / name).write_text("text")
    inputs = inputs_of(*(tmp_path / name for name in names), fmt="lines")
    assert locate("a:8", inputs) == (tmp_path / "a", "line", 8)
    with pytest.raises(InputError, match=r"^a:7: is in .*/a or in .*/a:7; rename one of these files and run clean"):
        locate("a:7", inputs)
    for place in ("b:1", "a.json:1", "a:x", "a line 3", "en/a:1"):
        with pytest.raises(InputError, match=f"^{place}: no file of corpus.inputs is called so"):
            locate(place, inputs)


def test_a_file_that_is_gone_or_another_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"one\ntwo\nthree\n")
    inputs = inputs_of(path)
    assert locate("x.jsonl byte 8", inputs) == (path, "line", 3)
    for byte in (5, 14, 99):
        with pytest.raises(InputError, match=rf"x\.jsonl: no line begins at byte {byte}; the file is not what it was"):
            locate(f"x.jsonl byte {byte}", inputs)
    path.unlink()
    with pytest.raises(InputError, match=r"/x\.jsonl: the file is gone; x\.jsonl:2 was read from it"):
        locate("x.jsonl:2", inputs)


def test_a_line_that_is_not_there_or_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    with pytest.raises(InputError, match=r"x\.jsonl\.gz: no such file or directory"):
        read_line(path, 1, max_bytes=3)
    path.write_bytes(gzip.compress(b"one\nfour\n"))
    with pytest.raises(InputError, match=r"x\.jsonl\.gz:2: the line has more than 4 bytes"):
        read_line(path, 2, max_bytes=4)
    assert read_line(path, 2, max_bytes=5) == b"four\n"
    with pytest.raises(InputError, match=r"x\.jsonl\.gz: has no line 3; the file is not what it was"):
        read_line(path, 3, max_bytes=5)
