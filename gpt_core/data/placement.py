"""Where a document goes: its source and one hash of (seed, id) decide its side, its shard and its place there.

Thus the shards depend on the recipe and the set of documents alone: not on the files the documents came in, nor
on the workers that carried them. A document that is added moves no other between train and validation.

Every source has shards of its own, so that a mixture can weigh it; the smallest of very many sources share theirs.
"""

import functools
import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from gpt_core.recipe import Shards

LOW_BITS = np.uint64(32)
MOST_SOURCES = 256  # that have shards of their own
REST = ""  # the source that stands for all others
_PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True)
class SourceShards:
    """How many shards a source has on each side."""

    source: str
    train: int
    validation: int


@dataclass(frozen=True)
class Placement:
    """The rule that places documents.

    Shards are numbered from 0: the train shards, source by source, then the validation shards likewise.
    """

    seed: int
    validation_fraction: float
    sources: tuple[SourceShards, ...]  # by name

    @classmethod
    def from_recipe(cls, shards: Shards, *, text_bytes: Mapping[str, int]) -> "Placement":
        """Enough shards of each source that each holds about `shards.shard_text_bytes` of its text, at least one."""
        largest = sorted(text_bytes, key=lambda name: (-text_bytes[name], name))[:MOST_SOURCES]
        sizes = {name: text_bytes[name] for name in largest if name != REST}
        if len(sizes) < len(text_bytes):
            sizes[REST] = sum(text_bytes.values()) - sum(sizes.values())
        sources = []
        for name, size in sorted(sizes.items()):
            held_out = size * shards.validation_fraction
            counts = (max(1, math.ceil(part / shards.shard_text_bytes)) for part in (size - held_out, held_out))
            sources.append(SourceShards(name, *counts))
        return cls(shards.seed, shards.validation_fraction, tuple(sources))

    @property
    def train_shards(self) -> int:
        """Of all sources."""
        return sum(source.train for source in self.sources)

    @functools.cached_property
    def _firsts(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """The number of each source's first shard on each side: train, validation; each has one entry more."""
        train = list(itertools.accumulate((source.train for source in self.sources), initial=0))
        validation = list(itertools.accumulate((source.validation for source in self.sources), initial=train[-1]))
        return np.array(train, np.uint64), np.array(validation, np.uint64)

    def shards_of(
        self, hashes: npt.NDArray[np.uint64], sources: pa.StringArray | pa.ChunkedArray
    ) -> npt.NDArray[np.int64]:
        """The shard of each document, from the xxh3-64 of its id under `seed` and its source.

        Validation where hash / 2^64 < validation_fraction; the hash's low 32 bits spread a side over its shards.
        Raises ValueError for a source that the placement does not know.
        """
        names = pa.array([source.source for source in self.sources], sources.type)
        found = pc.index_in(sources, names)
        if found.null_count:
            if self.sources[0].source != REST:
                unknown = pc.filter(sources, pc.is_null(found))[0].as_py()
                raise ValueError(f"source {unknown!r} has no shards")
            found = found.fill_null(0)
        of: npt.NDArray[np.int64] = found.to_numpy().astype(np.int64)
        validation = hashes < np.uint64(int(self.validation_fraction * 2**64))
        spread = hashes & ((np.uint64(1) << LOW_BITS) - np.uint64(1))
        train, held_out = (first[of] + ((spread * np.diff(first)[of]) >> LOW_BITS) for first in self._firsts)
        numbers: npt.NDArray[np.int64] = np.where(validation, held_out, train).astype(np.int64)
        return numbers

    def is_validation(self, shard: int) -> bool:
        """Whether the documents of `shard` are held out."""
        return shard >= self.train_shards

    def source_of(self, shard: int) -> str:
        """Whose documents `shard` holds."""
        return self.sources[self._place_of(shard)[0]].source

    def path_of(self, shard: int) -> str:
        """The shard's file below the output: train/novels/shard-00000.arrow."""
        source, number = self._place_of(shard)
        side = "validation" if self.is_validation(shard) else "train"
        return f"{side}/{folder_of(self.sources[source].source)}/shard-{number:05d}.arrow"

    def _place_of(self, shard: int) -> tuple[int, int]:
        """Which source a shard is of, and which of the source's shards on its side it is."""
        first = self._firsts[self.is_validation(shard)]
        source = int(np.searchsorted(first, shard, side="right")) - 1
        return source, shard - int(first[source])


def folder_of(source: str) -> str:
    """A folder's name for a source: its own where that is plain, else what is plain of it and a hash."""
    if source == REST:
        return "_others"
    if _PLAIN_NAME.fullmatch(source):
        return source
    plain = re.sub(r"[^a-z0-9]+", "-", source.lower())[:40].strip("-")
    return f"_{plain}-{xxhash.xxh3_64_hexdigest(source.encode())[:8]}"
