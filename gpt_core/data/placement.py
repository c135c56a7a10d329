"""Where a document goes: one hash of (seed, id) decides its side, its shard and its place in the shard.

Thus the shards depend on the recipe and the set of documents alone: not on the files the documents came in, nor
on the workers that carried them. A document that is added moves no other between train and validation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpt_core.recipe import Shards

LOW_BITS = np.uint64(32)


@dataclass(frozen=True)
class Placement:
    """The rule that places documents. Shards are numbered from 0: the train shards, then the validation shards."""

    seed: int
    validation_fraction: float
    train_shards: int
    validation_shards: int

    @classmethod
    def from_recipe(cls, shards: Shards, *, text_bytes: int) -> "Placement":
        """Enough shards that each side's hold about `shards.shard_text_bytes` of text, at least one."""
        validation_bytes = text_bytes * shards.validation_fraction
        return cls(
            seed=shards.seed,
            validation_fraction=shards.validation_fraction,
            train_shards=max(1, math.ceil((text_bytes - validation_bytes) / shards.shard_text_bytes)),
            validation_shards=max(1, math.ceil(validation_bytes / shards.shard_text_bytes)),
        )

    @property
    def n_shards(self) -> int:
        """Of both sides."""
        return self.train_shards + self.validation_shards

    def shards_of(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """The shard of each document, from the xxh3-64 of its id under `seed`.

        Validation where hash / 2^64 < validation_fraction; the hash's low 32 bits spread a side over its shards.
        """
        validation = hashes < np.uint64(int(self.validation_fraction * 2**64))
        spread = hashes & ((np.uint64(1) << LOW_BITS) - np.uint64(1))
        train = (spread * np.uint64(self.train_shards)) >> LOW_BITS
        held_out = np.uint64(self.train_shards) + ((spread * np.uint64(self.validation_shards)) >> LOW_BITS)
        return np.where(validation, held_out, train).astype(np.int64)

    def is_validation(self, shard: int) -> bool:
        """Whether the documents of `shard` are held out."""
        return shard >= self.train_shards

    def path_of(self, shard: int) -> str:
        """The shard's file below the output."""
        if self.is_validation(shard):
            return f"validation/shard-{shard - self.train_shards:05d}.arrow"
        return f"train/shard-{shard:05d}.arrow"


def order_documents(
    hashes: npt.NDArray[np.uint64], ids: Sequence[str], text_hashes: npt.NDArray[np.uint64]
) -> list[int]:
    """The documents of a shard in their order: by hash of the id, then id, then text should two share an id."""
    keys = list(zip(hashes.tolist(), ids, text_hashes.tolist(), strict=True))
    return sorted(range(len(keys)), key=keys.__getitem__)
