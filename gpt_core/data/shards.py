"""Token shards: Arrow IPC files that are memory-mapped, never parsed.

One record batch a file: `doc_id: string`, `tokens: large_list<uint16>` (`uint32` when the vocabulary exceeds
65,535 tokens), uncompressed, so that all token ids of a shard are one zero-copy numpy view and the list offsets
are the borders of documents. The end-of-text token closes every document once. The schema's metadata says the
format's version, the tokenizer's digest, its vocabulary size, the end-of-text id and the seed of the placement.
Any Arrow reader opens a shard: pyarrow, polars, DuckDB, datasets.
"""

import contextlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gpt_core.errors import ArtifactError

FORMAT_VERSION = 2
MAX_UINT16_VOCABULARY = 65_535
_KEYS = ("format_version", "tokenizer_sha256", "vocab_size", "end_of_text_id", "seed")

TokenIds: TypeAlias = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class ShardMetadata:
    """What the ids of a shard mean and how its documents were placed."""

    tokenizer_digest: str
    vocab_size: int
    end_of_text_id: int
    seed: int

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Of the token ids."""
        return np.dtype(np.uint16 if self.vocab_size <= MAX_UINT16_VOCABULARY else np.uint32)

    def schema(self) -> pa.Schema:
        """The Arrow schema of a shard, metadata in it."""
        values = (FORMAT_VERSION, self.tokenizer_digest, self.vocab_size, self.end_of_text_id, self.seed)
        metadata = {f"gptmill.{key}": str(value) for key, value in zip(_KEYS, values, strict=True)}
        fields = [pa.field("doc_id", pa.string(), nullable=False), pa.field("tokens", self.list_type(), nullable=False)]
        return pa.schema(fields, metadata=metadata)

    def list_type(self) -> pa.DataType:
        """The Arrow type of one document's token ids."""
        return pa.large_list(pa.field("item", pa.from_numpy_dtype(self.dtype), nullable=False))

    def to_lists(self, tokens: TokenIds, offsets: npt.NDArray[np.int64]) -> pa.LargeListArray:
        """Document i is `tokens[offsets[i]:offsets[i + 1]]`. Nothing is copied."""
        return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(tokens), type=self.list_type())

    @classmethod
    def from_schema(cls, schema: pa.Schema, *, origin: str) -> "ShardMetadata":
        """What `schema` says. Raises ArtifactError unless it is that of a shard of this format's version."""
        found = {key: (schema.metadata or {}).get(f"gptmill.{key}".encode(), b"").decode() for key in _KEYS}
        if found["format_version"] != str(FORMAT_VERSION):
            raise ArtifactError(
                f"{origin}: is a token shard of format {found['format_version'] or 'unknown'}, this gptmill reads "
                f"format {FORMAT_VERSION}; run the stage shards again"
            )
        metadata = cls(
            tokenizer_digest=found["tokenizer_sha256"],
            vocab_size=int(found["vocab_size"]),
            end_of_text_id=int(found["end_of_text_id"]),
            seed=int(found["seed"]),
        )
        if not schema.equals(metadata.schema()):
            raise ArtifactError(f"{origin}: has the columns of no token shard: {schema.names}; run the stage again")
        return metadata


def write_shard(
    path: Path, doc_ids: pa.StringArray, tokens: TokenIds, offsets: npt.NDArray[np.int64], metadata: ShardMetadata
) -> None:
    """`path` is a token shard whose document i is `tokens[offsets[i]:offsets[i + 1]]`; it appears in one step.

    The same arguments give the same bytes. Raises ValueError unless every document ends in its only end-of-text
    token.
    """
    ends = np.flatnonzero(tokens == metadata.end_of_text_id)
    if tokens.dtype != metadata.dtype or offsets[0] != 0 or not np.array_equal(ends, offsets[1:] - 1):
        raise ValueError(f"{path}: not every document is closed by one end-of-text token of {metadata.dtype}")
    batch = pa.record_batch([doc_ids, metadata.to_lists(tokens, offsets)], schema=metadata.schema())
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[pa.NativeFile]:
    """What is written inside stands at `path` when the block ends well: in one step, whoever else writes, durably."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with pa.OSFile(str(draft), "wb") as sink:
            yield sink
        with draft.open("rb") as stream:
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


class TokenShard:
    """One shard, memory-mapped. Opening reads its footer alone, whatever its size.

    `tokens` (n_tokens,) and `offsets` (n_documents + 1,) int64 are read-only views of the mapped file.
    """

    def __init__(self, path: Path) -> None:
        try:
            with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
                self.metadata = ShardMetadata.from_schema(reader.schema, origin=str(path))
                if reader.num_record_batches != 1:
                    raise ArtifactError(f"{path}: has {reader.num_record_batches} record batches, a shard has one")
                batch = reader.get_batch(0)
        except (OSError, pa.ArrowInvalid) as error:
            raise ArtifactError(f"{path}: cannot be read as a token shard: {error}; run the stage again") from None
        self.path = path
        self.doc_ids: pa.StringArray = batch.column("doc_id")
        lists = batch.column("tokens")
        self.offsets: npt.NDArray[np.int64] = lists.offsets.to_numpy(zero_copy_only=True)
        self.tokens: TokenIds = lists.values.to_numpy(zero_copy_only=True)
