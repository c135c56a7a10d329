"""The training loop, for pre-training and fine-tuning alike: micro-batches in, one step out, a figure for each.

Deterministic: dropout is seeded by seed, step and rank, so that a resumed run draws what the uninterrupted one drew.
"""

import logging
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

SKIPS_ALLOWED = 4  # in a row; one more ends the run

logger = logging.getLogger("gptmill")


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
    skipped: bool = False  # a figure was not finite, and the weights did not move
    signals: Sequence[float] = ()  # each summed over all ranks


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
    signals: Callable[[], Sequence[float]] = tuple,
) -> Iterator[StepFigures]:
    """Steps from `first_step` to the schedule's end, one for each item asked for.

    `batches(step)` gives this rank's micro-batches, equally many on every rank. `weigh(step, output)` gives the loss,
    already divided by the global batch's count, and the sums to report. `signals` is asked at each step's end, and all
    ranks learn each one's sum: so they agree on what one of them has seen. A step whose loss or gradient norm is not
    finite is skipped; StageError is raised, on all ranks alike, when more than SKIPS_ALLOWED are so in a row.
    """
    skipped_in_a_row = 0
    for step in range(first_step, schedule.steps):
        started = time.perf_counter()
        torch.manual_seed(_mix(seed, step, engine.rank))
        totals: list[Tensor] = []
        waiting = list(batches(step))
        for index, batch in enumerate(waiting):
            loss, sums = weigh(step, engine.forward(*batch.inputs))
            engine.backward(loss, last=index == len(waiting) - 1)
            values = [value.detach().double() for value in sums]
            totals = [a + b for a, b in zip(totals, values, strict=True)] if totals else values
        learning_rate = schedule.learning_rate(step)
        norm = engine.step(learning_rate)
        summed = engine.sum_over_ranks([*map(float, totals), *signals()])
        figures, signalled = summed[: len(totals)], summed[len(totals) :]
        skipped = not all(map(math.isfinite, [*figures, norm]))
        skipped_in_a_row = skipped_in_a_row + 1 if skipped else 0
        if skipped:
            _tell_of(step + 1, loss=figures[0], norm=norm, skipped_in_a_row=skipped_in_a_row)
        seconds = time.perf_counter() - started
        yield StepFigures(step + 1, figures, norm, learning_rate, seconds, skipped, signalled)


def _tell_of(step: int, *, loss: float, norm: float, skipped_in_a_row: int) -> None:
    reason = f"step {step}: the loss is {loss} and the gradient norm {norm}"
    if skipped_in_a_row > SKIPS_ALLOWED:
        raise StageError(f"{reason}, step {skipped_in_a_row} of its kind in a row; lower the learning rate or warm up")
    logger.warning("%s; it is skipped", reason)


def _mix(seed: int, step: int, rank: int) -> int:
    """A seed of its own for every step and rank, below 2**63."""
    return (seed * 1_000_003 + step * 8_191 + rank) % 2**63
