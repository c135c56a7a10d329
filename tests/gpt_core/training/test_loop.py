"""The loop over a plain engine of torch: cut batches give the same steps, and bad steps leave no trace."""

import logging
import math
from collections.abc import Iterable, Sequence

import pytest
import torch
from torch import Tensor, nn

from gpt_core.errors import StageError
from gpt_core.training.loop import SKIPS_ALLOWED, MicroBatch, StepFigures, train
from gpt_core.training.schedule import Schedule

STEPS = 12


class PlainEngine:
    """One rank, plain SGD; the objective is the summed squared error of a line."""

    rank, world_size, device = 0, 1, torch.device("cpu")

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.5))
        self.marks: list[bool] = []

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.model(x)[:, 0] - y).square().sum()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self.marks.append(last)
        loss.backward()

    def step(self, learning_rate: float) -> float:
        norm = float(nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None]))
        with torch.no_grad():
            for parameter in self.model.parameters():
                if math.isfinite(norm) and parameter.grad is not None:
                    parameter -= learning_rate * parameter.grad
                parameter.grad = None
        return norm

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters()]


def batches_of(step: int, *, micro_batch: int, bad: Iterable[int] = ()) -> list[MicroBatch]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 3, generator=generator)
    y = x.sum(dim=1) + (math.nan if step in bad else 0)
    return [MicroBatch((x[i : i + micro_batch], y[i : i + micro_batch])) for i in range(0, 8, micro_batch)]


def run(
    engine: PlainEngine, *, micro_batch: int = 8, bad: Iterable[int] = (), first_step: int = 0, stop: int = STEPS
) -> list[StepFigures]:
    figures = []
    for figure in train(
        engine,  # type: ignore[arg-type]
        Schedule("constant", peak=0.1, final=0.0, warmup_steps=0, steps=STEPS),
        batches=lambda step: batches_of(step, micro_batch=micro_batch, bad=bad),
        weigh=lambda _, loss: (loss / 8, [loss]),
        seed=7,
        first_step=first_step,
    ):
        figures.append(figure)
        if figure.step == stop:
            break
    return figures


def test_accumulated_micro_batches_are_one_large_batch() -> None:
    whole, cut = PlainEngine(), PlainEngine()
    whole.model[1].eval()  # dropout draws by micro-batch
    cut.model[1].eval()
    sums = [[figure.sums[0] for figure in run(engine, micro_batch=size)] for engine, size in ((whole, 8), (cut, 2))]
    assert sums[1] == pytest.approx(sums[0], rel=1e-6)
    assert sums[0][-1] < sums[0][0] / 10
    assert cut.marks == [False, False, False, True] * STEPS


def test_a_loop_that_starts_behind_a_step_draws_what_the_whole_one_drew() -> None:
    whole, resumed = PlainEngine(), PlainEngine()
    figures = run(whole)
    run(resumed, stop=5)
    torch.manual_seed(99)  # another process
    assert [f.sums for f in run(resumed, first_step=5)] == [f.sums for f in figures[5:]]
    assert all(map(torch.equal, whole.weights(), resumed.weights()))


def test_a_step_without_finite_figures_is_skipped_and_said(caplog: pytest.LogCaptureFixture) -> None:
    engine = PlainEngine()
    run(engine, stop=5)
    before = engine.weights()
    with caplog.at_level(logging.WARNING, logger="gptmill"):
        (bad,) = run(engine, bad={5}, first_step=5, stop=6)
    assert bad.skipped
    assert all(map(torch.equal, before, engine.weights()))
    assert "step 6: the loss is nan and the gradient norm nan; it is skipped" in caplog.text
    assert not run(engine, bad={5}, first_step=6)[0].skipped


def test_one_skip_too_many_in_a_row_ends_the_run() -> None:
    with pytest.raises(StageError, match=r"step 7: the loss is nan .* step 5 of its kind in a row; lower the learning"):
        run(PlainEngine(), bad=range(2, 3 + SKIPS_ALLOWED))


def test_skips_that_are_apart_do_not_add_up() -> None:
    figures = run(PlainEngine(), bad={0, 1, 2, 3, 5, 6, 7, 8})
    assert [figure.step for figure in figures if figure.skipped] == [1, 2, 3, 4, 6, 7, 8, 9]
