"""What a step's sums are divided by, worked out by hand, and which rank has which validation examples."""

from pathlib import Path

import numpy as np
import pytest

from gpt_core.recipe import Finetune
from gpt_core.tasks.class_weights import class_weights
from gpt_core.tasks.sequences import Examples
from gpt_core.tasks.spec import TaskSpec
from gpt_core.training.task_batches import TaskBatches
from gpt_core.training.tuning import Tuning

FILES = {"train": "t", "validation": "v", "test": "x"}
SEQUENCES = (((1, 2, 3),), ((1, 2, 3, 4),), ((1, 2),), ((1, 2, 3, 4, 5, 6),), ((1, 2, 3),))
LABELS = np.array([0, 1, 0, 0, 1])


def batches_of(*, loss_from: int = 1, rank: int = 0, world_size: int = 1, **settings: object) -> TaskBatches:
    finetune = Finetune(**FILES, epochs=2, batch_sequences=2, **settings)  # type: ignore[arg-type]
    names = () if finetune.task == "completion" else ("a", "b")
    spec = TaskSpec.of_recipe(finetune, names, max_tokens=8, vocab_size=10)
    examples = Examples(SEQUENCES, LABELS, np.full(5, loss_from), ("",) * 5)
    weights = class_weights(finetune, names, examples)
    tuning = Tuning(finetune, Path(), None, spec, examples, examples, weights)  # type: ignore[arg-type]
    return TaskBatches(tuning, finetune, micro_batch=1, rank=rank, world_size=world_size)


def test_five_examples_in_batches_of_two_are_six_steps_of_two_epochs() -> None:
    batches = batches_of()
    assert (len(batches.steps), batches.steps_per_epoch) == (6, 3)
    assert sorted(row for rows in batches.steps[:3] for row in rows) == [0, 1, 2, 3, 4]
    assert batches.examples(3) == 5
    assert sum(map(batches.tokens, range(3))) == 18


@pytest.mark.parametrize(
    ("settings", "loss_from", "weights", "targets"),
    [
        ({}, 1, [1, 1, 1, 1, 1], [2, 3, 1, 5, 2]),
        ({"class_weights": {"b": 3.0}}, 1, [1, 3, 1, 1, 3], [2, 3, 1, 5, 2]),
        ({"class_weights": "balanced"}, 1, [5 / 6, 5 / 4, 5 / 6, 5 / 6, 5 / 4], [2, 3, 1, 5, 2]),
        ({"task": "completion"}, 2, [1, 2, 0, 4, 1], [1, 2, 0, 4, 1]),
    ],
)
def test_sums_are_divided_by_the_weights_and_the_targets_of_the_global_batch(
    settings: dict[str, object], loss_from: int, weights: list[float], targets: list[int]
) -> None:
    batches = batches_of(loss_from=loss_from, **settings)
    for step, rows in enumerate(batches.steps):
        of_weights, of_targets = batches.divisors(step)
        assert of_weights == pytest.approx(sum(weights[row] for row in rows))
        assert of_targets == max(1, sum(targets[row] for row in rows))


def test_a_class_that_was_not_drawn_weighs_1() -> None:
    settings = Finetune(**FILES, class_weights="balanced")  # type: ignore[arg-type]
    examples = Examples(SEQUENCES[:2], np.array([0, 0]), np.ones(2, int), ("", ""))
    assert class_weights(settings, ("a", "b"), examples) == pytest.approx([0.5, 1.0])


def test_every_validation_example_is_of_one_rank_once() -> None:
    parts = [list(batches_of(rank=rank, world_size=2).of_validation()) for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == 3
    rows = [row for part in parts for chosen, _ in part for row in chosen]
    assert sorted(rows) == [-1, 0, 1, 2, 3, 4]
