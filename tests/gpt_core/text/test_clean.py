"""The two halves of `clean` over Arrow batches."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from gpt_core.recipe import Clean, GopherQuality
from gpt_core.text import clean
from gpt_core.text.clean import JUDGED, RAW, judge_batches, read_batches
from gpt_core.text.read import RecordFormat
from gpt_core.text.rules import Rules

GOOD = "This is one of the sentences that have a language and are to be kept"
RULES = Clean(gopher_quality=GopherQuality(min_words=5, min_stop_words=0))


def read(tmp_path: Path, *records: object) -> tuple[pa.Table, list[tuple[str, RecordFormat]]]:
    path = tmp_path / "x.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    files = [(str(path), RecordFormat())]
    return pa.Table.from_batches(read_batches([0], files), RAW), files


def judge(table: pa.Table, files: list[tuple[str, RecordFormat]]) -> list[dict[str, object]]:
    found = list(judge_batches(table.to_batches(max_chunksize=2), Rules(RULES, None), files))
    assert all(batch.schema == JUDGED for batch in found)
    return [row for batch in found for row in batch.to_pylist()]


def test_every_record_is_read_with_its_place_and_size(tmp_path: Path) -> None:
    table, _ = read(tmp_path, {"id": "a", "text": "\xe9", "metadata": {"k": 1}}, "{", {"id": "b", "text": "c"})
    rows = table.to_pylist()
    assert [(row["id"], row["file"], row["line"], row["text_bytes"]) for row in rows] == [
        ("a", 0, 1, 2),
        ("x.jsonl:2", 0, 2, 0),
        ("b", 0, 3, 1),
    ]
    assert rows[0]["metadata"] == [("k", "1")]
    assert [row["reason"] for row in rows] == [None, "malformed", None]


def test_batches_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, files = read(tmp_path, *[{"text": f"{i} " + "x" * 100} for i in range(50)])
    assert table.num_rows == 50
    monkeypatch.setattr(clean, "BATCH_BYTES", 1_000)
    assert max(batch.num_rows for batch in read_batches([0], files)) == 10


def test_texts_are_normalized_and_the_missing_language_filled_in(tmp_path: Path) -> None:
    kept, french, named = judge(
        *read(
            tmp_path,
            {"id": "a", "text": f"\ufeff{GOOD} \r\n"},
            {"id": "b", "text": "La baleine est un tr\xe8s grand animal qui vit dans la mer."},
            {"id": "c", "text": GOOD, "language": "en-GB"},
        )
    )
    assert (kept["text"], kept["language"], kept["identified"], kept["reason"]) == (GOOD, "en", "en", None)
    assert (french["language"], french["reason"]) == ("fr", "language")
    assert (named["language"], named["identified"]) == ("en-GB", "en")


def test_the_first_good_record_of_an_id_is_kept_across_batches(tmp_path: Path) -> None:
    table, files = read(
        tmp_path,
        *[
            {"id": i, "text": t}
            for i, t in ((1, "This is too short."), (1, GOOD), (1, "This is too short."), (1, GOOD + "."), (2, GOOD))
        ],
    )
    rows = judge(table, files)
    assert [row["reason"] for row in rows] == [
        "gopher_quality.min_words",
        None,
        "gopher_quality.min_words",
        "duplicate_id",
        None,
    ]
    assert rows[3]["detail"] == "x.jsonl:4 has the id of an earlier record"


def test_malformed_records_pass_through_unjudged(tmp_path: Path) -> None:
    (row,) = judge(*read(tmp_path, "{"))
    assert (row["id"], row["text"], row["reason"], row["identified"]) == ("x.jsonl:1", "{", "malformed", None)
    assert row["detail"] == ("x.jsonl:1: broken JSON at character 1: Expecting property name enclosed in double quotes")


def test_a_text_of_invisible_characters_is_malformed(tmp_path: Path) -> None:
    (row,) = judge(*read(tmp_path, {"id": "a", "text": "\u200b"}))
    assert (row["reason"], row["detail"]) == ("malformed", "x.jsonl:1: no visible character in the text")
