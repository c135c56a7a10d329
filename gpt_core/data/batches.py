"""Windows of tokens for training and validation.

The token ids of all shards stand in a row; window i is the T + 1 ids from i T on, T inputs and their T targets, so
that neighbours share one id and every id but the first is a target once an epoch. What is left behind the last
whole window, fewer than T ids, is not used. Which window a sample number gets depends on the seed alone: not on
ranks, workers or restarts. The only state is the step.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from gpt_core.data.order import SampleOrder
from gpt_core.data.shard_set import ShardSet
from gpt_core.errors import UserError


class TrainingWindows:
    """Shuffled windows of T + 1 token ids, a fresh permutation every epoch.

    Raises UserError if the shards hold less than one window.
    """

    def __init__(self, shards: ShardSet, context_length: int, seed: int) -> None:
        self.shards = shards
        self.context_length = context_length
        self.n_samples = count_windows(shards, context_length, side="train")
        self.unused_tokens = shards.n_tokens - (self.n_samples * context_length + 1)
        self.order = SampleOrder(self.n_samples, seed)

    def batch(self, step: int, *, batch_sequences: int, rank: int = 0, world_size: int = 1) -> npt.NDArray[np.int64]:
        """This rank's part of the batch of `step` (from 0), (batch_sequences / world_size, T + 1) int64.

        The batch is the sample numbers step x batch_sequences and on; rank r takes the r-th of world_size equal
        parts, so that all ranks' parts in a row are the same for any world size.
        """
        if batch_sequences % world_size or not 0 <= rank < world_size:
            raise ValueError(f"{batch_sequences=} has no equal part for {rank=} of {world_size=}")
        share = batch_sequences // world_size
        first = step * batch_sequences + rank * share
        windows = self.order.take(np.arange(first, first + share))
        return self.shards.gather(windows * self.context_length, self.context_length + 1).astype(np.int64, copy=False)


def validation_windows(
    shards: ShardSet, context_length: int, max_tokens: int | None = None
) -> Iterator[npt.NDArray[np.int64]]:
    """The windows of T + 1 ids, int64, in order, of at most `max_tokens` targets in all but at least one window.

    Raises UserError if the shards hold less than one window.
    """
    count = count_windows(shards, context_length, side="validation")
    if max_tokens is not None:
        count = min(count, max(1, max_tokens // context_length))
    starts = range(0, count * context_length, context_length)
    return (shards.gather(np.array([start]), context_length + 1)[0].astype(np.int64, copy=False) for start in starts)


def count_windows(shards: ShardSet, context_length: int, *, side: str) -> int:
    """Whole windows of `context_length` + 1 ids in the shards. Raises UserError if there is none."""
    count = (shards.n_tokens - 1) // context_length
    if count < 1:
        remedy = ", or raise shards.validation_fraction" if side == "validation" else ""
        raise UserError(
            f"model.context_length={context_length} exceeds the {shards.n_tokens} {side} tokens; lower it{remedy}, "
            "or add to corpus.inputs"
        )
    return count
