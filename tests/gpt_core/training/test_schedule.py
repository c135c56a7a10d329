"""Learning rates worked out by hand."""

import pytest

from gpt_core.recipe import Recipe
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


def test_wsd_holds_its_peak_and_falls_evenly_over_its_last_steps() -> None:
    schedule = Schedule("wsd", peak=1.0, final=0.2, warmup_steps=2, steps=10, decay_steps=4)
    assert rates(schedule) == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_every_peak_takes_the_same_share() -> None:
    schedule = Schedule("cosine", peak=3.0, final=0.1, warmup_steps=2, steps=9)
    assert rates(schedule) == [3.0 * schedule.share(step) for step in range(9)]


def recipe_of(**pretrain: object) -> Recipe:
    sections = {"corpus": {"inputs": [{"path": "a.jsonl"}]}, "model": {"context_length": 10}}
    return Recipe.model_validate({"name": "a", **sections, "pretrain": {"batch_sequences": 10, **pretrain}})


def test_tokens_are_counted_as_whole_steps() -> None:
    recipe = recipe_of(tokens=2_050, warmup_tokens=150, schedule="wsd", decay_tokens=310)
    schedule = Schedule.of_pretraining(recipe)
    assert (schedule.steps, schedule.warmup_steps, schedule.decay_steps) == (20, 2, 4)


def test_wsd_decays_over_the_last_fifth_unless_the_recipe_says_otherwise() -> None:
    assert Schedule.of_pretraining(recipe_of(tokens=2_000, schedule="wsd")).decay_steps == 4
    assert Schedule.of_pretraining(recipe_of(tokens=2_000, schedule="wsd", warmup_tokens=1_900)).share(19) == 0.1
