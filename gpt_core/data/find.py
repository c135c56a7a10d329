"""Finding documents in shards: by their id, and those that a stretch of the row of tokens is made of.

A source's shards hold increasing ranges of the low 32 bits of their ids' hashes, so that a document is found by opening
as many shards as a bisection takes, not all of them.
"""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt_core.data.index import ShardEntry
from gpt_core.data.placement import LOW_BITS
from gpt_core.data.shard_set import ShardSet
from gpt_core.data.shards import TokenIds
from gpt_core.tokenizer.documents import hash_strings


@dataclass(frozen=True)
class DocumentPart:
    """Tokens of one document as they stand in a shard; `first_token` is counted within the document."""

    entry: ShardEntry
    number: int  # of the document, within the shard
    doc_id: str
    first_token: int
    tokens: TokenIds
    document_tokens: int  # of the whole document, end of text in


def documents_between(shards: ShardSet, start: int, stop: int) -> Iterator[DocumentPart]:
    """The documents that tokens `start` to `stop` of the row belong to, each with its tokens among them."""
    while start < stop:
        at = int(np.searchsorted(shards.borders, start, side="right")) - 1
        shard, begin = shards.shard(at), int(shards.borders[at])
        number = int(np.searchsorted(shard.offsets, start - begin, side="right")) - 1
        first, last = int(shard.offsets[number]), int(shard.offsets[number + 1])
        end = min(begin + last, stop)
        yield DocumentPart(
            entry=shards.entries[at],
            number=number,
            doc_id=shard.doc_ids[number].as_py(),
            first_token=start - begin - first,
            tokens=shard.tokens[start - begin : end - begin],
            document_tokens=last - first,
        )
        start = end


def find_document(shards: ShardSet, doc_id: str) -> DocumentPart | None:
    """The whole document with this id, if the shards hold it."""
    wanted = _low_bits(shards, doc_id)
    for first, last in _sources(shards):
        near = bisect.bisect_left(
            range(first, last), wanted, key=lambda at: _low_bits(shards, shards.shard(at).doc_ids[0].as_py())
        )
        for at in range(max(first, first + near - 1), min(last, first + near + 1)):
            shard = shards.shard(at)
            number = pc.index(shard.doc_ids, doc_id).as_py()
            if number >= 0:
                start, stop = shard.offsets[number : number + 2].tolist()
                return DocumentPart(shards.entries[at], number, doc_id, 0, shard.tokens[start:stop], stop - start)
    return None


def _sources(shards: ShardSet) -> Iterator[tuple[int, int]]:
    """The shards of each source: from one number up to another."""
    first = 0
    for number, entry in enumerate(shards.entries[1:], start=1):
        if entry.source != shards.entries[first].source:
            yield first, number
            first = number
    yield first, len(shards.entries)


def _low_bits(shards: ShardSet, doc_id: str) -> int:
    hashed = int(hash_strings(pa.array([doc_id]), seed=shards.metadata.seed)[0])
    return hashed & ((1 << int(LOW_BITS)) - 1)
