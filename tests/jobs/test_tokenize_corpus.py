"""The shards job on a real, local Ray: the same bytes however the documents come in and whoever carries them."""

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from shards_job import (
    DOCUMENTS,
    ROOT,
    TEXT_BYTES,
    job_command,
    job_environment,
    made,
    run_job,
    whole,
    write_dedup,
    write_tokenizer,
)
from stage_output import write_output

from gpt_core.artifact import Artifact
from gpt_core.data.index import INDEX, read_index
from gpt_core.errors import SetupError
from gpt_core.tokenizer.tokenizer import Tokenizer
from jobs.ray_context import _require_listener


@pytest.mark.ray
def test_files_workers_and_working_folder_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    # the text bytes that dedup tells decide the number of shards: two of a source to train on, one to validate with
    one = write_dedup(tmp_path / "one", DOCUMENTS, files=1, text_bytes=5_000_000)
    shuffled = random.Random(0).sample(DOCUMENTS, len(DOCUMENTS))
    many = write_dedup(tmp_path / "many", shuffled, files=5, text_bytes=5_000_000)
    temporary = Path(tempfile.mkdtemp(prefix="g-", dir="/tmp"))  # a short path, or the job takes /tmp for Ray's sockets
    monkeypatch.setenv("TMPDIR", str(temporary))

    first = run_job(tmp_path / "a", one, tokenizer, cpus=1)
    assert first.returncode == 0, first.stderr
    second = run_job(tmp_path / "b", many.relative_to(tmp_path), tokenizer, cwd=tmp_path, cpus=2, encoder="reference")
    assert second.returncode == 0, second.stderr

    artifact = whole(tmp_path / "a")
    sources = [f"source-{i}" for i in range(3)]
    assert [entry.path for entry in artifact.manifest.files] == [
        "encoder.json",
        "index.json",
        "stats.json",
        *(f"train/{source}/shard-0000{number}.arrow" for source in sources for number in range(2)),
        *(f"validation/{source}/shard-00000.arrow" for source in sources),
    ]
    assert made(tmp_path / "b") == made(tmp_path / "a")
    assert whole(tmp_path / "b").manifest.counts == artifact.manifest.counts
    assert tell_encoder(artifact)["blocks"] == {"fast": 1, "reference": 0}
    assert tell_encoder(whole(tmp_path / "b"))["blocks"] == {"fast": 0, "reference": 5}
    require_balance(artifact, Tokenizer.load(tokenizer))
    for output, done in ((tmp_path / "a", first), (tmp_path / "b", second)):
        assert not (output / "runs").exists()
        assert "WARNING" not in done.stderr
        assert len((done.stderr + done.stdout).splitlines()) < 3
        assert json.loads((output / "progress.json").read_text())["unit"] == "shards"
    assert list(temporary.glob("gptmill-*")) == []
    shutil.rmtree(temporary)


def tell_encoder(artifact: Artifact) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(artifact.file("encoder.json").read_text())
    return told


@pytest.mark.ray
def test_an_attempt_goes_on_with_the_runs_and_shards_that_a_killed_one_left(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    dedup = write_dedup(tmp_path / "dedup", DOCUMENTS, files=4)
    assert run_job(tmp_path / "whole", dedup, tokenizer, cpus=2).returncode == 0
    wanted = whole(tmp_path / "whole")

    # killed while it makes runs
    output = tmp_path / "out"
    kill_when(job_command(output, dedup, tokenizer, cpus=1), lambda: any((output / "runs").glob("block-*.json")))
    run = next((output / "runs").glob("block-*.json"))
    made_at = run.with_suffix(".arrow").stat().st_mtime_ns

    # killed while it merges, with a draft of a shard left behind
    kill_when(job_command(output, dedup, tokenizer, cpus=1), lambda: any((output / "runs").glob("shard-*.json")))
    assert run.with_suffix(".arrow").stat().st_mtime_ns == made_at
    shards = {path: path.stat().st_mtime_ns for path in output.glob("*/source-*/shard-*.arrow")}
    stand = {path for path, merged in zip(shards, map(read_summary, shards), strict=True) if merged}
    draft = next(iter(shards)).parent / ".shard-00009.arrow.0123"
    draft.write_bytes(b"half")

    done = run_job(output, dedup, tokenizer, cpus=2)
    assert done.returncode == 0, done.stderr
    assert {path for path in stand if path.stat().st_mtime_ns != shards[path]} == set()
    assert made(output) == made(tmp_path / "whole")
    assert whole(output).manifest.counts == wanted.manifest.counts
    figures = whole(output).manifest.figures
    assert figures["runs_found_whole"] == 4
    assert figures["shards_found_whole"] >= 1
    assert not draft.exists()
    assert not (output / "runs").exists()


def read_summary(shard: Path) -> bool:
    """Whether some summary tells this shard's size."""
    folder = shard.parents[2] / "runs"
    return shard.stat().st_size in [json.loads(path.read_text())["size_bytes"] for path in folder.glob("shard-*.json")]


def kill_when(command: list[str], reached: Callable[[], bool]) -> None:
    """The command's whole process group is killed as soon as `reached`; it must not end before."""
    process = subprocess.Popen(command, cwd=ROOT, env=job_environment(), start_new_session=True)
    while not reached():
        assert process.poll() is None, "the job ended before it could be killed"
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.ray
def test_what_an_attempt_at_other_work_left_is_made_anew(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    dedup = write_dedup(tmp_path / "dedup", DOCUMENTS, files=2)
    output = tmp_path / "out"
    for folder in ("runs", "train/old", "validation"):
        (output / folder).mkdir(parents=True)
    (output / "runs/plan.json").write_text('{"plan": "of yesterday"}')
    (output / "train/old/shard-00000.arrow").write_bytes(b"old")
    assert run_job(output, dedup, tokenizer).returncode == 0
    assert not (output / "train/old").exists()
    figures = whole(output).manifest.figures
    assert (figures["runs_found_whole"], figures["shards_found_whole"]) == (0, 0)


@pytest.mark.ray
def test_two_documents_of_one_id_exit_3_with_the_id(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    twice = [*DOCUMENTS, ("id-7", "another text", "source-1")]
    done = run_job(tmp_path / "out", write_dedup(tmp_path / "dedup", twice, files=2), tokenizer)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == "error: two documents have the id 'id-7'; run the stage dedup again"
    assert "Traceback" not in done.stderr


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
    index = read_index(artifact.file(INDEX))
    for side in ("train", "validation"):
        for entry in index.side(side):
            table = pa.ipc.open_file(artifact.file(entry.path)).read_all()
            assert (entry.documents, entry.tokens) == (
                len(table),
                pc.sum(pc.list_value_length(table["tokens"])).as_py(),
            )
            assert entry.path.split("/")[1] == entry.source
    counts = artifact.manifest.counts
    assert {side: counts[f"{side}_tokens"] for side in tokens} == tokens
    assert counts["train_documents"] + counts["validation_documents"] == 300
    assert counts["train_bytes"] + counts["validation_bytes"] == TEXT_BYTES
    assert artifact.manifest.figures["bytes_per_token"] == pytest.approx(TEXT_BYTES / sum(tokens.values()))
    sources = json.loads(artifact.file("stats.json").read_text())["sources"]
    assert list(sources) == ["source-0", "source-1", "source-2"]
    assert [entry["documents"] for entry in sources.values()] == [100, 100, 100]
    assert sum(entry["text_bytes"] for entry in sources.values()) == TEXT_BYTES
    for side, total in tokens.items():
        assert sum(entry[f"{side}_tokens"] for entry in sources.values()) == total


def test_a_silent_address_exits_2_at_once(tmp_path: Path) -> None:
    dedup = write_dedup(tmp_path / "dedup", DOCUMENTS, files=1)
    done = run_job(tmp_path / "out", dedup, write_tokenizer(tmp_path / "tokenizer"), address="127.0.0.1:9")
    assert done.returncode == 2
    assert "error: cluster.ray.address=127.0.0.1:9: nobody listens there" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "ray://head", "head:port"])
def test_an_address_without_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(SetupError, match="is neither HOST:PORT, ray://HOST:PORT nor auto"):
        _require_listener(address)


def test_an_absent_tokenizer_exits_3_and_is_named(tmp_path: Path) -> None:
    dedup = write_dedup(tmp_path / "dedup", DOCUMENTS, files=1)
    (tmp_path / "tokenizer").mkdir()
    done = run_job(tmp_path / "out", dedup, write_output(tmp_path / "tokenizer", "tokenizer").root)
    assert done.returncode == 3
    assert "the manifest lists no tokenizer.json" in done.stderr
    assert "Traceback" not in done.stderr
