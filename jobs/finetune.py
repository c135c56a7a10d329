"""Fine-tuning with DeepSpeed ZeRO: a language model and labelled rows in, a model of the task out.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m jobs.finetune --recipe ... --output ...

L3 = L2 + lambda L1, each a mean over the global batch. For each seed there is a training from the language model's
weights and one from random weights, of which all learn: what pre-training is worth. Of each the epoch with the best
validation figure is kept, and of the seeds the best model.

Killed and started again, on any number of ranks at any ZeRO stage, it goes on behind its last checkpoint with the same
examples in the same order; on as many ranks it ends with the same weights. Trainings that are whole are not repeated.
SIGTERM to any rank is a wish to stop: all save behind the same step and exit 5.
"""

import gc
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import mean, stdev
from typing import get_args

from gpt_core.artifact import write_json
from gpt_core.recipe import Finetune
from gpt_core.report.model_card import write_model_card
from gpt_core.tasks.scores import headline
from gpt_core.training.curves import Curves
from gpt_core.training.tuning import Tuning
from jobs.finetune_record import Progress
from jobs.finetune_training import MODEL_FOLDERS, Result, Run, Start, Training, settle
from jobs.job import Job, Outcome, run_job
from jobs.node_metrics import watch_node
from jobs.preemption import note_sigterm
from jobs.tracking import metric_logger
from jobs.zero import join_ranks, part_ranks, tell_all_ranks

PREFIXES: dict[Start, str] = {"pretrained": "", "scratch": "scratch_"}
KEPT = ("checkpoints", "seeds", *MODEL_FOLDERS.values())  # between attempts


def make(job: Job) -> Outcome:
    """All trainings are whole, their models stand in the output, and the best seed's where one looks for a model."""
    settings = job.recipe.finetune
    assert settings is not None
    rank, world_size = join_ranks(job.recipe.cluster.train)
    tuning = Tuning.read(settings, _language_model(job, settings))
    trainings = _plan(job, settings)
    waiting = tell_all_ranks([not training.result_file.exists() for training in trainings])
    examples = settings.epochs * len(tuning.train)
    progress = Progress(job, total=len(trainings) * examples)
    with ExitStack() as stack:
        stop_requested = stack.enter_context(note_sigterm())
        sink = stack.enter_context(closing(metric_logger(job.recipe)))
        stack.enter_context(watch_node(job.recipe))
        for training, waits in zip(trainings, waiting, strict=True):
            if waits:
                Run(job, tuning, training, rank=rank, world_size=world_size).train(sink, progress, stop_requested)
                gc.collect()  # an engine's objects point at each other
            progress.next_training(examples)
    return _finish(job, tuning, trainings) if rank == 0 else Outcome([])


def _language_model(job: Job, settings: Finetune) -> Path:
    """The folder of the model to begin with: that of pre-training, or without a corpus the recipe's."""
    if "pretrain" in job.inputs:
        return job.inputs["pretrain"].file("model/config.json").parent
    assert settings.model is not None
    return Path(settings.model)


def _plan(job: Job, settings: Finetune) -> list[Training]:
    """The trainings, in order."""
    starts: tuple[Start, ...] = get_args(Start) if settings.from_scratch_baseline else ("pretrained",)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    return [Training(seed, start, settings.seeds == 1, job.output) for seed in seeds for start in starts]


def _finish(job: Job, tuning: Tuning, trainings: list[Training]) -> Outcome:
    """The best seed's models, the curves and the model card stand in the output, which the outcome describes."""
    results = {training: Result.read(training) for training in trainings}
    for training, result in results.items():
        settle(job, training, result)  # again: a former attempt may have been killed in the midst of it
    best = _best_seed(tuning, results)
    paths = [_place(training) for training in trainings if training.seed == best]
    curves = {training.name: Curves.read(training.steps_file) for training in trainings}
    paths.append(write_json(job.output / "curves.json", {name: each.thinned() for name, each in curves.items()}))
    if not trainings[0].alone:
        paths.append(job.output / "seeds")
    tuned = [curves[training.name] for training in trainings if not training.from_scratch]
    figures = {
        "train_loss": mean(each.last("train_loss") for each in tuned),
        **_validation_figures(tuning, results),
        "tokens_per_second": mean(each.mean_of_last("tokens_per_second", len(each.series)) for each in tuned),
    }
    write_model_card(
        job.output / MODEL_FOLDERS["pretrained"], job.recipe, tuning.spec, figures, train_examples=len(tuning.train)
    )
    folders = [training.checkpoints for training in trainings if training.checkpoints.exists()]
    notes = [path for training in trainings for path in (training.steps_file, training.result_file)]
    return Outcome(
        paths=paths,
        counts={
            "parameters": results[trainings[0]].parameters,
            "trainable_parameters": results[trainings[0]].trainable_parameters,
            "steps": int(tuned[0].series["learning_rate"][-1][0]),
            "train_examples": len(tuning.train),
            "validation_examples": len(tuning.validation),
            "labels": len(tuning.spec.labels),
        },
        figures=figures,
        engines=("deepspeed", "torch"),
        scratch=notes if folders else [job.output / "checkpoints"],
    )


def _best_seed(tuning: Tuning, results: Mapping[Training, Result]) -> int:
    """The one whose pre-trained start does best on the validation examples; the first of equals."""
    name, sign = headline(tuning.spec.target)
    found = {training.seed: result.figures[name] for training, result in results.items() if not training.from_scratch}
    return max(found, key=lambda seed: sign * found[seed])


def _place(training: Training) -> Path:
    """The training's model stands where that of the output is looked for, a copy where there are several seeds."""
    folder = training.output / MODEL_FOLDERS[training.start]
    if not training.alone:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(training.model, folder)
    return folder


def _validation_figures(tuning: Tuning, results: Mapping[Training, Result]) -> dict[str, float]:
    """The headline of each start: the mean over the seeds and, of several, their standard deviation."""
    name, _ = headline(tuning.spec.target)
    figures: dict[str, float] = {}
    for start, prefix in PREFIXES.items():
        values = [result.figures[name] for training, result in results.items() if training.start == start]
        if values:
            figures[f"{prefix}validation_{name}"] = mean(values)
        if len(values) > 1:
            figures[f"{prefix}validation_{name}_spread"] = stdev(values)
    return figures


if __name__ == "__main__":
    run_job("finetune", make, keeps=KEPT, part=part_ranks)
