"""One part of `clean`: raw splits to two tables and the counts."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gpt_core.recipe import Clean, Corpus
from gpt_core.text import clean, table
from gpt_core.text.clean import DOCUMENTS, IDS, REJECTED, Tally, clean_part, move_rows, plan_parts
from gpt_core.text.inputs import expand_inputs
from gpt_core.text.read import plan_splits
from gpt_core.text.rules import Rules

GOOD = "This is one of the sentences that have a language and are to be kept"
RULES = Clean.model_validate(
    {"gopher_quality": {"min_words": 5, "min_stop_words": 0}, "gopher_repetition": None, "pii": {}}
)
Row = dict[str, object]


def make(tmp_path: Path, *records: object, rules: Clean = RULES) -> tuple[Tally, list[Row], list[Row]]:
    path = tmp_path / "x.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    corpus = Corpus.model_validate({"inputs": [{"path": str(path)}]})
    (part,) = plan_parts(plan_splits(expand_inputs(corpus)))
    tally = clean_part(
        0,
        part,
        Rules(rules),
        output=tmp_path / "out",
        scratch=tmp_path / "scratch",
        max_record_bytes=1 << 20,
        attempt="one",
    )
    return tally, rows(tmp_path / "out/documents"), rows(tmp_path / "out/rejected")


def rows(folder: Path) -> list[Row]:
    return [row for path in sorted(folder.iterdir()) for row in pq.read_table(path).to_pylist()]


def test_texts_are_normalized_and_the_missing_language_filled_in(tmp_path: Path) -> None:
    _, (kept, named), (french,) = make(
        tmp_path,
        {"id": "a", "text": f"\ufeff{GOOD} \r\n", "metadata": {"k": 1}},
        {"id": "b", "text": "La baleine est un tr\xe8s grand animal qui vit dans la mer."},
        {"id": "c", "text": GOOD, "language": "en-GB", "url": "u"},
    )
    assert kept == {
        "id": "a", "text": GOOD, "source": "x", "url": None, "language": "en", "metadata": [("k", "1")],
        "place": "x.jsonl:1",
    }  # fmt: skip
    assert (french["language"], french["reason"], french["place"]) == ("fr", "language", "x.jsonl:2")
    assert (named["language"], named["url"], named["place"]) == ("en-GB", "u", "x.jsonl:3")


def test_malformed_records_are_kept_aside_unjudged(tmp_path: Path) -> None:
    tally, _, rejected = make(tmp_path, {"id": "a", "text": GOOD}, "{", {"id": "b", "text": "\u200b"})
    assert [row["place"] for row in rejected] == ["x.jsonl:2", "x.jsonl:3"]
    assert [(row["id"], row["reason"], row["detail"]) for row in rejected] == [
        (
            "x.jsonl:2",
            "malformed",
            "x.jsonl:2: broken JSON at character 1: Expecting property name enclosed in double quotes",
        ),
        ("b", "malformed", "x.jsonl:3: no visible character in the text"),
    ]
    assert {group.reason: n for group, n in tally.documents.items()} == {None: 1, "malformed": 2}
    assert tally.text_bytes_in == len(GOOD) + 3


def test_the_tables_have_their_schemas_even_where_they_are_empty(tmp_path: Path) -> None:
    make(tmp_path, "{")
    for folder, schema in (("out/documents", DOCUMENTS), ("out/rejected", REJECTED), ("scratch/ids", IDS)):
        (path,) = (tmp_path / folder).iterdir()
        assert path.name == "part-00000-000.parquet"
        assert pq.read_schema(path).remove_metadata() == schema


def test_ids_say_where_each_kept_document_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "FILE_BYTES", 1)
    monkeypatch.setattr("gpt_core.text.read.BATCH_ROWS", 2)
    make(tmp_path, *[{"id": i, "text": f"{GOOD} {i}"} for i in range(5)])
    found = [(row["file"], row["row"]) for row in rows(tmp_path / "scratch/ids")]
    names = [f"part-00000-{n:03d}.parquet" for n in range(3)]
    assert found == [(names[0], 0), (names[0], 1), (names[1], 0), (names[1], 1), (names[2], 0)]


def test_what_is_found_is_counted(tmp_path: Path) -> None:
    mails = f"{GOOD}, said a@b.org and c@d.org.\r\n"
    tally, (kept,), _ = make(tmp_path, {"id": "a", "text": mails}, {"text": "This is too short."})
    assert str(kept["text"]).endswith("said <|email|> and <|email|>.")
    assert (tally.pii["email", "found"], tally.pii["email", "documents"]) == (2, 1)
    assert tally.edited["normalized", "documents"] == 1
    told = tally.histograms.tell()["gopher_quality.words"]
    assert isinstance(told, dict)
    assert (told["label"], told["min"], told["max"]) == ("words", 5, 100_000)
    assert (sum(told["kept"]), sum(told["rejected"])) == (1, 1)  # type: ignore[arg-type]
    assert [sample[0] for sample in tally.samples["gopher_quality.min_words"]] != []


def test_moved_rows_leave_one_table_for_the_other_and_the_counts_follow(tmp_path: Path) -> None:
    tally, kept, _ = make(tmp_path, *[{"id": i, "text": f"{GOOD} {i}"} for i in range(4)])
    found = move_rows(
        "part-00000-000.parquet", {1: "duplicate_id", 3: "source_limit"}, RULES, output=tmp_path / "out", attempt="x"
    )
    left = pq.read_table(tmp_path / "out/documents/part-00000-000-unique-000.parquet").to_pylist()
    moved = pq.read_table(tmp_path / "out/rejected/part-00000-000-moved-000.parquet").to_pylist()
    assert [row["id"] for row in left] == ["0", "2"]
    assert [(row["id"], row["reason"]) for row in moved] == [("1", "duplicate_id"), ("3", "source_limit")]
    assert [row["place"] for row in [*left, *moved]] == [f"x.jsonl:{line}" for line in (1, 3, 2, 4)]
    tally.add(found)
    by_reason = dict.fromkeys((None, "duplicate_id", "source_limit"), 0)
    for group, n in tally.documents.items():
        by_reason[group.reason] += n
    assert by_reason == {None: 2, "duplicate_id": 1, "source_limit": 1}
    assert sum(tally.text_bytes.values()) == sum(len(str(row["text"])) for row in kept)


def test_a_rejected_document_keeps_its_text_and_a_kept_one_is_edited(tmp_path: Path) -> None:
    rules = Clean.model_validate(
        {"preset": "none", "c4": {"min_sentences": 2, "min_words_per_line": 3}, "pii": {"kinds": ["email"]}}
    )
    menu = "Home | About"
    kept = f"{menu}\nWrite to jane@example.org about it. She will answer you soon."
    gone = f"{menu}\nWrite to jane@example.org about it."
    _, documents, rejected = make(tmp_path, {"id": "kept", "text": kept}, {"id": "gone", "text": gone}, rules=rules)
    assert [row["text"] for row in documents] == ["Write to <|email|> about it. She will answer you soon."]
    assert [(row["reason"], row["text"]) for row in rejected] == [("c4.min_sentences", gone)]


def test_small_files_share_a_part_and_the_order_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abcd":
        (tmp_path / f"{name}.jsonl").write_text("x" * 40)
    corpus = Corpus.model_validate({"inputs": [{"path": str(tmp_path / "*.jsonl")}]})
    monkeypatch.setattr(clean, "LEAST_PART_BYTES", 100)
    parts = plan_parts(plan_splits(expand_inputs(corpus)))
    assert [[Path(split.input.path).stem for split in part] for part in parts] == [["a", "b"], ["c", "d"]]
