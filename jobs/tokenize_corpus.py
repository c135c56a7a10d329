"""The shards stage: Ray tokenizes the unique documents and lays them into train and validation shards.

Ray Data streams blocks of the Parquet files through actors that tokenize them into runs (see gpt_core/data/runs.py);
then a task a shard merges them. An actor reads its block itself: texts and token ids go through files, never through
Ray's object store. The bytes of every shard depend on the recipe and the documents alone. Runs and shards that a
killed attempt left whole are not made again. On a cluster the inputs, the output and an installed gptmill must be
there under the same paths on every node; Ray uploads nothing.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from gpt_core.artifact import write_json
from gpt_core.data.index import SIDES, ShardEntry, ShardIndex, write_index
from gpt_core.data.placement import Placement
from gpt_core.data.runs import (
    BlockTokenizer,
    MergedShard,
    RunSummary,
    SourceCount,
    compile_kernels,
    merge_shard,
    metadata_of,
    read_merged,
    read_run,
    require_both_sides,
)
from gpt_core.data.shards import ShardMetadata
from gpt_core.errors import ArtifactError, StageError
from gpt_core.fingerprint import Json, fingerprint
from gpt_core.tokenizer.documents import Block, plan_blocks, require_documents
from gpt_core.tokenizer.encoder import Choice, ProvenEncoder
from gpt_core.tokenizer.files import TOKENIZER
from gpt_core.tokenizer.tokenizer import Tokenizer
from jobs.job import Job, Outcome, run_job
from jobs.ray_context import ray_context

BLOCK_BYTES = (4_000_000, 32_000_000)  # least and most text that an actor holds at once
BLOCKS = 64  # of a corpus, if they are between these sizes: enough for every core of a laptop
RETRIES = 5  # of a merge whose node was lost; Ray Data repeats its actors' work by itself
RUNS = "runs"
MOST_TOLD = 20  # differences of the encoders in encoder.json


def make(job: Job) -> Outcome:
    """Train and validation shards, index.json, stats.json and encoder.json stand in the output."""
    dedup = job.inputs["dedup"]
    paths, documents = dedup.files("documents"), dedup.manifest.counts["documents_kept"]
    require_documents(paths, documents=documents)
    tokenizer_path = job.inputs["tokenizer"].file(TOKENIZER).resolve()
    tokenizer = Tokenizer.load(tokenizer_path)
    stats = json.loads(dedup.file("stats.json").read_text(encoding="utf-8"))
    placement = Placement.from_recipe(
        job.recipe.shards, text_bytes={name: it["bytes_kept"] for name, it in stats["sources"].items() if it["kept"]}
    )
    least, most = BLOCK_BYTES
    text_bytes = dedup.manifest.counts["text_bytes_kept"]
    blocks = plan_blocks(paths, block_bytes=min(most, max(least, text_bytes // BLOCKS)))
    ProvenEncoder(tokenizer, job.recipe.shards.encoder)  # what it refuses is told before Ray starts
    compile_kernels(metadata_of(tokenizer, placement))  # once, not in every actor at once
    work = Work(
        tokenizer_path=tokenizer_path,
        metadata=metadata_of(tokenizer, placement),
        placement=placement,
        encoder=job.recipe.shards.encoder,
        output=job.output.resolve(),
        blocks=blocks,
    )
    work.begin(dedup.manifest.fingerprint)
    attempt = _Attempt(job, work, documents)
    attempt.make()
    return _outcome(work, attempt)


@dataclass(frozen=True)
class Work:
    """What every worker of the job knows."""

    tokenizer_path: Path
    metadata: ShardMetadata
    placement: Placement
    encoder: Choice
    output: Path
    blocks: Sequence[Block]

    def begin(self, dedup: str) -> None:
        """What an attempt at other work left is gone; what one at this work left whole stays."""
        facts = {
            "dedup": dedup,
            "tokenizer": self.metadata.tokenizer_digest,
            "placement": asdict(self.placement),
            "blocks": [asdict(block) for block in self.blocks],
            "encoder": self.encoder,
        }
        plan, path = fingerprint(json.loads(json.dumps(facts))), self.output / RUNS / "plan.json"
        try:
            same = json.loads(path.read_bytes()) == {"plan": plan}
        except (OSError, ValueError):
            same = False
        if not same:
            for folder in (RUNS, *SIDES):
                shutil.rmtree(self.output / folder, ignore_errors=True)
            (self.output / RUNS).mkdir()
            write_json(path, {"plan": plan})
        for draft in self.output.glob("*/**/.*"):
            draft.unlink()

    def run_path(self, block: int) -> Path:
        """Where the run of a block stands."""
        return self.output / RUNS / f"block-{block:06d}.arrow"

    def shard_path(self, shard: int) -> Path:
        """Where a shard stands."""
        return self.output / self.placement.path_of(shard)

    def merged_path(self, shard: int) -> Path:
        """Where the summary of a shard stands."""
        return self.output / RUNS / f"shard-{shard:06d}.json"

    def merge(self, shard: int, runs: Sequence[RunSummary]) -> MergedShard:
        """The shard stands, from the runs."""
        path, summary = self.shard_path(shard), self.merged_path(shard)
        return merge_shard(runs, shard, path=path, summary=summary, metadata=self.metadata)


class _Actor:
    """A Ray actor that turns blocks into runs."""

    def __init__(self, work: Work) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # Ray gives this actor one CPU
        tokenizer = Tokenizer.load(work.tokenizer_path)
        if tokenizer.digest != work.metadata.tokenizer_digest:
            raise ArtifactError(f"{work.tokenizer_path}: is not the tokenizer that the job began with")
        compile_kernels(work.metadata)
        self.work = work
        self.tokenizer = BlockTokenizer(ProvenEncoder(tokenizer, work.encoder), work.metadata, work.placement)

    def __call__(self, numbers: pa.Table) -> pa.Table:
        for number in numbers.column("block").to_pylist():
            started = time.process_time()
            documents = self.work.blocks[number].read()
            self.tokenizer.write_run(documents, self.work.run_path(number), started=started)
        return numbers


@dataclass
class _Attempt:
    """Makes the runs and the shards that do not stand yet."""

    job: Job
    work: Work
    documents: int
    runs: list[RunSummary] = field(default_factory=list)
    shards: list[MergedShard] = field(default_factory=list)
    runs_found: int = 0  # that an attempt before this one had made
    shards_found: int = 0

    def make(self) -> None:
        """All shards stand. Ray starts only if something is left to do."""
        missing = []
        for number in range(len(self.work.blocks)):
            run = read_run(self.work.run_path(number))
            missing.append(number) if run is None else self.runs.append(run)
        self.runs_found = len(self.runs)
        if missing or self._missing_shards():
            with ray_context(self.job.recipe.cluster.ray):
                self._tokenize(missing)
                self.runs.sort(key=lambda run: run.path)
                self._require_all_documents()
                self._merge()
        self._require_all_tokens()

    def _missing_shards(self) -> list[int]:
        """Shards that documents fall into and that do not stand; those that do are in `self.shards`."""
        self.shards, missing = [], []
        for shard in sorted({shard for run in self.runs for shard in run.shards}):
            merged = read_merged(self.work.shard_path(shard), summary=self.work.merged_path(shard))
            missing.append(shard) if merged is None else self.shards.append(merged)
        self.shards_found = len(self.shards)
        return missing

    def _tokenize(self, missing: Sequence[int]) -> None:
        """The runs of all blocks stand.

        The blocks are our own: Ray's Parquet reader packs 128 MB of small files into one task, which leaves the other
        workers idle on a laptop's corpus, and a file listing of its own takes seconds before that.
        """
        import ray
        import ray.data

        if not missing:
            return
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        plan = ray.data.from_items([{"block": number} for number in missing], override_num_blocks=len(missing))
        actors = max(1, min(len(missing), int(ray.cluster_resources().get("CPU", 1))))
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors)
        runs = plan.map_batches(
            _Actor, fn_constructor_args=(self.work,), batch_size=1, batch_format="pyarrow", compute=pool, num_cpus=1
        )
        documents, tokens = (sum(getattr(count, unit) for count in self.counts) for unit in ("documents", "tokens"))
        for row in runs.iter_rows():
            run = read_run(self.work.run_path(row["block"]))
            if run is None:
                raise StageError(f"{self.work.run_path(row['block'])}: Ray says it is made, and it is not there")
            self.runs.append(run)
            documents += sum(count.documents for count in run.counts)
            tokens += sum(count.tokens for count in run.counts)
            self.job.report(documents, self.documents, "documents", tokens=tokens)

    def _require_all_documents(self) -> None:
        counts = self.counts
        done = sum(count.documents for count in counts)
        if done != self.documents:
            raise StageError(f"{done:,} documents were tokenized of {self.documents:,}")
        require_both_sides(counts, self.work.placement)

    def _merge(self) -> None:
        """Every shard that documents fall into stands in the output."""
        import ray

        missing = self._missing_shards()
        merge = ray.remote(max_retries=RETRIES)(_merge_task)
        work, runs = ray.put(self.work), ray.put(self.runs)
        waiting: list[Any] = [merge.remote(work, shard, runs) for shard in missing]
        while waiting:
            finished, waiting = ray.wait(waiting, num_returns=1)
            self.shards += ray.get(finished)
            self.job.report(len(self.shards), len(missing) + self.shards_found, "shards")
        self.shards.sort(key=lambda merged: merged.shard)

    def _require_all_tokens(self) -> None:
        found, wanted = sum(it.tokens for it in self.shards), sum(count.tokens for count in self.counts)
        if found != wanted:
            raise StageError(f"the shards hold {found:,} tokens of {wanted:,}")

    @property
    def counts(self) -> list[SourceCount]:
        """Of all runs that stand."""
        return [count for run in self.runs for count in run.counts]


def _merge_task(work: Work, shard: int, runs: list[RunSummary]) -> MergedShard:
    return work.merge(shard, runs)


def _outcome(work: Work, attempt: _Attempt) -> Outcome:
    counts, output = attempt.counts, work.output
    totals: dict[str, int] = {}
    for side, validation in zip(SIDES, (False, True), strict=True):
        held = [count for count in counts if count.validation == validation]
        totals[f"{side}_documents"] = sum(count.documents for count in held)
        totals[f"{side}_tokens"] = sum(count.tokens for count in held)
        totals[f"{side}_bytes"] = sum(count.text_bytes for count in held)
        totals[f"{side}_shards"] = sum(work.placement.is_validation(it.shard) == validation for it in attempt.shards)
    text_bytes = totals["train_bytes"] + totals["validation_bytes"]
    files = [
        write_index(output, _index(work, attempt.shards)),
        write_json(output / "stats.json", _sources(counts)),
        write_json(output / "encoder.json", _encoding(work, attempt)),
    ]
    return Outcome(
        paths=[*files, *(work.shard_path(it.shard) for it in attempt.shards)],
        counts=totals,
        figures={
            "bytes_per_token": text_bytes / (totals["train_tokens"] + totals["validation_tokens"]),
            "encode_cpu_seconds": sum(run.cpu_seconds for run in attempt.runs),
            "merge_cpu_seconds": sum(it.cpu_seconds for it in attempt.shards),
            "runs_found_whole": attempt.runs_found,
            "shards_found_whole": attempt.shards_found,
        },
        schemas={"shard": {field.name: str(field.type) for field in work.metadata.schema()}},
        engines=("gigatoken", "pyarrow", "ray", "tokenizers"),
        scratch=(output / RUNS,),
    )


def _index(work: Work, shards: Sequence[MergedShard]) -> ShardIndex:
    sides: tuple[list[ShardEntry], list[ShardEntry]] = ([], [])
    for it in shards:
        path, source = work.placement.path_of(it.shard), work.placement.source_of(it.shard)
        sides[work.placement.is_validation(it.shard)].append(ShardEntry(path, source, it.documents, it.tokens))
    return ShardIndex(work.metadata, tuple(sides[0]), tuple(sides[1]))


def _sources(counts: Sequence[SourceCount]) -> dict[str, Json]:
    """stats.json: tokens of each side, documents and bytes of text by source."""
    sources: dict[str, dict[str, int]] = {}
    for count in sorted(counts, key=lambda count: count.source):
        empty = {"train_tokens": 0, "validation_tokens": 0, "documents": 0, "text_bytes": 0}
        entry = sources.setdefault(count.source, empty)
        entry["validation_tokens" if count.validation else "train_tokens"] += count.tokens
        entry["documents"] += count.documents
        entry["text_bytes"] += count.text_bytes
    return {"sources": {source: dict(entry) for source, entry in sources.items()}}


def _encoding(work: Work, attempt: _Attempt) -> dict[str, Json]:
    """encoder.json: who encoded, and what that rests on."""
    proofs = [run.proof for run in attempt.runs]
    differences: list[Json] = sorted({proof.difference for proof in proofs if proof.difference})[:MOST_TOLD]  # type: ignore[assignment]
    return {
        "asked_for": work.encoder,
        "blocks": {encoder: sum(proof.encoder == encoder for proof in proofs) for encoder in ("fast", "reference")},
        "compared_documents": sum(proof.documents for proof in proofs),
        "compared_bytes": sum(proof.text_bytes for proof in proofs),
        "documents_with_newer_letters": sum(proof.newer_letters for proof in proofs),
        "differences": differences,
    }


if __name__ == "__main__":
    run_job("shards", make, keeps=(RUNS, *SIDES))
