"""The loop over a plain engine of torch: cut batches give the same steps, and steps that are refused leave no trace."""

import json
import logging
import math
from collections.abc import Iterable, Mapping

import pytest
import torch
from torch import Tensor, nn

from gpt_core.errors import StageError
from gpt_core.recipe import Optimization
from gpt_core.training.guard import WINDOW, Guard
from gpt_core.training.loop import MicroBatch, StepFigures, train
from gpt_core.training.schedule import Schedule

STEPS = 12
PEAK = 0.1


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

    def step(self, share: float, *, norm_limit: float = math.inf) -> float:
        norm = float(nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None]))
        with torch.no_grad():
            for parameter in self.model.parameters():
                if math.isfinite(norm) and norm <= norm_limit and parameter.grad is not None:
                    parameter -= share * PEAK * parameter.grad
                parameter.grad = None
        return norm

    def sum_over_ranks(self, values: Tensor) -> list[float]:
        return values.tolist()

    def weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters()]


def batches_of(step: int, *, micro_batch: int, bad: Mapping[int, float]) -> list[MicroBatch]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 3, generator=generator)
    y = x.sum(dim=1) + bad.get(step, 0.0)
    return [MicroBatch((x[i : i + micro_batch], y[i : i + micro_batch])) for i in range(0, 8, micro_batch)]


def run(
    engine: PlainEngine,
    *,
    micro_batch: int = 8,
    bad: Iterable[int] | Mapping[int, float] = (),
    guard: Guard | None = None,
    first_step: int = 0,
    steps: int = STEPS,
    stop: int | None = None,
) -> list[StepFigures]:
    """`bad` steps have targets that are off by so much; NaN where it does not say."""
    figures = []
    for figure in train(
        engine,  # type: ignore[arg-type]
        Schedule("constant", peak=PEAK, final=0.0, warmup_steps=0, steps=steps),
        batches=lambda step: batches_of(
            step, micro_batch=micro_batch, bad=bad if isinstance(bad, Mapping) else dict.fromkeys(bad, math.nan)
        ),
        weigh=lambda _, loss: (loss / 8, [loss]),
        guard=guard or Guard(),
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


def test_the_loss_that_is_told_is_what_was_minimized() -> None:
    (figure,) = run(PlainEngine(), micro_batch=2, stop=1)
    assert figure.loss == pytest.approx(figure.sums[0] / 8)


@pytest.mark.parametrize("most", [0, 4])
def test_one_skip_too_many_in_a_row_ends_the_run(most: int) -> None:
    message = rf"step {3 + most}: the loss is nan .* step {most + 1} of its kind in a row; lower the learning"
    with pytest.raises(StageError, match=message):
        run(PlainEngine(), bad=range(2, 3 + most), guard=Guard(max_skipped_steps=most))


def test_skips_that_are_apart_do_not_add_up() -> None:
    figures = run(PlainEngine(), bad={0, 1, 2, 3, 5, 6, 7, 8})
    assert [figure.step for figure in figures if figure.skipped] == [1, 2, 3, 4, 6, 7, 8, 9]


LATER = WINDOW + 10  # a step that spikes are judged at


def test_a_spike_is_skipped_and_said_only_where_the_recipe_has_a_factor(caplog: pytest.LogCaptureFixture) -> None:
    for factor, skipped in ((None, []), (50.0, [LATER + 1])):
        engine = PlainEngine()
        guard = Guard(spike_factor=factor)
        run(engine, steps=LATER + 2, stop=LATER, guard=guard)
        before = engine.weights()
        figures = run(engine, steps=LATER + 2, stop=LATER + 1, first_step=LATER, bad={LATER: 1e3}, guard=guard)
        assert [figure.step for figure in figures if figure.skipped] == skipped
        assert all(map(torch.equal, before, engine.weights())) == bool(skipped)
    assert f"step {LATER + 1}: the loss is " in caplog.text
    assert ", their medians are " in caplog.text


def test_before_the_window_is_full_nothing_is_a_spike() -> None:
    figures = run(PlainEngine(), bad={WINDOW - 1: 1e3}, steps=WINDOW, guard=Guard(spike_factor=2.0))
    assert not any(figure.skipped for figure in figures)


def fed(guard: Guard, losses: Iterable[float], norm: float = 1.0) -> Guard:
    for step, loss in enumerate(losses):
        guard.judge(step + 1, loss=loss, norm=norm)
    return guard


def test_a_loss_or_a_norm_over_the_factor_times_the_median_is_refused() -> None:
    guard = fed(Guard(spike_factor=3.0), [2.0] * WINDOW)
    assert guard.norm_limit(6.0) == 3.0
    assert guard.norm_limit(6.1) == -math.inf
    assert not guard.judge(99, loss=2.0, norm=3.1)
    assert guard.norm_limit(6.0) == 3.0  # a step that was refused does not enter the median


def test_the_median_is_of_the_last_steps_that_were_taken() -> None:
    guard = fed(Guard(spike_factor=2.0), [8.0] * WINDOW + [4.0] * (WINDOW // 2 + 1))
    assert guard.norm_limit(8.1) == -math.inf
    assert guard.norm_limit(8.0) == 2.0


def test_a_guard_goes_on_from_its_state_bit_for_bit() -> None:
    settings = Optimization(spike_factor=1.5, max_skipped_steps=2)
    whole = fed(Guard.of_settings(settings), [3 + math.sin(step) / 7 for step in range(WINDOW)], norm=1 / 3)
    whole.judge(70, loss=math.nan, norm=1.0)
    resumed = Guard.of_settings(settings, json.loads(json.dumps(whole.state())))
    assert resumed.state() == whole.state()
    assert resumed.norm_limit(3.0) == whole.norm_limit(3.0) == 0.5
    for guard in (whole, resumed):
        guard.judge(71, loss=math.nan, norm=1.0)
        with pytest.raises(StageError, match="step 3 of its kind in a row"):
            guard.judge(72, loss=math.nan, norm=1.0)
