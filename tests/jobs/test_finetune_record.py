"""A training's figures by its name, and progress over all trainings."""

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gpt_core.training.curves import Curves
from gpt_core.training.loop import StepFigures
from jobs.finetune_record import Progress, Recorder
from jobs.job import PROGRESS, Job


class Sent:
    """What MLflow would get."""

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        self.points.append((step, dict(values)))


BATCHES: Any = SimpleNamespace(
    rank=0,
    settings=SimpleNamespace(lm_weight=0.5),
    divisors=lambda _: (4.0, 10.0),
    tokens=lambda _: 30,
    examples=lambda steps: 4 * steps,
)


def step(number: int, *, skipped: bool = False) -> StepFigures:
    return StepFigures(number, 9.0, [2.0, 30.0], 1.5, 1e-3, 0.5, skipped)


def test_figures_are_means_under_the_trainings_name(tmp_path: Path) -> None:
    sent: Any = Sent()
    progress = Progress(Job(recipe=None, inputs={}, output=tmp_path, rank=0), total=24)  # type: ignore[arg-type]
    progress.next_training(12)
    recorder = Recorder(tmp_path / "steps.jsonl", BATCHES, sent, progress, name="seed3.scratch", done=0)
    with closing(recorder):
        recorder.step(step(1))
        recorder.step(step(2, skipped=True))
        recorder.validation(2, {"accuracy": 0.75, "macro_f1": 0.5})
        recorder.step(step(3))
    assert sent.points[0] == (
        1,
        {
            "seed3.scratch_learning_rate": 1e-3,
            "seed3.scratch_tokens_per_second": 60.0,
            "seed3.scratch_train_loss": 0.5,
            "seed3.scratch_gradient_norm": 1.5,
            "seed3.scratch_lm_loss": 3.0,
        },
    )
    assert set(sent.points[1][1]) == {"seed3.scratch_learning_rate", "seed3.scratch_tokens_per_second"}
    assert sent.points[2] == (2, {"seed3.scratch_validation_accuracy": 0.75, "seed3.scratch_validation_macro_f1": 0.5})
    assert Curves.read(tmp_path / "steps.jsonl").series["train_loss"] == [[1, 0.5], [3, 0.5]]
    told = json.loads((tmp_path / PROGRESS).read_text())
    assert (told["done"], told["total"], told["unit"]) == (24, 24, "examples")
    assert told["measures"]["validation_accuracy"] == 0.75
    assert told["measures"]["seconds_left"] == 0.0
