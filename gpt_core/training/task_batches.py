"""Labelled examples as micro-batches of one rank, and what the sums over a global batch are divided by."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from gpt_core.recipe import Finetune
from gpt_core.tasks.batches import epoch_batches, make_batch, share_of
from gpt_core.tasks.sequences import Examples
from gpt_core.training.loop import MicroBatch
from gpt_core.training.tuning import Tuning


@dataclass(frozen=True)
class TaskBatches:
    """The micro-batches of one training, from its first step to its last, and of the validation.

    `settings` are the training's, its seed among them, which alone decides which examples a step has.
    """

    tuning: Tuning
    settings: Finetune
    micro_batch: int  # examples
    rank: int
    world_size: int

    @cached_property
    def steps(self) -> list[list[int]]:
        """The global batch of each step: numbers of training examples."""
        size, seed = self.settings.batch_sequences, self.settings.seed
        lengths = self.tuning.train.lengths
        every = (epoch_batches(lengths, batch_sequences=size, seed=seed, epoch=e) for e in range(self.settings.epochs))
        return [rows for batches in every for rows in batches]

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in one pass over the training examples."""
        return len(self.steps) // self.settings.epochs

    def of_step(self, step: int) -> Iterator[MicroBatch]:
        """This rank's micro-batches of `step`."""
        for _, batch in self._cut(self.tuning.train, self.steps[step], size=self.settings.batch_sequences):
            yield batch

    def of_validation(self) -> Iterator[tuple[list[int], MicroBatch]]:
        """This rank's part of the validation examples, by length, with their numbers; -1 only fills."""
        validation = self.tuning.validation
        order = validation.lengths.argsort(kind="stable").tolist()
        size = self.micro_batch * self.world_size
        for start in range(0, len(order), size):
            yield from self._cut(validation, order[start : start + size], size=size)

    def divisors(self, step: int) -> tuple[float, float]:
        """What makes L2 and L1, each summed over the global batch of `step`, means.

        The sum of the examples' weights, of completion its targets; and the targets of the language model, at least 1.
        """
        rows = self.steps[step]
        return float(self._weights[rows].sum()), max(1.0, float(self._targets[rows].sum()))

    def examples(self, steps: int) -> int:
        """In the first `steps` steps."""
        return int(self._examples[steps])

    def tokens(self, step: int) -> int:
        """In the sequences of the global batch of `step`, without padding."""
        return int(self._tokens[self.steps[step]].sum())

    @cached_property
    def _examples(self) -> npt.NDArray[np.int64]:
        return np.cumsum([0, *map(len, self.steps)])

    @cached_property
    def _weights(self) -> npt.NDArray[np.float64]:
        if self.tuning.spec.target == "text":
            return self._targets.astype(np.float64)
        weights, train = self.tuning.class_weights, self.tuning.train
        return np.ones(len(train)) if weights is None else weights[train.labels.astype(np.int64)]

    @cached_property
    def _tokens(self) -> npt.NDArray[np.int64]:
        return np.array([sum(map(len, sequences)) for sequences in self.tuning.train.sequences])

    @cached_property
    def _targets(self) -> npt.NDArray[np.int64]:
        return self.tuning.train.n_targets

    def _cut(self, examples: Examples, rows: list[int], *, size: int) -> Iterator[tuple[list[int], MicroBatch]]:
        part = share_of(self.rank, self.world_size, rows, size=size)
        for start in range(0, len(part), self.micro_batch):
            chosen = part[start : start + self.micro_batch]
            batch = make_batch(examples, chosen, pad_id=self.tuning.pad_id)
            arrays = (batch.ids, batch.lengths, batch.targets, batch.labels)
            yield chosen, MicroBatch(tuple(map(torch.from_numpy, arrays)))
