"""The shards job on a real, local Ray: the same bytes however the documents come in and whoever carries them."""

import json
import random
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from shards_job import DOCUMENTS, ROOT, TEXT_BYTES, run_job, whole, write_dedup, write_tokenizer
from stage_output import write_output

from gpt_core.artifact import Artifact
from gpt_core.errors import SetupError
from gpt_core.tokenizer.tokenizer import Tokenizer
from jobs.ray_context import _require_listener


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
