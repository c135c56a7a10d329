"""What a person sees of a fine-tuning while it runs: the figures of each training's steps, in three places.

steps.jsonl of a training has them all and outlives a kill; MLflow gets them as they come, under the training's name;
progress.json, which `gptmill run` shows, counts the examples of all trainings.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpt_core.training.curves import Recording, StepLog
from gpt_core.training.loop import StepFigures
from gpt_core.training.task_batches import TaskBatches
from jobs.job import Job
from jobs.tracking import MetricSink


@dataclass
class Progress:
    """Examples of all trainings, one after the other; seconds left at the pace of this process."""

    job: Job
    total: int
    _before: int = 0  # of the trainings before
    _began: tuple[int, float] | None = field(default=None)  # examples and time behind the first step of this process

    def next_training(self, examples: int) -> None:
        """A training of so many `examples` is whole."""
        self._before += examples

    def report(self, examples: int, measures: Mapping[str, float]) -> None:
        """So many `examples` of this training are done."""
        done, now = self._before + examples, time.monotonic()
        if self._began is None:
            self._began = done, now
        first, when = self._began
        left = {"seconds_left": (now - when) / (done - first) * (self.total - done)} if done > first else {}
        self.job.report(done, self.total, "examples", **measures, **left)


class Recorder(Recording):
    """The figures of one training, from step `done` on. Every rank makes one and calls it; rank 0 writes."""

    def __init__(
        self, path: Path, batches: TaskBatches, sink: MetricSink, progress: Progress, *, name: str, done: int
    ) -> None:
        self._batches, self._sink, self._progress, self._name = batches, sink, progress, name
        super().__init__(StepLog(path, done=done) if batches.rank == 0 else None)
        self._shown: dict[str, float] = {}

    def step(self, figures: StepFigures) -> None:
        """A step is done; the losses of one that was skipped do not count."""
        step, batches = figures.step, self._batches
        values = {
            "learning_rate": figures.learning_rate,
            "tokens_per_second": batches.tokens(step - 1) / figures.seconds,
        }
        if not figures.skipped:
            examples, targets = batches.divisors(step - 1)
            values |= {"train_loss": figures.sums[0] / examples, "gradient_norm": figures.gradient_norm}
            if batches.settings.lm_weight > 0:
                values["lm_loss"] = figures.sums[1] / targets
            self._shown["loss"] = values["train_loss"]
        self._add(step, values)

    def validation(self, step: int, figures: Mapping[str, float]) -> None:
        """The validation behind `step` gave these figures, the headline first. On rank 0."""
        values = {f"validation_{name}": value for name, value in figures.items()}
        name, value = next(iter(values.items()))
        self._shown[name] = value
        self._add(step, values)

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        if self._log is not None:
            self._log.add(step, values)
        self._sink(step, {f"{self._name}_{name}": value for name, value in values.items()})
        self._progress.report(self._batches.examples(step), self._shown)
