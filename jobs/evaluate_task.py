"""The test set of the evaluate stage: scored once with every model that fine-tuning made, and with two baselines."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from gpt_core.artifact import Artifact
from gpt_core.errors import ArtifactError
from gpt_core.fingerprint import Json
from gpt_core.model.hf import load_task_model
from gpt_core.model.hf_config import CONFIG, WEIGHTS
from gpt_core.model.predict import predict
from gpt_core.recipe import Finetune
from gpt_core.tasks.baselines import say_bag_of_words, say_majority
from gpt_core.tasks.comparison import Comparison, Contestant, compare, describe
from gpt_core.tasks.labelled import Row, read_splits
from gpt_core.tasks.scores import Values
from gpt_core.tasks.sequences import Examples, encode_rows, label_numbers
from gpt_core.tasks.spec import TaskSpec
from gpt_core.tokenizer.tokenizer import Tokenizer

MODEL_FOLDERS: dict[Contestant, str] = {"pretrained": "model", "scratch": "scratch"}
KEPT = MODEL_FOLDERS["pretrained"]

Report = Callable[[int, int], None]  # examples done, examples in all


@dataclass(frozen=True)
class Trial:
    """The test set, and whom it tries."""

    spec: TaskSpec
    train: list[Row]  # what the models saw
    test: list[Row]
    examples: Examples  # the test set, encoded
    models: dict[Contestant, list[Path]]  # one of each seed
    seeds: list[int]
    kept: int  # which of them is the one that is served


def open_trial(finetune: Artifact, settings: Finetune) -> Trial:
    """Everything is read but the weights. Raises InputError for a row that cannot be used."""
    spec = TaskSpec.read(finetune.file(f"{KEPT}/{CONFIG}").parent)
    splits = read_splits(settings)
    tokenizer = Tokenizer.load(finetune.root / KEPT)
    seeds = list(range(settings.seed, settings.seed + settings.seeds))
    below = [f"seeds/{seed}/" if len(seeds) > 1 else "" for seed in seeds]
    models = {
        start: [finetune.file(f"{at}{folder}/{CONFIG}").parent for at in below]
        for start, folder in MODEL_FOLDERS.items()
        if finetune.has(f"{folder}/{CONFIG}")
    }
    return Trial(
        spec=spec,
        train=splits.train,
        test=splits.test,
        examples=encode_rows(splits.test, tokenizer, spec),
        models=models,
        seeds=seeds,
        kept=_find_kept(finetune, below),
    )


def run_trial(trial: Trial, report: Report, *, device: torch.device, seed: int) -> Comparison:
    """Every model has said what it thinks of the test set, one in memory at a time; `seed` draws the resamples."""
    total = sum(map(len, trial.models.values())) * len(trial.test)
    outputs: dict[Contestant, list[Values]] = {start: [] for start in trial.models}

    def report_behind(done: int, more: int, _: int) -> None:
        report(done + more, total)

    for start, folders in trial.models.items():
        for folder in folders:
            model, _ = load_task_model(folder)
            done = sum(map(len, outputs.values())) * len(trial.test)
            outputs[start].append(predict(model.to(device), trial.examples, partial(report_behind, done)))
    for name, words in _say_baselines(trial).items():
        outputs[name] = [words]
    return compare(trial.spec, trial.examples.labels, outputs, kept=trial.kept, seed=seed)


def describe_trial(trial: Trial, comparison: Comparison) -> dict[str, Json]:
    """What evaluation.json says of the task."""
    return {
        **describe(comparison),
        "train_examples": len(trial.train),
        "test_examples": len(trial.test),
        "seeds": list(trial.seeds),
        "kept_seed": trial.seeds[trial.kept],
    }


def _say_baselines(trial: Trial) -> dict[Contestant, Values]:
    target, n_labels = trial.spec.target, len(trial.spec.labels)
    train, texts = [row.texts for row in trial.train], [row.texts for row in trial.test]
    labels = label_numbers(trial.train, trial.spec)
    said: dict[Contestant, Values | None] = {
        "bag_of_words": say_bag_of_words(target, train, labels, texts, n_labels=n_labels),
        "majority": say_majority(target, labels, texts, n_labels=n_labels),
    }
    return {name: outputs for name, outputs in said.items() if outputs is not None}


def _find_kept(finetune: Artifact, below: list[str]) -> int:
    """Which seed's weights are those of the model that is kept, by their checksum."""
    checksums = {entry.path: entry.sha256 for entry in finetune.manifest.files}
    kept = checksums[f"{KEPT}/{WEIGHTS}"]
    for number, at in enumerate(below):
        if checksums.get(f"{at}{KEPT}/{WEIGHTS}") == kept:
            return number
    raise ArtifactError(
        f"{finetune.root / KEPT}: is the model of none of the seeds; delete {finetune.root} and run again"
    )
