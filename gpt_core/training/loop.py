"""The training loop, for pre-training and fine-tuning alike: micro-batches in, one step out, a figure for each.

Deterministic: dropout is seeded by seed, step and rank, so that a resumed run draws what the uninterrupted one drew.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpt_core.errors import StageError
from gpt_core.training.engine import Engine
from gpt_core.training.schedule import Schedule


@dataclass(frozen=True)
class MicroBatch:
    """The objective's inputs for one forward pass on one rank."""

    inputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class StepFigures:
    """One step, over all ranks. `sums` are the objective's outputs, summed over the global batch."""

    step: int  # steps done, so 1 after the first
    sums: list[float]
    gradient_norm: float
    learning_rate: float
    seconds: float


# (step, the objective's output) -> the loss whose gradients are added, and the sums to add up over the global batch.
Weigh = Callable[[int, Any], tuple[Tensor, Sequence[Tensor]]]


def train(
    engine: Engine,
    schedule: Schedule,
    *,
    batches: Callable[[int], Iterable[MicroBatch]],
    weigh: Weigh,
    seed: int,
    first_step: int = 0,
) -> Iterator[StepFigures]:
    """Steps from `first_step` to the schedule's end, one for each item asked for.

    `batches(step)` gives this rank's micro-batches, equally many on every rank. `weigh(step, output)` gives the loss,
    already divided by the global batch's count, and the sums to report. Raises StageError at a loss that is not
    finite, on all ranks alike, before it reaches the weights.
    """
    for step in range(first_step, schedule.steps):
        started = time.perf_counter()
        torch.manual_seed(_mix(seed, step, engine.rank))
        totals: list[float] = []
        waiting = list(batches(step))
        for index, batch in enumerate(waiting):
            loss, sums = weigh(step, engine.forward(*batch.inputs))
            engine.backward(loss, last=index == len(waiting) - 1)
            values = [float(value.detach()) for value in sums]
            totals = [a + b for a, b in zip(totals or [0.0] * len(values), values, strict=True)]
        totals = engine.sum_over_ranks(totals)
        if not all(map(math.isfinite, totals)):
            raise StageError(f"step {step + 1}: the loss is {totals[0]}; lower the learning rate or raise the warm-up")
        learning_rate = schedule.learning_rate(step)
        norm = engine.step(learning_rate)
        yield StepFigures(step + 1, totals, norm, learning_rate, time.perf_counter() - started)


def _mix(seed: int, step: int, rank: int) -> int:
    """A seed of its own for every step and rank, below 2**63."""
    return (seed * 1_000_003 + step * 8_191 + rank) % 2**63
