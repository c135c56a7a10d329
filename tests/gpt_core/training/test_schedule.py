"""Learning rates worked out by hand."""

import pytest

from gpt_core.training.schedule import Schedule


def rates(schedule: Schedule) -> list[float]:
    return [schedule.learning_rate(step) for step in range(schedule.steps)]


def test_linear_decay_ends_at_zero() -> None:
    assert rates(Schedule("linear", peak=1.0, final=0.0, warmup_steps=0, steps=4)) == [0.75, 0.5, 0.25, 0.0]


def test_warm_up_rises_evenly_to_the_peak() -> None:
    schedule = Schedule("constant", peak=4.0, final=0.1, warmup_steps=4, steps=6)
    assert rates(schedule) == [1.0, 2.0, 3.0, 4.0, 4.0, 4.0]


def test_cosine_is_at_half_height_half_way_and_ends_at_its_final_share() -> None:
    schedule = Schedule("cosine", peak=1.0, final=0.2, warmup_steps=2, steps=6)
    assert schedule.learning_rate(3) == pytest.approx(0.2 + 0.8 * 0.5)
    assert schedule.learning_rate(5) == pytest.approx(0.2)


def test_a_warm_up_as_long_as_the_run_never_decays() -> None:
    assert rates(Schedule("cosine", peak=2.0, final=0.0, warmup_steps=2, steps=2)) == [1.0, 2.0]
