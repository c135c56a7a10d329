"""A sample of the documents: of every source its share of the bytes. A function of the set of documents alone.

Within a source, documents stand in the order of the xxh3-64 of their id (then of their text, should two share an id).
Of a budget of B bytes a source's quota is B times its share of the corpus's bytes. It gives the documents that fit
into its quota; what is left of B goes by largest remainder, a document each: first to sources that have given none,
then to those furthest below their quota, until B is reached. So the sample has B bytes or less than a document more,
and every source has one document at least as long as B allows it.

Cost: two passes over the Parquet files and 40 bytes of memory a document.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gpt_core.tokenizer.documents import hash_strings, read_batches

Flags = npt.NDArray[np.bool_]
Sizes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """Which documents were chosen, a flag for each, counted as they are read."""

    chosen: Flags
    documents: int
    text_bytes: int

    def read(self, paths: Sequence[Path], *, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The documents of the sample in batches, as they stand in `paths`; a column that there is not is left out."""
        start = 0
        for batch in read_batches(paths, columns=columns):
            rows = np.flatnonzero(self.chosen[start : start + len(batch)])
            start += len(batch)
            if len(rows):
                yield batch.take(pa.array(rows))

    def texts(self, paths: Sequence[Path]) -> Iterator[list[str]]:
        """The texts of the sample."""
        for batch in self.read(paths, columns=("text",)):
            yield batch.column("text").to_pylist()


@dataclass(frozen=True)
class Population:
    """All documents, grouped by source, the sources by name, in a source by hash; `order` says where they are read."""

    order: npt.NDArray[np.intp]
    sizes: Sizes  # bytes of UTF-8, in that order
    borders: npt.NDArray[np.intp]  # source i is [borders[i], borders[i + 1])

    def sample(self, budget_bytes: int) -> Sample:
        """The sample of `budget_bytes`, or all documents where they have no more."""
        groups = np.split(self.sizes, self.borders[1:-1])
        counts = allot(groups, budget_bytes)
        chosen = np.zeros(len(self.order), dtype=np.bool_)
        for start, count in zip(self.borders[:-1], counts, strict=True):
            chosen[self.order[start : start + count]] = True
        text_bytes = sum(int(sizes[:count].sum()) for sizes, count in zip(groups, counts, strict=True))
        return Sample(chosen, sum(counts), text_bytes)


def read_population(paths: Sequence[Path]) -> Population:
    """The documents of `paths`, of which there is one at least. One pass."""
    keys, sizes, names = [], [], []
    for batch in read_batches(paths, columns=("id", "text", "source")):
        keys.append([hash_strings(batch.column(name)) for name in ("text", "id")])
        sizes.append(pc.binary_length(batch.column("text")).to_numpy().astype(np.int64))
        names.append(batch.column("source").cast(pa.large_string()).dictionary_encode())
    encoded = pa.chunked_array(names).unify_dictionaries().combine_chunks()
    met = encoded.dictionary.to_pylist()
    place = {name: i for i, name in enumerate(sorted(met))}
    sources = np.array([place[name] for name in met])[encoded.indices.to_numpy()]
    text_keys, id_keys = np.concatenate(keys, axis=1)
    order = np.lexsort((text_keys, id_keys, sources))  # the last key, the source, comes first
    borders = np.searchsorted(sources[order], np.arange(len(met) + 1))
    return Population(order, np.concatenate(sizes)[order], borders)


def allot(groups: Sequence[Sizes], budget_bytes: int) -> list[int]:
    """How many documents each source gives, from its first on; `groups` has the bytes of their texts."""
    total = sum(int(sizes.sum()) for sizes in groups)
    if budget_bytes >= total:
        return [len(sizes) for sizes in groups]
    counts, below = [], []  # `below`: how far a source is below its quota, times `total`, so that it is exact
    for sizes in groups:
        quota = budget_bytes * int(sizes.sum())
        count = int(np.searchsorted(np.cumsum(sizes), quota // total, side="right"))
        counts.append(count)
        below.append(quota - int(sizes[:count].sum()) * total)
    left = sum(below) // total
    for i in sorted(range(len(groups)), key=lambda i: (counts[i] > 0, -below[i], i)):
        if left <= 0:
            break
        if counts[i] < len(groups[i]):
            left -= int(groups[i][counts[i]])
            counts[i] += 1
    return counts
