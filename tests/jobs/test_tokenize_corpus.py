"""The shards job on a real, local Ray: the same bytes however the documents come in and whoever carries them."""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stage_output import write_output

from gpt_core.artifact import Artifact, open_artifact
from gpt_core.errors import SetupError
from gpt_core.recipe import Tokenizer as Settings
from gpt_core.tokenizer.tokenizer import Tokenizer
from gpt_core.tokenizer.train import train_tokenizer
from jobs.ray_context import _require_listener

ROOT = Path(__file__).parents[2]
DOCUMENTS = [(f"id-{i}", f"document {i} <|endoftext|> " + "text " * (i % 50), f"source-{i % 3}") for i in range(300)]
TEXT_BYTES = sum(len(text) for _, text, _ in DOCUMENTS)


def write_dedup(root: Path, documents: list[tuple[str, str, str]], *, files: int, text_bytes: int = TEXT_BYTES) -> Path:
    (root / "documents").mkdir(parents=True)
    for part in range(files):
        ids, texts, sources = zip(*documents[part::files], strict=True)
        table = pa.table({"id": ids, "text": texts, "source": sources, "language": ["en"] * len(ids)})
        pq.write_table(table, root / "documents" / f"part-{part}.parquet", row_group_size=37)
    return write_output(root, "dedup", {"documents_kept": len(documents), "text_bytes_kept": text_bytes}).root


def write_tokenizer(root: Path) -> Path:
    root.mkdir()
    train_tokenizer([[text for _, text, _ in DOCUMENTS]], Settings(vocab_size=300)).save(root)
    return write_output(root, "tokenizer", {}).root


def run_job(
    output: Path, dedup: Path, tokenizer: Path, *, cwd: Path, **ray: int | str
) -> subprocess.CompletedProcess[str]:
    output.mkdir()
    recipe = {
        "name": "test",
        "corpus": {"inputs": [{"path": "corpus.jsonl"}]},
        "shards": {"validation_fraction": 0.2, "shard_text_bytes": 1_000_000},
        "cluster": {"ray": {"object_store_bytes": 100_000_000, **ray}},
    }
    (output / "recipe.json").write_text(json.dumps(recipe))
    (output / "identity.json").write_text("{}")
    arguments = ["--recipe", output / "recipe.json", "--output", output]
    inputs = ["--inputs", f"dedup={dedup}", f"tokenizer={tokenizer}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jobs.tokenize_corpus", *map(str, arguments), *inputs]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


def whole(output: Path) -> Artifact:
    artifact = open_artifact(output)
    assert artifact is not None
    return artifact


@pytest.mark.ray
def test_files_workers_and_working_folder_change_no_byte(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    # the text bytes of the manifest decide the number of shards: two train shards, one of validation
    one = write_dedup(tmp_path / "one", DOCUMENTS, files=1, text_bytes=2_000_000)
    shuffled = random.Random(0).sample(DOCUMENTS, len(DOCUMENTS))
    many = write_dedup(tmp_path / "many", shuffled, files=5, text_bytes=2_000_000)
    temporary = set(Path(tempfile.gettempdir()).glob("gptmill-*"))

    first = run_job(tmp_path / "a", one, tokenizer, cwd=ROOT, cpus=1)
    assert first.returncode == 0, first.stderr
    second = run_job(tmp_path / "b", many.relative_to(tmp_path), tokenizer, cwd=tmp_path, cpus=2)
    assert second.returncode == 0, second.stderr

    artifact = whole(tmp_path / "a")
    assert [entry.path for entry in artifact.manifest.files] == [
        "stats.json",
        "train/shard-00000.arrow",
        "train/shard-00001.arrow",
        "validation/shard-00000.arrow",
    ]
    assert whole(tmp_path / "b").manifest.files == artifact.manifest.files
    assert whole(tmp_path / "b").manifest.counts == artifact.manifest.counts
    require_balance(artifact, Tokenizer.load(tokenizer))
    for output, done in ((tmp_path / "a", first), (tmp_path / "b", second)):
        assert not (output / "runs").exists()
        assert "WARNING" not in done.stderr
        assert len((done.stderr + done.stdout).splitlines()) < 3
        assert json.loads((output / "progress.json").read_text())["unit"] == "shards"
    assert set(Path(tempfile.gettempdir()).glob("gptmill-*")) == temporary


def require_balance(artifact: Artifact, tokenizer: Tokenizer) -> None:
    """Plain Arrow finds every document once, as its ids and the mark, and the counts of the manifest."""
    found: dict[str, list[int]] = {}
    tokens = {"train": 0, "validation": 0}
    for side in tokens:
        for path in artifact.files(side):
            table = pa.ipc.open_file(path).read_all()
            for row in table.to_pylist():
                assert row["doc_id"] not in found
                found[row["doc_id"]] = row["tokens"]
                tokens[side] += len(row["tokens"])
    mark = tokenizer.end_of_text_id
    assert found == {doc_id: [*tokenizer.encode(text), mark] for doc_id, text, _ in DOCUMENTS}
    counts = artifact.manifest.counts
    assert {side: counts[f"{side}_tokens"] for side in tokens} == tokens
    assert counts["train_documents"] + counts["validation_documents"] == 300
    assert counts["train_bytes"] + counts["validation_bytes"] == TEXT_BYTES
    assert artifact.manifest.figures["bytes_per_token"] == pytest.approx(TEXT_BYTES / sum(tokens.values()))
    sources = json.loads(artifact.file("stats.json").read_text())["sources"]
    assert list(sources) == ["source-0", "source-1", "source-2"]
    assert [entry["documents"] for entry in sources.values()] == [100, 100, 100]
    for side, total in tokens.items():
        assert sum(entry[f"{side}_tokens"] for entry in sources.values()) == total


def test_a_silent_address_exits_2_at_once(tmp_path: Path) -> None:
    dedup = write_dedup(tmp_path / "dedup", DOCUMENTS, files=1)
    done = run_job(tmp_path / "out", dedup, write_tokenizer(tmp_path / "tokenizer"), cwd=ROOT, address="127.0.0.1:9")
    assert done.returncode == 2
    assert "error: cluster.ray.address=127.0.0.1:9: nobody listens there" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "ray://head", "head:port"])
def test_an_address_without_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(SetupError, match="is neither HOST:PORT, ray://HOST:PORT nor auto"):
        _require_listener(address)


def test_an_absent_tokenizer_exits_1_and_is_named(tmp_path: Path) -> None:
    dedup = write_dedup(tmp_path / "dedup", DOCUMENTS, files=1)
    (tmp_path / "tokenizer").mkdir()
    done = run_job(tmp_path / "out", dedup, write_output(tmp_path / "tokenizer", "tokenizer").root, cwd=ROOT)
    assert done.returncode == 1
    assert "the manifest lists no tokenizer.json" in done.stderr
    assert "Traceback" not in done.stderr
