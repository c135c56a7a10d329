"""The stage `clean`, end to end on a corpus with planted cases."""

import gzip
import json
import re
from pathlib import Path

import pytest
from spark_job import made, prepare, run_job, table

from gpt_core.artifact import Artifact
from gpt_core.fingerprint import Json
from gpt_core.recipe import Corpus
from gpt_core.recipe_file import parse_recipe
from gpt_core.text.inputs import expand_inputs
from gpt_core.text.place import locate, read_line
from jobs.clean_corpus import _evaluation_texts

GOOD = (
    "The ship that left the harbour of Nantucket in the morning had {} hands on board, and with them the captain, "
    "who would have no man speak of the whale before the sails were set and the coast was out of sight."
)
FRENCH = "La baleine est un tr\xe8s grand animal qui vit dans la mer et qui respire comme nous autres. " * 5
EXAM = "Which animal did the captain of the Pequod hunt until it sank his ship in the end of the book"


def line(**record: object) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of records, and evaluation texts."""
    folder = tmp_path_factory.mktemp("corpus")
    first = [
        line(id="good-0", text=GOOD.format("zero") + "\r\n", metadata={"year": 1851}, url="https://example.org"),
        line(id="good-0", text=GOOD.format("again")),
        line(text=GOOD.format("nameless")),
        line(id="short", text="The ship is in the harbour."),
        line(id="french", text=FRENCH),
        line(id="refrain", text="The ship is on the sea and that is that. " * 20),
        line(id="cheat", text=GOOD.format("one") + " " + EXAM.lower()),
        '{"id": "broken", "text": "The \n',
        "\n",
        line(id="number", text=7),
    ]
    (folder / "first.jsonl").write_text("".join(first), encoding="utf-8")
    second = b"".join(line(id=f"more-{i}", text=GOOD.format(i), source="theirs").encode() for i in range(40))
    (folder / "second.jsonl.gz").write_bytes(gzip.compress(second + b'{"text": "\xff"}\n'))
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(line(text="a" * 500).encode())[:-12])
    (folder / "test.jsonl").write_text(line(id="exam", text=EXAM))
    return folder


def recipe(folder: Path) -> dict[str, Json]:
    return {
        "corpus": {
            "inputs": [{"path": str(folder / "first.jsonl")}, {"path": str(folder / "[sc]*.gz"), "source": None}]
        },
        "clean": {"gopher_quality": {"min_words": 20}, "decontaminate_files": [str(folder / "test.jsonl")]},
    }


def test_every_text_of_every_row_that_is_scored_is_kept_out(tmp_path: Path) -> None:
    (tmp_path / "seen.jsonl").write_text(line(id="exam", text=EXAM))
    (tmp_path / "test.csv").write_text('premise,hypothesis,label\n"a b","c\nd",yes\ne,f,no\n')
    (tmp_path / "validation.jsonl").write_text(line(premise="g", hypothesis="h", label="no"))
    labelled = {split: str(tmp_path / f"{split}.{kind}") for split, kind in (("test", "csv"), ("validation", "jsonl"))}
    tree = {
        "name": "it",
        "corpus": {"inputs": [{"path": "none.jsonl"}]},
        "clean": {"decontaminate_files": [str(tmp_path / "seen.jsonl")]},
        "finetune": {"task": "entailment", "train": "none.jsonl", **labelled},
    }
    assert list(_evaluation_texts(parse_recipe(tree, origin="it"))) == [
        ("seen.jsonl exam", EXAM),
        ("validation.jsonl:1", "g"),
        ("validation.jsonl:1", "h"),
        ("test.csv:2", "a b"),
        ("test.csv:2", "c\nd"),
        ("test.csv:4", "e"),
        ("test.csv:4", "f"),
    ]


@pytest.fixture(scope="module")
def cleaned(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    output = tmp_path_factory.mktemp("clean") / "output"
    prepare(output, recipe(corpus), partitions=7)
    done = run_job("jobs.clean_corpus", output)
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr
    return made(output)


@pytest.mark.spark
def test_every_planted_case_has_its_reason_and_all_records_are_accounted_for(cleaned: Artifact) -> None:
    reasons = {row["id"]: row["reason"] for row in table(cleaned, "rejected")}
    assert reasons == {
        "good-0": "duplicate_id",
        "short": "gopher_quality.min_words",
        "french": "language",
        "refrain": "gopher_repetition.top_3gram_characters",
        "cheat": "contaminated",
        "first.jsonl:8": "malformed",
        "first.jsonl:10": "malformed",
        "second.jsonl.gz:41": "malformed",
        "cut.jsonl.gz:1": "malformed",
    }
    counts = cleaned.manifest.counts
    assert counts["documents_in"] == 51
    assert (counts["documents_kept"], counts["documents_rejected"], counts["rejected.malformed"]) == (42, 9, 4)
    assert sum(n for name, n in counts.items() if name.startswith("rejected.")) == 9


@pytest.mark.spark
def test_kept_documents_are_normalized_whole_and_typed(cleaned: Artifact) -> None:
    kept = {row["id"]: row for row in table(cleaned, "documents")}
    assert len(kept) == 42
    assert kept["good-0"] == {
        "id": "good-0",
        "text": GOOD.format("zero"),
        "source": "first",
        "url": "https://example.org",
        "language": "en",
        "metadata": [("year", "1851")],
        "place": "first.jsonl:1",
    }
    assert (kept["more-7"]["source"], kept["more-7"]["place"]) == ("theirs", "second.jsonl.gz:8")
    assert [id_ for id_ in kept if re.fullmatch("[0-9a-f]{32}", str(id_))]
    assert cleaned.manifest.schemas["documents"]["metadata"].startswith("map<string, string")
    assert cleaned.manifest.counts["text_bytes_kept"] == sum(len(str(row["text"]).encode()) for row in kept.values())


@pytest.mark.spark
def test_every_place_leads_to_the_record_it_was_read_from(cleaned: Artifact, corpus: Path) -> None:
    inputs = expand_inputs(Corpus.model_validate(recipe(corpus)["corpus"]))
    documents = table(cleaned, "documents")
    for row in [*documents, *table(cleaned, "rejected")]:
        if row.get("reason") == "malformed":
            assert row["place"] == row["id"]
            continue
        path, unit, line = locate(str(row["place"]), inputs)
        assert unit == "line"
        assert line is not None
        raw = json.loads(read_line(path, line, max_bytes=10_000))
        assert raw["text"].strip() == row["text"]
    assert len({row["place"] for row in documents}) == len(documents)


@pytest.mark.spark
def test_a_corpus_that_moves_changes_no_byte(tmp_path: Path) -> None:
    made_of = []
    for home in ("here", "there/far/away"):
        for part in ("", "en", "fr"):
            folder = tmp_path / home / part
            folder.mkdir(parents=True, exist_ok=True)
            texts = [GOOD.format(f"{part} {n}") for n in range(3)]
            (folder / "x.jsonl").write_text("".join(line(text=text) for text in texts) + "{")
            (folder / "poem.txt").write_text(GOOD.format(f"of the poem {part}"))
        inputs: Json = [{"path": str(tmp_path / home / path)} for path in ("x.jsonl", "*/x.jsonl", "**/*.txt")]
        output = tmp_path / home / "output"
        prepare(output, {"corpus": {"inputs": inputs}, "clean": {"gopher_quality": {"min_words": 20}}})
        done = run_job("jobs.clean_corpus", output)
        assert done.returncode == 0, done.stderr
        made_of.append(made(output))
    first, second = made_of
    assert first.manifest.files == second.manifest.files
    places = [str(row["place"]) for row in table(first, "documents")]
    assert places == [
        *[f"{file}:{n}" for file in ("x.jsonl", "en/x.jsonl", "fr/x.jsonl") for n in (1, 2, 3)],
        *("en/poem.txt", "fr/poem.txt", "poem.txt"),
    ]
    assert [row["id"] for row in table(first, "rejected")] == ["x.jsonl:4", "en/x.jsonl:4", "fr/x.jsonl:4"]


@pytest.mark.spark
def test_rejects_say_what_was_measured(cleaned: Artifact) -> None:
    details = {row["id"]: row["detail"] for row in table(cleaned, "rejected")}
    assert details["short"] == "6 words < 20"
    assert details["cheat"] == "shares 13 words in a row with test.jsonl exam"
    assert details["second.jsonl.gz:41"] == "second.jsonl.gz:41: byte 10 is not UTF-8"
    assert str(details["cut.jsonl.gz:1"]).startswith("cut.jsonl.gz:1: the gzip stream breaks off here")


@pytest.mark.spark
def test_the_statistics_add_up_to_the_counts(cleaned: Artifact) -> None:
    stats = json.loads(cleaned.file("stats.json").read_text(encoding="utf-8"))
    assert sum(stats["rejected"].values()) == 9
    assert stats["languages"] == {"en": 46, "fr": 1}
    assert stats["sources"]["theirs"] == {"in": 40, "kept": 40, "bytes_kept": 40 * len(GOOD) - 30 + 20}
    assert sum(source["in"] for source in stats["sources"].values()) == 51
    histogram = stats["length_histogram"]
    assert len(histogram["edges_characters"]) == len(histogram["kept"]) + 1 == len(histogram["rejected"]) + 1
    assert (sum(histogram["kept"]), sum(histogram["rejected"])) == (42, 5)
    assert histogram["kept"][histogram["edges_characters"].index(128)] == 42
    assert stats["reject_samples"]["malformed"][0]["id"] == "cut.jsonl.gz:1"
    assert [len(samples) for _, samples in sorted(stats["reject_samples"].items())] == [1, 1, 1, 1, 1, 3]


@pytest.mark.spark
def test_only_the_listed_files_stay_behind(cleaned: Artifact) -> None:
    names = {path.relative_to(cleaned.root).as_posix() for path in cleaned.root.rglob("*") if path.is_file()}
    beside = {"recipe.json", "identity.json", "manifest.json", "progress.json", ".attempt"}
    assert names - beside == {entry.path for entry in cleaned.manifest.files}
    assert {path.name for path in cleaned.root.parent.iterdir()} == {"output"}
    assert {path.name for path in cleaned.files("documents")} == {"part-00000-000-unique-000.parquet"}


@pytest.mark.spark
def test_one_partition_and_seven_give_the_same(cleaned: Artifact, corpus: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "output", recipe(corpus), partitions=1)
    done = run_job("jobs.clean_corpus", tmp_path / "output")
    assert done.returncode == 0, done.stderr
    again = made(tmp_path / "output")
    assert again.manifest.counts == cleaned.manifest.counts
    assert again.file("stats.json").read_text() == cleaned.file("stats.json").read_text()
    for name in ("documents", "rejected"):
        assert sorted(table(again, name), key=str) == sorted(table(cleaned, name), key=str)


@pytest.mark.spark
def test_a_corpus_of_which_nothing_is_kept_is_refused_with_the_reason_that_took_most(
    corpus: Path, tmp_path: Path
) -> None:
    none = recipe(corpus) | {"clean": {"languages": ["de"]}}
    prepare(tmp_path / "output", none)
    done = run_job("jobs.clean_corpus", tmp_path / "output")
    assert done.returncode == 2
    assert (
        "error: clean kept none of 51 documents; language took most (47); add its language to clean.languages"
        in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "output" / "manifest.json").exists()


def test_a_missing_input_is_refused_before_spark_starts(tmp_path: Path) -> None:
    prepare(tmp_path / "output", {"corpus": {"inputs": [{"path": str(tmp_path / "gone.jsonl")}]}})
    done = run_job("jobs.clean_corpus", tmp_path / "output")
    assert done.returncode == 2
    assert "corpus.inputs.0.path" in done.stderr
    assert "no such file" in done.stderr
