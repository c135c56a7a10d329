"""Examples in batches: which go together in an epoch, which of them a rank takes, and their arrays.

The batches of an epoch depend on the seed and the epoch alone, not on the number of ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpt_core.tasks.sequences import Examples, Labels
from gpt_core.tasks.spec import IGNORED

BUCKET_BATCHES = 16  # batches that are sorted by length together


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """B examples of at most S sequences of at most T tokens, padded on the right.

    `lengths` is 0 where an example has no further sequence. Rows that fill a rank's part have one of a single token;
    their labels are -100, or NaN where labels are floats.
    """

    ids: npt.NDArray[np.int64]  # (B, S, T)
    lengths: npt.NDArray[np.int64]  # (B, S)
    targets: npt.NDArray[np.int64]  # (B, S, T), the next token; -100 where that is padding or is not learned
    labels: Labels  # (B,), or (B, L) for classes


def epoch_batches(lengths: npt.NDArray[np.int64], *, batch_sequences: int, seed: int, epoch: int) -> list[list[int]]:
    """Every example once, in batches of like lengths, shuffled; the same for any number of ranks.

    Examples are shuffled, sorted by length within BUCKET_BATCHES batches, and the batches shuffled again. One batch
    may be short.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    bucket = BUCKET_BATCHES * batch_sequences
    batches: list[list[int]] = []
    for start in range(0, len(order), bucket):
        part = order[start : start + bucket]
        ranked = part[np.argsort(lengths[part], kind="stable")].tolist()
        batches += [ranked[i : i + batch_sequences] for i in range(0, len(ranked), batch_sequences)]
    return [batches[index] for index in random.permutation(len(batches))]


def share_of(rank: int, world_size: int, rows: Sequence[int], *, size: int) -> list[int]:
    """The rank's part of a batch of `rows`, dealt in turn; -1 fills it up to `size` / `world_size`."""
    part = list(rows[rank::world_size])
    return part + [-1] * (size // world_size - len(part))


def make_batch(examples: Examples, rows: Sequence[int], *, pad_id: int) -> TaskBatch:
    """The examples with the numbers `rows`, padded to the longest; -1 is a row that counts nothing."""
    chosen = [examples.sequences[row] if row >= 0 else ((pad_id,),) for row in rows]
    most, longest = max(map(len, chosen)), max(len(ids) for sequences in chosen for ids in sequences)
    ids = np.full((len(rows), most, longest), pad_id, dtype=np.int64)
    targets = np.full_like(ids, IGNORED)
    lengths = np.zeros((len(rows), most), dtype=np.int64)
    for index, (row, sequences) in enumerate(zip(rows, chosen, strict=True)):
        first = int(examples.loss_from[row]) if row >= 0 else 1
        for place, sequence in enumerate(sequences):
            ids[index, place, : len(sequence)] = sequence
            targets[index, place, first - 1 : len(sequence) - 1] = sequence[first:]
            lengths[index, place] = len(sequence)
    labels = examples.labels[list(rows)]
    labels[np.asarray(rows) < 0] = np.nan if labels.dtype == np.float32 else IGNORED
    return TaskBatch(ids, lengths, targets, labels)
