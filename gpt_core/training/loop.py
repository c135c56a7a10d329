"""The training loop, for pre-training and fine-tuning alike: micro-batches in, one step out, a figure for each.

Deterministic: dropout is seeded by seed, step and rank, so that a resumed run draws what the uninterrupted one drew.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gpt_core.training.engine import Engine
from gpt_core.training.guard import Guard
from gpt_core.training.schedule import Schedule


@dataclass(frozen=True)
class MicroBatch:
    """The objective's inputs for one forward pass on one rank."""

    inputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class StepFigures:
    """One step, over all ranks. `sums` are the objective's outputs, summed over the global batch."""

    step: int  # steps done, so 1 after the first
    loss: float  # what was minimized
    sums: list[float]
    gradient_norm: float
    learning_rate: float
    seconds: float
    skipped: bool = False  # the guard refused it, and nothing moved
    signals: Sequence[float] = ()  # each summed over all ranks


# (step, the objective's output) -> the loss whose gradients are added, and the sums to add up over the global batch.
Weigh = Callable[[int, Any], tuple[Tensor, Sequence[Tensor]]]


def train(
    engine: Engine,
    schedule: Schedule,
    *,
    batches: Callable[[int], Iterable[MicroBatch]],
    weigh: Weigh,
    guard: Guard,
    seed: int,
    first_step: int = 0,
    signals: Callable[[], Sequence[float]] = tuple,
) -> Iterator[StepFigures]:
    """Steps from `first_step` to the schedule's end, one for each item asked for.

    `batches(step)` gives this rank's micro-batches, equally many on every rank. `weigh(step, output)` gives the loss,
    already divided by the global batch's count, and the sums to report. `signals` is asked in each step, and all ranks
    learn each one's sum: so they agree on what one of them has seen. Steps that `guard` refuses leave no trace; it
    raises StageError, on all ranks alike, where it has refused too many in a row.
    """
    for step in range(first_step, schedule.steps):
        started = time.perf_counter()
        torch.manual_seed(_mix(seed, step, engine.rank))
        asked = torch.tensor(signals(), dtype=torch.float64)
        totals = _accumulate(engine, list(batches(step)), partial(weigh, step))
        loss, *figures = engine.sum_over_ranks(torch.cat((totals, asked.to(totals.device))))
        sums, signalled = figures[: len(totals) - 1], figures[len(totals) - 1 :]
        norm = engine.step(schedule.share(step), norm_limit=guard.norm_limit(loss))
        skipped = not guard.judge(step + 1, loss=loss, norm=norm)
        seconds = time.perf_counter() - started
        yield StepFigures(step + 1, loss, sums, norm, schedule.learning_rate(step), seconds, skipped, signalled)


def _accumulate(
    engine: Engine, batches: Sequence[MicroBatch], weigh: Callable[[Any], tuple[Tensor, Sequence[Tensor]]]
) -> Tensor:
    """The gradients of all the rank's micro-batches are added; returns its loss and its sums, fp64."""
    totals: Tensor | None = None
    for index, batch in enumerate(batches):
        loss, sums = weigh(engine.forward(*batch.inputs))
        engine.backward(loss, last=index == len(batches) - 1)
        values = torch.stack([value.detach().double() for value in (loss, *sums)])
        totals = values if totals is None else totals + values
    assert totals is not None
    return totals


def _mix(seed: int, step: int, rank: int) -> int:
    """A seed of its own for every step and rank, below 2**63."""
    return (seed * 1_000_003 + step * 8_191 + rank) % 2**63
