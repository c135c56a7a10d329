"""A shards output by hand: documents of given ids in shards of given sources, with their index."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gpt_core.data.index import ShardEntry, ShardIndex, write_index
from gpt_core.data.shard_set import ShardSet, locate_in
from gpt_core.data.shards import ShardMetadata, write_shard

Documents = Sequence[Sequence[int]]  # ids without the end-of-text token
METADATA = ShardMetadata(tokenizer_digest="d" * 64, vocab_size=60_000, end_of_text_id=0, seed=0)


def write_documents(path: Path, documents: Documents, metadata: ShardMetadata = METADATA) -> int:
    """`path` is a shard of the documents. Returns its tokens."""
    closed = [[*ids, metadata.end_of_text_id] for ids in documents]
    tokens = np.array([i for ids in closed for i in ids], dtype=metadata.dtype)
    offsets = np.cumsum([0, *map(len, closed)], dtype=np.int64)
    write_shard(path, [f"doc-{i}" for i in range(len(documents))], tokens, offsets, metadata)
    return len(tokens)


def write_side(
    root: Path, side: str, sources: Mapping[str, Sequence[Documents]], metadata: ShardMetadata = METADATA
) -> tuple[ShardEntry, ...]:
    """The shards of each source, and their entries in the order of the index."""
    entries = []
    for source, shards in sorted(sources.items()):
        for number, documents in enumerate(shards):
            path = f"{side}/{source or 'other'}/shard-{number:05d}.arrow"
            tokens = write_documents(root / path, documents, metadata)
            entries.append(ShardEntry(path, source, len(documents), tokens))
    return tuple(entries)


def write_shards(
    root: Path,
    train: Mapping[str, Sequence[Documents]],
    validation: Mapping[str, Sequence[Documents]] | None = None,
    metadata: ShardMetadata = METADATA,
) -> ShardIndex:
    """`root` holds shards and their index."""
    sides = [
        write_side(root, side, given or {}, metadata) for side, given in (("train", train), ("validation", validation))
    ]
    index = ShardIndex(metadata, *sides)
    write_index(root, index)
    return index


def open_train(root: Path, index: ShardIndex, *, max_open: int | None = None) -> ShardSet:
    """The train side of what write_shards wrote."""
    return ShardSet(index.train, index.metadata, locate=locate_in(root), max_open=max_open)


def count_up(sizes: Sequence[int]) -> list[list[list[int]]]:
    """A shard of one document for each size, of 1, 2, 3 ... with the end-of-text token as the last of `size` ids."""
    shards, number = [], 0
    for size in sizes:
        shards.append([list(range(number + 1, number + size))])
        number += size
    return shards
