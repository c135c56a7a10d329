"""From documents to token shards in two passes that need no shuffle service: tokenize into runs, merge into shards.

A *run* holds one block of documents, tokenized: an Arrow IPC file with a record batch for each shard that the
block has documents for. Merging a shard reads its batch of every run and writes the documents in their order.
Runs are scratch: a caller merges those whose summary it got, so an attempt that was killed or repeated leaves
rubbish and never a document too many.

Memory: a worker holds one block, then about two times the token ids of one shard.
"""

import functools
import itertools
import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gpt_core.data.placement import Placement, order_documents
from gpt_core.data.shards import ShardMetadata, TokenIds, write_shard
from gpt_core.errors import ArtifactError, UserError
from gpt_core.tokenizer.documents import hash_strings
from gpt_core.tokenizer.tokenizer import Tokenizer

CHUNK_BYTES = 1_000_000  # of text that the tokenizer takes at once: its intermediate forms are 50 times as large
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
    """A run that is whole: its file, the shards it has documents for, and its counts."""

    path: str
    shards: list[int]
    counts: list[SourceCount]

    def to_json(self) -> str:
        """As one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "RunSummary":
        """The inverse of to_json."""
        tree = json.loads(line)
        return cls(tree["path"], tree["shards"], [SourceCount(**count) for count in tree["counts"]])


@functools.lru_cache(maxsize=2)
def load_once(path: str, digest: str) -> Tokenizer:
    """The tokenizer, kept for the life of the worker. Raises ArtifactError if the file has another digest."""
    tokenizer = Tokenizer.load(Path(path))
    if tokenizer.digest != digest:
        raise ArtifactError(f"{path}: is not the tokenizer that the job began with")
    return tokenizer


def metadata_of(tokenizer: Tokenizer, placement: Placement) -> ShardMetadata:
    """What shards of this tokenizer and placement say of themselves."""
    return ShardMetadata(tokenizer.digest, tokenizer.vocab_size, tokenizer.end_of_text_id, placement.seed)


def tokenize_block(block: pa.Table, *, tokenizer: Tokenizer, placement: Placement, folder: Path) -> RunSummary:
    """The documents of `block` (`id`, `text`, `source`) stand tokenized in a new run below `folder`."""
    metadata = metadata_of(tokenizer, placement)
    hashes = hash_strings(block.column("id"), seed=placement.seed)
    text_hashes = hash_strings(block.column("text"))
    text_bytes = pc.binary_length(block.column("text")).to_numpy()
    tokens, offsets = _encode(block.column("text"), text_bytes, tokenizer, metadata.dtype)
    shards = placement.shards_of(hashes)
    present = np.unique(shards).tolist()
    path = folder / f"{uuid.uuid4().hex}.arrow"
    schema = _run_schema(metadata).with_metadata({SHARDS_KEY: json.dumps(present).encode()})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for shard in present:
            rows = np.flatnonzero(shards == shard)
            lists = metadata.to_lists(*_gather(tokens, offsets, rows))
            ids = block.column("id").take(rows).combine_chunks().cast(pa.string())
            writer.write_batch(
                pa.record_batch([pa.array(hashes[rows]), pa.array(text_hashes[rows]), ids, lists], schema=schema)
            )
    counts = _count(block.column("source"), shards >= placement.train_shards, np.diff(offsets), text_bytes)
    return RunSummary(str(path), present, counts)


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


def merge_shard(runs: Sequence[RunSummary], shard: int, *, path: Path, metadata: ShardMetadata) -> tuple[int, int]:
    """`path` is the shard of all documents that `runs` hold for it, in their order. Returns (documents, tokens)."""
    batches = [_read_batch(run, shard) for run in runs if shard in run.shards]
    table = pa.Table.from_batches(batches)
    del batches
    ids = table.column("id").to_pylist()
    order = order_documents(table.column("hash").to_numpy(), ids, table.column("text_hash").to_numpy())
    documents = [tokens for chunk in table.column("tokens").chunks for tokens in _documents_of(chunk)]
    offsets = np.zeros(len(order) + 1, dtype=np.int64)
    np.cumsum([len(documents[row]) for row in order], out=offsets[1:])
    tokens = np.empty(int(offsets[-1]), dtype=metadata.dtype)
    for place, row in enumerate(order):
        tokens[offsets[place] : offsets[place + 1]] = documents[row]
    write_shard(path, [ids[row] for row in order], tokens, offsets, metadata)
    return len(order), len(tokens)


def _run_schema(metadata: ShardMetadata) -> pa.Schema:
    columns = {"hash": pa.uint64(), "text_hash": pa.uint64(), "id": pa.string(), "tokens": metadata.list_type()}
    return pa.schema(list(columns.items()))


def _encode(
    texts: pa.ChunkedArray, text_bytes: npt.NDArray[np.int64], tokenizer: Tokenizer, dtype: np.dtype[np.unsignedinteger]
) -> tuple[TokenIds, npt.NDArray[np.int64]]:
    """All token ids, an end-of-text token behind every text, and the (n_texts + 1,) offsets of the documents."""
    parts = [np.empty(0, dtype=dtype)]
    lengths = []
    for rows in _chunks(text_bytes):
        for ids in tokenizer.encode_batch(texts.slice(rows.start, len(rows)).to_pylist()):
            ids.append(tokenizer.end_of_text_id)
            parts.append(np.array(ids, dtype=dtype))
            lengths.append(len(ids))
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return np.concatenate(parts), offsets


def _chunks(text_bytes: npt.NDArray[np.int64]) -> Iterator[range]:
    """Consecutive rows, as few chunks as hold about CHUNK_BYTES each."""
    numbers = np.cumsum(text_bytes, dtype=np.int64) // CHUNK_BYTES
    borders = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(text_bytes)]
    return (range(start, stop) for start, stop in itertools.pairwise(borders) if stop > start)


def _gather(
    tokens: TokenIds, offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> tuple[TokenIds, npt.NDArray[np.int64]]:
    """The chosen documents, one behind the other."""
    gathered = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(offsets[rows + 1] - offsets[rows], out=gathered[1:])
    return np.concatenate([tokens[offsets[row] : offsets[row + 1]] for row in rows]), gathered


def _count(
    sources: pa.ChunkedArray,
    validation: npt.NDArray[np.bool_],
    tokens: npt.NDArray[np.int64],
    text_bytes: npt.NDArray[np.int64],
) -> list[SourceCount]:
    columns = {"source": sources, "validation": validation, "tokens": tokens, "text_bytes": text_bytes}
    grouped = pa.table(columns).group_by(["source", "validation"])
    sums = grouped.aggregate([("tokens", "count"), ("tokens", "sum"), ("text_bytes", "sum")]).to_pylist()
    return [
        SourceCount(row["source"], row["validation"], row["tokens_count"], row["tokens_sum"], row["text_bytes_sum"])
        for row in sums
    ]


def _read_batch(run: RunSummary, shard: int) -> pa.RecordBatch:
    """The run's batch for `shard`, in memory: thousands of mapped runs would exhaust the open files."""
    with pa.OSFile(run.path) as source, pa.ipc.open_file(source) as reader:
        return reader.get_batch(json.loads(reader.schema.metadata[SHARDS_KEY]).index(shard))


def _documents_of(lists: pa.LargeListArray) -> Iterator[TokenIds]:
    values, offsets = lists.values.to_numpy(zero_copy_only=True), lists.offsets.to_numpy().tolist()
    return (values[start:stop] for start, stop in itertools.pairwise(offsets))
