"""The tokenizer job: from a dedup output to the two files of a tokenizer."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from stage_output import write_output

from gpt_core.artifact import Artifact, open_artifact
from gpt_core.recipe import Tokenizer as Settings
from gpt_core.tokenizer.tokenizer import Tokenizer
from gpt_core.tokenizer.train import train_tokenizer

RECIPE = {
    "name": "test",
    "corpus": {"inputs": [{"path": "corpus.jsonl"}]},
    "tokenizer": {"vocab_size": 300, "sample_bytes": 2000},
}
TEXTS = [f"document number {i} tells of the {word}" for i in range(40) for word in ("sea", "land", "caf\u00e9")]


def write_dedup(root: Path, texts: Sequence[str], *, listed: int | None = None) -> Path:
    """An output of the stage dedup in two files, whose manifest counts `listed` documents."""
    (root / "documents").mkdir(parents=True)
    for part in range(2):
        chosen = list(texts)[part::2]
        table = pa.table({"id": [f"{part}-{i}" for i in range(len(chosen))], "text": pa.array(chosen, pa.string())})
        table = table.append_column("source", pa.array(["test"] * len(chosen), pa.string()))
        pq.write_table(table, root / "documents" / f"part-{part}.parquet")
    documents = len(texts) if listed is None else listed
    text_bytes = sum(len(text.encode()) for text in texts)
    return write_output(root, "dedup", {"documents_kept": documents, "text_bytes_kept": text_bytes}).root


def run_job(output: Path, dedup: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    output.mkdir()
    recipe = {**RECIPE, "tokenizer": settings} if settings else RECIPE
    (output / "recipe.json").write_text(json.dumps(recipe))
    (output / "identity.json").write_text("{}")
    arguments = ["--recipe", output / "recipe.json", "--output", output, "--inputs", f"dedup={dedup}"]
    command = [sys.executable, "-m", "jobs.train_tokenizer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])


def whole(output: Path) -> Artifact:
    artifact = open_artifact(output)
    assert artifact is not None
    return artifact


def test_the_job_leaves_a_tokenizer_and_counts_its_sample(tmp_path: Path) -> None:
    dedup = write_dedup(tmp_path / "dedup", TEXTS)
    done = run_job(tmp_path / "out", dedup)
    assert done.returncode == 0, done.stderr
    artifact = whole(tmp_path / "out")
    files = ["report.json", "tokenizer.json", "tokenizer_config.json"]
    assert [entry.path for entry in artifact.manifest.files] == files
    tokenizer = Tokenizer.load(artifact.file("tokenizer.json"))
    counts = artifact.manifest.counts
    assert counts["vocab_size"] == tokenizer.vocab_size == 300
    assert (counts["padded_vocab_size"], counts["special_tokens"]) == (384, 1)
    assert 2000 <= counts["sample_bytes"] < 2050
    assert counts["sample_documents"] < len(TEXTS)
    assert 1 < artifact.manifest.figures["bytes_per_token"] < 10
    report = json.loads(artifact.file("report.json").read_text())
    assert report["measured"]["bytes"] == counts["measured_bytes"] == counts["sample_bytes"]
    assert list(report["sources"]) == ["test"]
    assert json.loads((tmp_path / "out" / "progress.json").read_text())["done"] == counts["sample_documents"]
    again = run_job(tmp_path / "again", dedup)
    assert again.returncode == 0
    assert whole(tmp_path / "again").manifest.files == artifact.manifest.files


def test_a_recipe_names_pre_tokenizer_and_special_tokens(tmp_path: Path) -> None:
    dedup = write_dedup(tmp_path / "dedup", TEXTS)
    done = run_job(tmp_path / "out", dedup, vocab_size=300, special_tokens=["<|user|>"], pre_tokenizer="cl100k")
    assert done.returncode == 0, done.stderr
    tokenizer = Tokenizer.load(tmp_path / "out")
    assert tokenizer.special_tokens == {"<|user|>": 298, "<|endoftext|>": 299}
    assert tokenizer.encode_batch(["12345"]) == [[*tokenizer.encode("123"), *tokenizer.encode("45")]]


def test_an_existing_tokenizer_is_taken_over_and_tried_on_the_documents(tmp_path: Path) -> None:
    learned = train_tokenizer([TEXTS], Settings(vocab_size=280, special_tokens=("<s>",), end_of_text="</s>"))
    (tmp_path / "mine.json").write_bytes(learned.serialized)
    dedup = write_dedup(tmp_path / "dedup", TEXTS)
    done = run_job(tmp_path / "out", dedup, path=str(tmp_path / "mine.json"), end_of_text="</s>")
    assert done.returncode == 0, done.stderr
    artifact = whole(tmp_path / "out")
    tokenizer = Tokenizer.load(tmp_path / "out")
    assert (tokenizer.end_of_text, tokenizer.vocabulary) == ("</s>", learned.vocabulary)
    assert tokenizer.encode_batch(TEXTS) == learned.encode_batch(TEXTS)
    counts = artifact.manifest.counts
    assert (counts["vocab_size"], counts["padded_vocab_size"], counts["special_tokens"]) == (280, 384, 2)
    assert counts["measured_documents"] == len(TEXTS)
    assert "sample_documents" not in counts


def test_an_existing_tokenizer_that_loses_text_exits_2(tmp_path: Path) -> None:
    tree = json.loads(train_tokenizer([TEXTS], Settings(vocab_size=280)).serialized)
    (tmp_path / "tokenizer.json").write_text(json.dumps({**tree, "normalizer": {"type": "StripAccents"}}))
    documents = ["plain", "caf\u0065\u0301"]
    done = run_job(tmp_path / "out", write_dedup(tmp_path / "dedup", documents), path=str(tmp_path))
    assert done.returncode == 2
    told = f"error: tokenizer.path: {tmp_path}: does not give back the text of document 1-0: '\u0301' at character 4"
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_corpus_exits_2_and_says_what_to_loosen(tmp_path: Path) -> None:
    done = run_job(tmp_path / "out", write_dedup(tmp_path / "dedup", []))
    assert done.returncode == 2
    assert "error: clean: no document is left to train on; loosen clean.languages" in done.stderr
    assert "Traceback" not in done.stderr


def test_documents_that_do_not_balance_exit_3_without_a_traceback(tmp_path: Path) -> None:
    done = run_job(tmp_path / "out", write_dedup(tmp_path / "dedup", TEXTS, listed=7))
    assert done.returncode == 3
    assert "error: the documents of dedup are 120, its manifest says 7; run the stage dedup again" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_absent_input_exits_3_and_is_named(tmp_path: Path) -> None:
    done = run_job(tmp_path / "out", tmp_path / "nowhere")
    assert done.returncode == 3
    assert "nowhere: no manifest.json there; run the stage dedup first" in done.stderr
