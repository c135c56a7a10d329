"""From documents to token shards in two passes that need no shuffle service: tokenize into runs, merge into shards.

A *run* holds one block of documents, tokenized: an Arrow IPC file with a record batch for each shard that the
block has documents for, and a summary beside it, written last. Merging a shard reads its batch of every run and lays
the documents in their order. Both are written in one step and depend on the recipe and the documents alone, so an
attempt that was killed leaves runs and shards that the next one takes as they stand, and two workers at one block
do no harm.

Memory: a worker holds one block, then about two times the token ids of one shard.
"""

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gpt_core.artifact import write_atomically
from gpt_core.data.placement import Placement
from gpt_core.data.shards import ShardMetadata, write_shard, write_whole
from gpt_core.errors import ArtifactError, UserError
from gpt_core.kernel import kernel
from gpt_core.tokenizer.documents import hash_strings
from gpt_core.tokenizer.encoder import Proof, ProvenEncoder
from gpt_core.tokenizer.newer_letters import find_newer_letters
from gpt_core.tokenizer.tokenizer import Tokenizer

SHARDS_KEY = b"gptmill.shards"


@dataclass(frozen=True)
class SourceCount:
    """What one source brought to one side."""

    source: str
    validation: bool
    documents: int
    tokens: int
    text_bytes: int


@dataclass(frozen=True)
class RunSummary:
    """A run that is whole: its file, the shards it has documents for, its counts and what it took."""

    path: str
    size_bytes: int
    shards: list[int]
    counts: list[SourceCount]
    proof: Proof
    cpu_seconds: float  # of reading, encoding and writing the block, in the process that did


@dataclass(frozen=True)
class MergedShard:
    """A shard that is whole."""

    shard: int
    documents: int
    tokens: int
    size_bytes: int
    cpu_seconds: float


def metadata_of(tokenizer: Tokenizer, placement: Placement) -> ShardMetadata:
    """What shards of this tokenizer and placement say of themselves."""
    return ShardMetadata(tokenizer.digest, tokenizer.vocab_size, tokenizer.end_of_text_id, placement.seed)


@dataclass(frozen=True)
class BlockTokenizer:
    """Turns blocks of documents into runs; kept by a worker, since the encoder learns words as it goes."""

    encoder: ProvenEncoder
    metadata: ShardMetadata
    placement: Placement

    def write_run(self, block: pa.Table, path: Path, *, started: float) -> RunSummary:
        """The documents of `block` (`id`, `text`, `source`) stand tokenized in the run `path`, its summary beside it.

        `started` is what time.process_time() said when the worker began to read the block.
        """
        block = block.combine_chunks()
        ids, texts = (_only_chunk(block.column(name)) for name in ("id", "text"))
        texts = texts.cast(pa.large_string())
        hashes = hash_strings(ids, seed=self.placement.seed)
        shards = self.placement.shards_of(hashes, block.column("source"))
        values, borders, proof = self.encoder.encode(texts, hashes)
        lengths = np.diff(borders) + 1  # the end-of-text token in
        order = np.lexsort((hashes, shards))
        ends = np.cumsum(lengths[order])
        starts = np.empty_like(ends)
        starts[order] = ends - lengths[order]
        tokens = np.empty(int(ends[-1]) if len(ends) else 0, self.metadata.dtype)
        scatter_lists(values, borders, starts, tokens)
        tokens[ends - 1] = self.metadata.end_of_text_id
        present, firsts = np.unique(shards[order], return_index=True)
        bounds = [*firsts.tolist(), len(order)]
        schema = _run_schema(self.metadata).with_metadata({SHARDS_KEY: json.dumps(present.tolist()).encode()})
        sorted_ids, sorted_hashes = ids.take(pa.array(order)).cast(pa.string()), hashes[order]
        with write_whole(path) as sink, pa.ipc.new_file(sink, schema) as writer:
            for first, last in itertools.pairwise(bounds):
                begin = ends[first] - lengths[order[first]]
                offsets = np.concatenate([[0], ends[first:last] - begin])
                lists = self.metadata.to_lists(tokens[begin : ends[last - 1]], offsets)
                columns = [pa.array(sorted_hashes[first:last]), sorted_ids.slice(first, last - first), lists]
                writer.write_batch(pa.record_batch(columns, schema=schema))
        validation = shards >= self.placement.train_shards
        counts = _count(block.column("source"), validation, lengths, pc.binary_length(texts))
        cpu_seconds = time.process_time() - started
        summary = RunSummary(str(path), path.stat().st_size, present.tolist(), counts, proof, cpu_seconds)
        write_atomically(path.with_suffix(".json"), json.dumps(asdict(summary)))
        return summary


def read_run(path: Path) -> RunSummary | None:
    """The summary of the run `path` if that is whole, else None."""
    tree = _read_summary(path)
    if tree is None:
        return None
    counts = [SourceCount(**count) for count in tree.pop("counts")]
    return RunSummary(**{**tree, "path": str(path), "counts": counts, "proof": Proof(**tree["proof"])})


def require_both_sides(counts: Sequence[SourceCount], placement: Placement) -> None:
    """Raises UserError unless there are documents to train on and documents to validate with."""
    documents = sum(count.documents for count in counts)
    remedies = {True: ("holds out none for validation", "raise"), False: ("leaves none to train on", "lower")}
    for validation, (what, remedy) in remedies.items():
        if not any(count.validation == validation for count in counts):
            raise UserError(
                f"shards.validation_fraction={placement.validation_fraction} {what} of {documents} documents; "
                f"{remedy} it, take another shards.seed, or add to corpus.inputs"
            )


def merge_shard(
    runs: Sequence[RunSummary], shard: int, *, path: Path, summary: Path, metadata: ShardMetadata
) -> MergedShard:
    """`path` is the shard of all documents that `runs` hold for it, in the order of (hash, id); `summary` tells of it.

    Raises ArtifactError where two documents have one id.
    """
    started = time.process_time()
    batches = [_read_batch(run, shard) for run in runs if shard in run.shards]
    hashes = np.concatenate([batch.column("hash").to_numpy() for batch in batches])
    ids = pa.concat_arrays([batch.column("id") for batch in batches])
    lists = [batch.column("tokens") for batch in batches]
    del batches
    order = order_documents(hashes, ids)
    lengths = np.concatenate([np.diff(_offsets(chunk)) for chunk in lists])
    offsets = np.concatenate([[0], np.cumsum(lengths[order])])
    starts = np.empty(len(order), np.int64)
    starts[order] = offsets[:-1]
    tokens = np.empty(int(offsets[-1]), metadata.dtype)
    first = 0
    for chunk in lists:
        scatter_lists(chunk.values.to_numpy(), _offsets(chunk), starts[first : first + len(chunk)], tokens)
        first += len(chunk)
    write_shard(path, ids.take(pa.array(order)), tokens, offsets, metadata)
    merged = MergedShard(shard, len(order), len(tokens), path.stat().st_size, time.process_time() - started)
    write_atomically(summary, json.dumps(asdict(merged)))
    return merged


def read_merged(path: Path, *, summary: Path) -> MergedShard | None:
    """What merge_shard said of the shard `path` if that is whole, else None."""
    tree = _read_summary(path, summary)
    return MergedShard(**tree) if tree else None


def order_documents(hashes: npt.NDArray[np.uint64], ids: pa.StringArray) -> npt.NDArray[np.int64]:
    """The documents of a shard in their order: by hash of the id, and by id should two hashes be one.

    Raises ArtifactError where two documents have one id.
    """
    order = np.argsort(hashes, kind="stable")
    alike = np.flatnonzero(np.diff(hashes[order]) == 0)
    if len(alike):
        names = ids.to_pylist()
        order = np.array(sorted(order.tolist(), key=lambda row: (int(hashes[row]), names[row])), np.int64)
        for place in alike.tolist():
            if names[order[place]] == names[order[place + 1]]:
                raise ArtifactError(f"two documents have the id {names[order[place]]!r}; run the stage dedup again")
    return order


@kernel
def scatter_lists(values: Any, offsets: Any, starts: Any, out: Any) -> None:
    """List i, `values[offsets[i]:offsets[i + 1]]`, stands in `out` from `starts[i]` on."""
    for row in range(len(starts)):
        begin, start = offsets[row], starts[row]
        for i in range(offsets[row + 1] - begin):
            out[start + i] = values[begin + i]


def compile_kernels(metadata: ShardMetadata) -> None:
    """This machine has compiled what runs and merges call."""
    offsets, out = np.zeros(1, np.int64), np.empty(0, metadata.dtype)
    scatter_lists(np.empty(0, np.uint32), offsets, offsets[:0], out)
    scatter_lists(pa.array(out).to_numpy(), pa.array(offsets).to_numpy(), offsets[:0], out)  # Arrow's is read-only
    find_newer_letters(pa.array(["a"], pa.large_string()))


def _run_schema(metadata: ShardMetadata) -> pa.Schema:
    return pa.schema({"hash": pa.uint64(), "id": pa.string(), "tokens": metadata.list_type()})


def _read_summary(path: Path, summary: Path | None = None) -> dict[str, Any] | None:
    """The summary of a file, if that stands with the size it tells."""
    try:
        tree: dict[str, Any] = json.loads((summary or path.with_suffix(".json")).read_bytes())
        return tree if path.stat().st_size == tree["size_bytes"] else None
    except (OSError, ValueError):
        return None


def _read_batch(run: RunSummary, shard: int) -> pa.RecordBatch:
    """The run's batch for `shard`, in memory: thousands of mapped runs would exhaust the open files."""
    with pa.OSFile(run.path) as source, pa.ipc.open_file(source) as reader:
        return reader.get_batch(json.loads(reader.schema.metadata[SHARDS_KEY]).index(shard))


def _offsets(lists: pa.LargeListArray) -> npt.NDArray[np.int64]:
    return np.asarray(lists.offsets.to_numpy(), np.int64)


def _only_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _count(
    sources: pa.ChunkedArray, validation: npt.NDArray[np.bool_], tokens: npt.NDArray[np.int64], text_bytes: pa.Array
) -> list[SourceCount]:
    columns = {"source": sources, "validation": validation, "tokens": tokens, "text_bytes": text_bytes}
    grouped = pa.table(columns).group_by(["source", "validation"], use_threads=False)
    sums = grouped.aggregate([("tokens", "count"), ("tokens", "sum"), ("text_bytes", "sum")]).to_pylist()
    return [
        SourceCount(row["source"], row["validation"], row["tokens_count"], row["tokens_sum"], row["text_bytes_sum"])
        for row in sums
    ]
