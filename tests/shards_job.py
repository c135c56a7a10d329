"""The shards job by hand: a dedup output and a tokenizer to read, and the job as a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from stage_output import write_output

from gpt_core.artifact import Artifact, FileEntry, open_artifact, write_json
from gpt_core.fingerprint import Json
from gpt_core.recipe import Tokenizer as Settings
from gpt_core.tokenizer.train import train_tokenizer

ROOT = Path(__file__).parents[1]
DOCUMENTS = [(f"id-{i}", f"document {i} <|endoftext|> " + "text " * (i % 50), f"source-{i % 3}") for i in range(300)]
TEXT_BYTES = sum(len(text) for _, text, _ in DOCUMENTS)


def write_dedup(root: Path, documents: list[tuple[str, str, str]], *, files: int, text_bytes: int = TEXT_BYTES) -> Path:
    (root / "documents").mkdir(parents=True)
    for part in range(files):
        ids, texts, sources = zip(*documents[part::files], strict=True)
        table = pa.table({"id": ids, "text": texts, "source": sources, "language": ["en"] * len(ids)})
        pq.write_table(table, root / "documents" / f"part-{part}.parquet", row_group_size=37)
    sources: dict[str, Json] = {}
    for name in sorted({source for _, _, source in documents}):
        kept = sum(source == name for _, _, source in documents)
        sources[name] = {"kept": kept, "bytes_kept": text_bytes * kept // len(documents)}
    write_json(root / "stats.json", {"sources": sources})
    counts = {"documents_kept": len(documents), "duplicates_exact": 0, "duplicates_fuzzy": 0}
    return write_output(root, "dedup", {**counts, "text_bytes_kept": text_bytes}).root


def write_tokenizer(root: Path) -> Path:
    root.mkdir()
    train_tokenizer([[text for _, text, _ in DOCUMENTS]], Settings(vocab_size=300)).save(root)
    return write_output(root, "tokenizer", {"vocab_size": 300}).root


def prepare(output: Path, *, encoder: str = "auto", **ray: Json) -> None:
    """The output folder as the runner leaves it to the job."""
    output.mkdir(parents=True, exist_ok=True)
    recipe = {
        "name": "test",
        "corpus": {"inputs": [{"path": "corpus.jsonl"}]},
        "shards": {"validation_fraction": 0.2, "shard_text_bytes": 1_000_000, "encoder": encoder},
        "cluster": {"ray": {"object_store_bytes": 100_000_000, **ray}},
    }
    (output / "recipe.json").write_text(json.dumps(recipe))
    (output / "identity.json").write_text("{}")


def job_command(output: Path, dedup: Path, tokenizer: Path, **settings: str | int) -> list[str]:
    """The command of the job; its output is prepared."""
    prepare(output, **settings)  # type: ignore[arg-type]
    arguments = ["--recipe", output / "recipe.json", "--output", output]
    inputs = ["--inputs", f"dedup={dedup}", f"tokenizer={tokenizer}"]
    return [sys.executable, "-m", "jobs.tokenize_corpus", *map(str, arguments), *inputs]


def job_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def run_job(
    output: Path, dedup: Path, tokenizer: Path, *, cwd: Path = ROOT, **settings: str | int
) -> "subprocess.CompletedProcess[str]":
    command = job_command(output, dedup, tokenizer, **settings)
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=job_environment())


def whole(output: Path) -> Artifact:
    artifact = open_artifact(output)
    assert artifact is not None
    return artifact


def made(output: Path) -> tuple[FileEntry, ...]:
    """All files of the whole output but encoder.json, which tells how they were made."""
    return tuple(entry for entry in whole(output).manifest.files if entry.path != "encoder.json")
