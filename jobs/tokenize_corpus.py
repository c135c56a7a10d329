"""The shards stage: Ray tokenizes the unique documents and lays them into train and validation shards.

Ray Data maps blocks of the Parquet files through the tokenizer into runs (see gpt_core/data/runs.py), a task each;
then a task a shard merges them. Token ids go through files below the output, never through Ray's object store.
The bytes of every shard depend on the recipe and the documents alone. On a cluster the inputs, the output and an
installed gptmill must be there under the same paths on every node; Ray uploads nothing.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt_core.artifact import write_json
from gpt_core.data.placement import Placement
from gpt_core.data.runs import (
    RunSummary,
    SourceCount,
    load_once,
    merge_shard,
    metadata_of,
    require_both_sides,
    tokenize_block,
)
from gpt_core.data.shards import ShardMetadata
from gpt_core.errors import StageError
from gpt_core.fingerprint import Json
from gpt_core.tokenizer.documents import Block, plan_blocks, require_documents
from gpt_core.tokenizer.files import TOKENIZER
from gpt_core.tokenizer.tokenizer import Tokenizer
from jobs.job import Job, Outcome, run_job
from jobs.ray_context import ray_context

BLOCK_BYTES = 64_000_000  # of text that a task holds at once


def make(job: Job) -> Outcome:
    """Train and validation shards and stats.json stand in the output; every document is in exactly one shard."""
    dedup = job.inputs["dedup"]
    paths, documents = dedup.files("documents"), dedup.manifest.counts["documents_kept"]
    require_documents(paths, documents=documents)
    tokenizer_path = job.inputs["tokenizer"].file(TOKENIZER)
    tokenizer = Tokenizer.load(tokenizer_path)
    placement = Placement.from_recipe(job.recipe.shards, text_bytes=dedup.manifest.counts["text_bytes_kept"])
    runs_folder = job.output / "runs"
    runs_folder.mkdir()
    with ray_context(job.recipe.cluster.ray):
        work = _TokenizeBlock(tokenizer_path.resolve(), tokenizer.digest, placement, runs_folder.resolve())
        runs = _tokenize(job, plan_blocks(paths, block_bytes=BLOCK_BYTES), work, documents=documents)
        require_both_sides([count for run in runs for count in run.counts], placement)
        shards = _merge(job, runs, placement, metadata_of(tokenizer, placement))
    shutil.rmtree(runs_folder)
    counts = [count for run in runs for count in run.counts]
    if sum(shards.values()) != sum(count.tokens for count in counts):
        raise StageError(f"the shards hold {sum(shards.values()):,} tokens of {sum(c.tokens for c in counts):,}")
    write_json(job.output / "stats.json", _sources(counts))
    return _outcome(job.output, counts, metadata_of(tokenizer, placement))


@dataclass(frozen=True)
class _TokenizeBlock:
    """One block of documents into one run, inside a Ray worker, which keeps its tokenizer."""

    tokenizer_path: Path
    digest: str
    placement: Placement
    folder: Path

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # Ray gives this task one CPU
        tokenizer = load_once(str(self.tokenizer_path), self.digest)
        documents = Block(row["path"], list(row["row_groups"])).read()
        run = tokenize_block(documents, tokenizer=tokenizer, placement=self.placement, folder=self.folder)
        return {"run": run.to_json()}


def _tokenize(job: Job, blocks: Sequence[Block], work: _TokenizeBlock, *, documents: int) -> list[RunSummary]:
    """The runs of all documents. Raises StageError unless they are as many as `documents`.

    The blocks are our own: Ray's Parquet reader packs 128 MB of small files into one task, which leaves the other
    workers idle on a laptop's corpus, and a file listing of its own takes seconds before that.
    """
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    plan = ray.data.from_items([asdict(block) for block in blocks], override_num_blocks=len(blocks))
    runs: list[RunSummary] = []
    done = tokens = 0
    for row in plan.map(work.__call__).iter_rows():
        runs.append(RunSummary.from_json(row["run"]))
        done += sum(count.documents for count in runs[-1].counts)
        tokens += sum(count.tokens for count in runs[-1].counts)
        job.report(done, documents, "documents", tokens=tokens)
    if done != documents:
        raise StageError(f"{done:,} documents were tokenized of {documents:,}")
    return runs


def _merge(job: Job, runs: list[RunSummary], placement: Placement, metadata: ShardMetadata) -> dict[int, int]:
    """Every shard that documents fall into stands in the output. Returns shard -> tokens."""
    import ray

    merge = ray.remote(_merge_task)
    shared = ray.put(runs)
    shards = sorted({shard for run in runs for shard in run.shards})
    waiting: list[Any] = [
        merge.remote(shared, shard, (job.output / placement.path_of(shard)).resolve(), metadata) for shard in shards
    ]
    tokens: dict[int, int] = {}
    while waiting:
        finished, waiting = ray.wait(waiting, num_returns=1)
        for shard, _, n_tokens in ray.get(finished):
            tokens[shard] = n_tokens
        job.report(len(tokens), len(shards), "shards")
    return tokens


def _merge_task(runs: list[RunSummary], shard: int, path: Path, metadata: ShardMetadata) -> tuple[int, int, int]:
    return (shard, *merge_shard(runs, shard, path=path, metadata=metadata))


def _sources(counts: Sequence[SourceCount]) -> dict[str, Json]:
    """stats.json: tokens of each side and documents by source."""
    sources: dict[str, dict[str, int]] = {}
    for count in sorted(counts, key=lambda count: count.source):
        empty = {"train_tokens": 0, "validation_tokens": 0, "documents": 0}
        entry = sources.setdefault(count.source, empty)
        entry["validation_tokens" if count.validation else "train_tokens"] += count.tokens
        entry["documents"] += count.documents
    return {"sources": {source: dict(entry) for source, entry in sources.items()}}


def _outcome(output: Path, counts: Sequence[SourceCount], metadata: ShardMetadata) -> Outcome:
    totals: dict[str, int] = {}
    for side, validation in (("train", False), ("validation", True)):
        held = [count for count in counts if count.validation == validation]
        totals[f"{side}_documents"] = sum(count.documents for count in held)
        totals[f"{side}_tokens"] = sum(count.tokens for count in held)
        totals[f"{side}_bytes"] = sum(count.text_bytes for count in held)
    tokens = totals["train_tokens"] + totals["validation_tokens"]
    return Outcome(
        paths=[output / "train", output / "validation", output / "stats.json"],
        counts=totals,
        figures={"bytes_per_token": (totals["train_bytes"] + totals["validation_bytes"]) / tokens},
        schemas={"shard": {field.name: str(field.type) for field in metadata.schema()}},
        engines=("pyarrow", "ray", "tokenizers"),
    )


if __name__ == "__main__":
    run_job("shards", make)
