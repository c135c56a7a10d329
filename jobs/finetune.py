"""Fine-tuning with DeepSpeed ZeRO: a pre-trained language model and labelled texts in, a classifier out.

L3 = L2 + lm_coefficient x L1, each a mean over the global batch. The epoch with the best validation accuracy is kept.
Then the same model is trained from random weights on the same batches with the same schedule: what pre-training is
worth. Minutes of work: killed and started again, it begins anew, and ends with the same weights.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gpt_core.artifact import write_json
from gpt_core.model.heads import TaskModel
from gpt_core.model.hf import save_task_model
from gpt_core.model.hf_config import LANGUAGE_MODEL, read_config
from gpt_core.model.start import load_for_task
from gpt_core.model.trainable import freeze, thaw
from gpt_core.recipe import Finetune
from gpt_core.tasks.batches import epoch_batches, make_batch, share_of
from gpt_core.tasks.labelled import read_splits
from gpt_core.tasks.sequences import Examples, encode_rows
from gpt_core.tasks.spec import TaskSpec
from gpt_core.tasks.tokenizer import write_task_tokenizer
from gpt_core.tokenizer.tokenizer import Tokenizer
from gpt_core.training.curves import Curves
from gpt_core.training.engine import Engine
from gpt_core.training.guard import Guard
from gpt_core.training.loop import MicroBatch, StepFigures, train
from gpt_core.training.objective import TaskObjective
from gpt_core.training.schedule import Schedule
from gpt_core.training.zero_config import micro_batch_size
from jobs.job import Job, Outcome, run_job
from jobs.node_metrics import watch_node
from jobs.tracking import MetricSink, metric_logger
from jobs.zero import ZeroEngine, join_ranks, part_ranks

MODEL_FOLDERS = {"pretrained": "model", "scratch": "scratch"}


@dataclass(frozen=True)
class Splits:
    """The labelled texts, encoded, and this rank's way to cut them into micro-batches."""

    train: Examples
    validation: Examples
    steps: list[list[int]]  # the global batch of each step: numbers of training examples
    spec: TaskSpec
    settings: Finetune
    vocab_size: int  # the tokenizer's
    end_of_text_id: int
    rank: int
    world_size: int
    micro_batch: int

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in one pass over the training split."""
        return len(self.steps) // self.settings.epochs

    def of_step(self, step: int) -> Iterator[MicroBatch]:
        """This rank's micro-batches of `step`."""
        return self._cut(self.train, self.steps[step], size=self.settings.batch_sequences)

    def of_validation(self) -> Iterator[MicroBatch]:
        """This rank's part of the validation split, sorted by length."""
        order = self.validation.lengths.argsort(kind="stable").tolist()
        size = self.micro_batch * self.world_size
        for start in range(0, len(order), size):
            yield from self._cut(self.validation, order[start : start + size], size=size)

    def counts(self, step: int) -> tuple[int, int]:
        """(examples, next-token targets) in the global batch of `step`."""
        rows = self.steps[step]
        return len(rows), int(self.train.n_targets[rows].sum())

    def _cut(self, examples: Examples, rows: list[int], *, size: int) -> Iterator[MicroBatch]:
        part = share_of(self.rank, self.world_size, rows, size=size)
        for start in range(0, len(part), self.micro_batch):
            assert self.spec.marks is not None
            batch = make_batch(examples, part[start : start + self.micro_batch], pad_id=self.spec.marks.pad)
            arrays = (batch.ids, batch.lengths, batch.targets, batch.labels)
            yield MicroBatch(tuple(map(torch.from_numpy, arrays)))


def make(job: Job) -> Outcome:
    """The classifier, and the same one from scratch, are trained and exported."""
    settings = job.recipe.finetune
    assert settings is not None
    rank, world_size = join_ranks(job.recipe.cluster.train)
    pretrained = job.inputs["pretrain"].file("model/config.json").parent
    splits = _read_splits(job, settings, pretrained, rank=rank, world_size=world_size)
    starts = ["pretrained", "scratch"] if settings.from_scratch_baseline else ["pretrained"]
    curves = {start: Curves() for start in starts}
    with closing(metric_logger(job.recipe)) as sink, watch_node(job.recipe):
        for index, start in enumerate(starts):
            report = partial(_report, job, sink, start=start, runs_done=index, runs=len(starts), splits=splits)
            model = _make_classifier(pretrained, splits, from_scratch=start == "scratch")
            weights = _tune(job, model, splits, curves[start], report)
            if rank == 0:
                model = _make_classifier(pretrained, splits)  # a new one: ZeRO 3 leaves the other without weights
                thaw(model, {name.removeprefix("model."): value for name, value in weights.items()})
                _export(model, job.output / MODEL_FOLDERS[start], splits, tokenizer_folder=pretrained)
    return _finish(job, splits, curves, model) if rank == 0 else Outcome([])


def _read_splits(job: Job, settings: Finetune, pretrained: Path, *, rank: int, world_size: int) -> Splits:
    rows = read_splits(settings)
    tokenizer = Tokenizer.load(pretrained)
    config, _ = read_config(pretrained, LANGUAGE_MODEL)
    max_tokens = settings.max_tokens or config.context_length
    spec = TaskSpec.of_recipe(settings, rows.labels, max_tokens=max_tokens, vocab_size=tokenizer.vocab_size)
    encode = partial(encode_rows, tokenizer=tokenizer, spec=spec)
    train_split = encode(rows.train)
    cut = partial(epoch_batches, train_split.lengths, batch_sequences=settings.batch_sequences, seed=settings.seed)
    return Splits(
        train=train_split,
        steps=[rows for epoch in range(settings.epochs) for rows in cut(epoch=epoch)],
        validation=encode(rows.validation),
        spec=spec,
        settings=settings,
        vocab_size=tokenizer.vocab_size,
        end_of_text_id=tokenizer.end_of_text_id,
        rank=rank,
        world_size=world_size,
        micro_batch=micro_batch_size(
            settings.batch_sequences,
            world_size=world_size,
            at_most=job.recipe.cluster.train.micro_batch_sequences,
        ),
    )


def _make_classifier(pretrained: Path, splits: Splits, *, from_scratch: bool = False) -> TaskModel:
    settings, spec = splits.settings, splits.spec
    decoder = load_for_task(pretrained, splits.vocab_size, seed=settings.seed)
    if from_scratch:
        decoder.init_weights(settings.seed)
    model = TaskModel(
        decoder,
        n_outputs=spec.n_outputs,
        target=spec.target,
        dropout=settings.classifier_dropout,
        seed=settings.seed,
    )
    freeze(model, settings, spec.marks)
    return model


def _tune(job: Job, model: TaskModel, splits: Splits, curves: Curves, report: "partial[None]") -> dict[str, Tensor]:
    """The weights of the epoch with the best validation accuracy, on rank 0; the first of equals."""
    settings = splits.settings
    steps = len(splits.steps)
    schedule = Schedule(
        shape="linear",
        peak=settings.learning_rate,
        final=0.0,
        warmup_steps=math.ceil(settings.warmup_fraction * steps),
        steps=steps,
    )
    model.decoder.activation_checkpointing = job.recipe.cluster.train.activation_checkpointing
    objective = TaskObjective(model, splits.spec, settings.precision, with_language_model=settings.lm_weight > 0)
    cluster = job.recipe.cluster.train.model_copy(update={"compile": False})  # every length would be compiled anew
    engine = ZeroEngine(objective, settings, cluster, micro_batch=splits.micro_batch)

    def weigh(step: int, output: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, list[Tensor]]:
        examples, targets = splits.counts(step)
        loss, lm_loss, _ = output
        return loss / examples + settings.lm_weight * lm_loss / targets, [loss, lm_loss]

    best, best_accuracy = {}, -1.0
    guard = Guard.of_settings(settings)
    for figures in train(engine, schedule, batches=splits.of_step, weigh=weigh, guard=guard, seed=settings.seed):
        examples, targets = splits.counts(figures.step - 1)
        values = {"learning_rate": figures.learning_rate}
        if not figures.skipped:
            values["train_loss"] = figures.sums[0] / examples
        if settings.lm_weight > 0 and not figures.skipped:
            values["lm_loss"] = figures.sums[1] / targets
        if figures.step % splits.steps_per_epoch == 0:
            values["validation_accuracy"] = _validate(engine, splits)
            if values["validation_accuracy"] > best_accuracy:
                best, best_accuracy = engine.weights(), values["validation_accuracy"]
        curves.add(figures.step, values)
        report(figures, values)
    return best


def _validate(engine: Engine, splits: Splits) -> float:
    """Accuracy on the validation split, on every rank."""
    correct = 0.0
    for batch in splits.of_validation():
        _, _, logits = engine.predict(*batch.inputs)
        correct += float((logits.argmax(dim=-1).cpu() == batch.inputs[-1]).sum())
    return engine.sum_over_ranks([correct])[0] / len(splits.validation)


def _report(
    job: Job,
    sink: MetricSink,
    figures: StepFigures,
    values: Mapping[str, float],
    *,
    start: str,
    runs_done: int,
    runs: int,
    splits: Splits,
) -> None:
    sink(figures.step, {f"{start}_{name}": value for name, value in values.items()})
    a_run = splits.settings.epochs * len(splits.train)
    done = min(figures.step * splits.settings.batch_sequences, a_run)
    measures = {"loss": values["train_loss"]} if "train_loss" in values else {}
    job.report(runs_done * a_run + done, runs * a_run, "examples", **measures)


def _export(model: TaskModel, folder: Path, splits: Splits, *, tokenizer_folder: Path) -> None:
    """The classifier in Hugging Face layout, with a tokenizer that adds its start and extract tokens."""
    folder.mkdir()
    save_task_model(model, folder, splits.spec, end_of_text_id=splits.end_of_text_id)
    write_task_tokenizer(tokenizer_folder, folder, splits.spec)


def _finish(job: Job, splits: Splits, curves: Mapping[str, Curves], model: TaskModel) -> Outcome:
    """The outcome names what was made."""
    folders = [job.output / MODEL_FOLDERS[start] for start in curves]
    curves_file = write_json(job.output / "curves.json", {start: curve.thinned() for start, curve in curves.items()})
    tuned = curves["pretrained"]
    figures = {"train_loss": tuned.last("train_loss"), "validation_accuracy": _best(tuned)}
    if "scratch" in curves:
        figures["scratch_validation_accuracy"] = _best(curves["scratch"])
    return Outcome(
        paths=[*folders, curves_file],
        counts={
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "steps": int(tuned.series["learning_rate"][-1][0]),
            "train_examples": len(splits.train),
            "validation_examples": len(splits.validation),
            "labels": len(splits.spec.labels),
        },
        figures=figures,
        engines=("deepspeed", "torch"),
    )


def _best(curves: Curves) -> float:
    return max(value for _, value in curves.series["validation_accuracy"])


if __name__ == "__main__":
    run_job("finetune", make, part=part_ranks)
