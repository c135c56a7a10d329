"""One training of a fine-tuning: from a seed and a start to the model of its best epoch.

Below {output}/checkpoints, for a training `{seed}-{start}`: the folder of that name with checkpoints and the models
of the best epochs that they name, `.jsonl` with the figures of its steps, and `.json`, which stands once the training
is whole. Then its model is moved to its place, and what is left of the folder goes.
"""

import json
import math
import os
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from gpt_core.artifact import MANIFEST, write_json
from gpt_core.errors import ArtifactError
from gpt_core.fingerprint import Json, fingerprint
from gpt_core.model.decoder import Decoder
from gpt_core.model.hf import save_task_model
from gpt_core.model.trainable import thaw
from gpt_core.tasks.scores import headline, score
from gpt_core.tasks.tokenizer import write_task_tokenizer
from gpt_core.training.checkpoint import STATE, Checkpoints
from gpt_core.training.engine import Engine
from gpt_core.training.guard import Guard
from gpt_core.training.loop import train
from gpt_core.training.schedule import Schedule
from gpt_core.training.task_batches import TaskBatches
from gpt_core.training.tuning import Tuning
from gpt_core.training.zero_config import micro_batch_size
from jobs.finetune_record import Progress, Recorder
from jobs.job import Job, read_identity
from jobs.preemption import Keeper
from jobs.tracking import MetricSink
from jobs.zero import ZeroEngine

Start = Literal["pretrained", "scratch"]

MODEL_FOLDERS: dict[Start, str] = {"pretrained": "model", "scratch": "scratch"}


@dataclass(frozen=True)
class Training:
    """One of the job's trainings, and where what it makes stands."""

    seed: int
    start: Start
    alone: bool  # with its seed
    output: Path  # of the job

    @property
    def from_scratch(self) -> bool:
        """Whether it begins with random weights."""
        return self.start == "scratch"

    @property
    def name(self) -> str:
        """In front of its metrics, and in curves.json."""
        return self.start if self.alone else f"seed{self.seed}.{self.start}"

    @property
    def model(self) -> Path:
        """The folder of its model."""
        return (self.output if self.alone else self.output / "seeds" / str(self.seed)) / MODEL_FOLDERS[self.start]

    @property
    def checkpoints(self) -> Path:
        """The folder of all that it goes on from."""
        return self.output / "checkpoints" / f"{self.seed}-{self.start}"

    def best(self, step: int) -> Path:
        """The folder of the model behind `step`, where that is the best epoch so far."""
        return self.checkpoints / f"best-{step}"

    @property
    def steps_file(self) -> Path:
        """The figures of its steps."""
        return self.checkpoints.with_name(f"{self.checkpoints.name}.jsonl")

    @property
    def result_file(self) -> Path:
        """What it gave, once it is whole."""
        return self.checkpoints.with_name(f"{self.checkpoints.name}.json")


@dataclass(frozen=True)
class Result:
    """What a whole training gave. `figures` are the validation's behind `step`, the best epoch; the headline first."""

    step: int
    figures: dict[str, float]
    parameters: int
    trainable_parameters: int

    @classmethod
    def read(cls, training: Training) -> "Result":
        """That of a training that is whole."""
        return cls(**json.loads(training.result_file.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Best:
    """The last step of the best epoch so far, and what its validation gave."""

    step: int
    figures: dict[str, float]  # the headline first; on ranks other than 0 it is alone

    @classmethod
    def of_state(cls, state: Json) -> "Best | None":
        """As a checkpoint has it."""
        return cls(**state) if isinstance(state, dict) else None  # type: ignore[arg-type]  # its own


class Run:
    """A training that goes on behind its newest checkpoint, as one rank sees it."""

    def __init__(self, job: Job, tuning: Tuning, training: Training, *, rank: int, world_size: int) -> None:
        cluster = job.recipe.cluster.train
        self._job, self._tuning, self._training, self._every = job, tuning, training, cluster.checkpoint_every_steps
        self._settings = tuning.settings_of(seed=training.seed, from_scratch=training.from_scratch)
        size = micro_batch_size(
            self._settings.batch_sequences, world_size=world_size, at_most=cluster.micro_batch_sequences
        )
        self._batches = TaskBatches(tuning, self._settings, micro_batch=size, rank=rank, world_size=world_size)
        self._schedule = Schedule(
            shape="linear",
            peak=self._settings.learning_rate,
            final=0.0,
            warmup_steps=math.ceil(self._settings.warmup_fraction * len(self._batches.steps)),
            steps=len(self._batches.steps),
        )
        model = tuning.make_model(seed=training.seed, from_scratch=training.from_scratch)
        decoder = model if isinstance(model, Decoder) else model.decoder
        decoder.activation_checkpointing = cluster.activation_checkpointing
        head = 0 if isinstance(model, Decoder) else model.score.weight.numel()
        learning = sum(value.numel() for value in model.parameters() if value.requires_grad)
        self._counts = (decoder.config.n_parameters + head, learning)
        plain = cluster.model_copy(update={"compile": False})  # every length would be compiled anew
        self._engine = ZeroEngine(tuning.make_objective(model), self._settings, plain, micro_batch=size)
        self._checkpoints = checkpoints_of(job, training)
        self._done, state = self._checkpoints.load_newest(self._engine)
        self._guard = Guard.of_settings(self._settings, state.get("guard"))
        self._best = Best.of_state(state.get("best"))

    def train(self, sink: MetricSink, progress: Progress, stop_requested: Callable[[], bool]) -> None:
        """The training is whole. Raises PreemptedError, on all ranks alike, where one was asked to stop."""
        engine, batches, training = self._engine, self._batches, self._training
        keeper = Keeper(self._checkpoints, engine, stop_requested)
        training.steps_file.parent.mkdir(exist_ok=True)
        recorder = Recorder(training.steps_file, batches, sink, progress, name=training.name, done=self._done)
        with closing(recorder):
            for figures in train(
                engine,
                self._schedule,
                batches=batches.of_step,
                weigh=self._weigh,
                guard=self._guard,
                seed=training.seed,
                first_step=self._done,
                signals=keeper.signals,
            ):
                step = figures.step
                recorder.step(figures)
                improved = step % batches.steps_per_epoch == 0 and self._validate(step, recorder)
                due = (improved or step % self._every == 0) and step < self._schedule.steps
                keeper.keep(figures, partial(self._save, step, recorder), due=due)
        self._checkpoints.complete(engine)
        if engine.rank == 0:
            assert self._best is not None, training
            result = Result(self._best.step, self._best.figures, *self._counts)
            write_json(training.result_file, asdict(result))
            settle(self._job, training, result)
        engine.close()

    def _weigh(self, step: int, output: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, list[Tensor]]:
        examples, targets = self._batches.divisors(step)
        loss, lm_loss, _ = output
        return loss / examples + self._settings.lm_weight * lm_loss / targets, [loss, lm_loss]

    def _validate(self, step: int, recorder: Recorder) -> bool:
        """Whether this epoch is better than all before; then its model stands on the disk."""
        spec, engine = self._tuning.spec, self._engine
        figures = validate(engine, self._batches)
        name, sign = headline(spec.target)
        (value,) = engine.sum_over_ranks([figures.get(name, 0.0)])  # rank 0 alone has it
        if engine.rank == 0:
            recorder.validation(step, figures)
        if self._best is not None and sign * value <= sign * self._best.figures[name]:
            return False
        before, self._best = self._best, Best(step, figures or {name: value})
        weights = engine.weights()
        if engine.rank == 0:
            self._write_model(weights, named={step, *([before.step] if before is not None else [])})
        return True

    def _write_model(self, weights: dict[str, Tensor], *, named: set[int]) -> None:
        """The best model so far, behind the last of `named`, stands on the disk; those that nothing names are gone."""
        tuning, training = self._tuning, self._training
        model = tuning.make_model(seed=training.seed, from_scratch=training.from_scratch)
        thaw(model, {name.removeprefix("model."): value for name, value in weights.items()})
        folder = training.best(max(named))
        shutil.rmtree(folder, ignore_errors=True)
        save_task_model(model, folder, tuning.spec, end_of_text_id=tuning.tokenizer.end_of_text_id)
        write_task_tokenizer(tuning.folder, folder, tuning.spec)
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())  # a checkpoint may follow that names it
        for manifest in training.checkpoints.glob(f"step-*/{MANIFEST}"):
            with suppress(OSError, ValueError):  # a damaged one was passed over, and names none
                best = json.loads(manifest.with_name(STATE).read_text(encoding="utf-8"))["best"]
                named = named | ({best["step"]} if best is not None else set())
        for path in training.checkpoints.glob("best-*"):
            if path not in map(training.best, named):
                shutil.rmtree(path)

    def _save(self, step: int, recorder: Recorder) -> None:
        """A checkpoint behind `step` stands, or will."""
        recorder.sync()
        best = self._best
        state: dict[str, Json] = {"guard": self._guard.state(), "best": None if best is None else asdict(best)}
        cost = None
        if best is not None and best.step == step:  # `keep_best` looks for the least
            name, sign = headline(self._tuning.spec.target)
            cost = -sign * best.figures[name]
        self._checkpoints.save(self._engine, step, state, validation_loss=cost)


def validate(engine: Engine, batches: TaskBatches) -> dict[str, float]:
    """The figures of the validation examples, on rank 0; elsewhere none. Every rank must call."""
    spec, labels = batches.tuning.spec, batches.tuning.validation.labels
    own: list[Json] = []
    for rows, batch in batches.of_validation():
        outputs = engine.predict(*batch.inputs)[2].tolist()
        own += [[row, output] for row, output in zip(rows, outputs, strict=True) if row >= 0]
    parts: list[Any] = engine.gather(own)
    if engine.rank:
        return {}
    found = dict(pair for part in parts for pair in part)
    outputs = [found[row] for row in range(len(labels))]
    if spec.target == "choice":  # each batch has as many columns as its examples have choices
        columns = max(map(len, outputs))
        outputs = [output + [-math.inf] * (columns - len(output)) for output in outputs]
    return score(spec, labels, np.array(outputs)).figures


def checkpoints_of(job: Job, training: Training) -> Checkpoints:
    """Those of the training."""
    identity = fingerprint(read_identity(job.output))
    return Checkpoints(training.checkpoints, identity=identity, settings=job.recipe.cluster.train)


def settle(job: Job, training: Training, result: Result) -> None:
    """The model of a whole training stands in its place, and of its checkpoints those that the recipe keeps.

    Raises ArtifactError where the model is nowhere.
    """
    best = training.best(result.step)
    if best.exists():
        shutil.rmtree(training.model, ignore_errors=True)
        training.model.parent.mkdir(parents=True, exist_ok=True)
        best.rename(training.model)
    elif not training.model.exists():
        raise ArtifactError(f"{training.model}: is gone; delete {training.result_file} to train it again")
    for path in checkpoints_of(job, training).scratch():
        if path.is_file():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)  # it went with a former attempt
