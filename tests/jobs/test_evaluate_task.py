"""The evaluate job on a recipe without a corpus, for every target, over two seeds of random models."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from served_models import make_language_model
from stage_output import write_output

from gpt_core.artifact import Artifact
from gpt_core.errors import ArtifactError
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import LanguageModel, TaskModel
from gpt_core.model.hf import load_task_model, save_task_model
from gpt_core.model.start import load_for_task
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import parse_recipe
from gpt_core.tasks.labelled import label_names, read_rows
from gpt_core.tasks.scores import headline
from gpt_core.tasks.sequences import encode_rows
from gpt_core.tasks.spec import IGNORED, Target, TaskSpec, target_of
from gpt_core.tasks.tokenizer import write_task_tokenizer
from gpt_core.tokenizer.tokenizer import Tokenizer
from jobs import evaluate
from jobs.job import Job

T = 32
SEEDS = (3, 4)
KEPT = 4
TEXTS = ["the river", "the mountain by the sea", "a river and the sea, the sea", "mountains", "by the river", "sea"]
NUMBERS = [0.5, 2.0, -1.0, 3.5, 0.25, 1.0]
TASKS: dict[Target, dict[str, str]] = {
    "class": {"task": "entailment"},
    "classes": {"labels": "classes"},
    "number": {"task": "similarity", "labels": "number"},
    "choice": {"task": "multiple_choice"},
    "text": {"task": "completion"},
}


def row_of(target: Target, place: int) -> dict[str, Any]:
    text, other = TEXTS[place], TEXTS[place - 1]
    return {
        "class": {"premise": text, "hypothesis": other, "label": "yes" if place % 2 else "no"},
        "classes": {"text": text, "label": ["land", "water"][: place % 3]},
        "number": {"first": text, "second": other, "label": NUMBERS[place]},
        "choice": {"context": text, "choices": TEXTS[: 2 + place % 2], "label": place % 2},
        "text": {"prompt": text, "completion": f" and {other}"},
    }[target]


@dataclass(frozen=True)
class Tuned:
    """A recipe and what fine-tuning made of it."""

    recipe: Recipe
    finetune: Artifact
    output: Path

    def evaluate(self) -> tuple[dict[str, Any], dict[str, float]]:
        """(evaluation.json, the manifest's figures)."""
        outcome = evaluate.make(Job(recipe=self.recipe, inputs={"finetune": self.finetune}, output=self.output, rank=0))
        assert list(outcome.paths) == [self.output / "evaluation.json"]
        return json.loads((self.output / "evaluation.json").read_text()), dict(outcome.figures)


def make_tuned(root: Path, target: Target) -> Tuned:
    pretrained = make_language_model(root / "language")
    rows = "".join(json.dumps(row_of(target, place)) + "\n" for place in range(len(TEXTS)))
    for split in ("train", "validation", "test"):
        (root / f"{split}.jsonl").write_text(rows)
    files = {split: str(root / f"{split}.jsonl") for split in ("train", "validation", "test")}
    tuning = {"model": str(pretrained), "seed": SEEDS[0], "seeds": len(SEEDS), **files, **TASKS[target]}
    recipe = parse_recipe({"name": "tiny", "finetune": tuning}, origin="test")
    output = root / "out"
    output.mkdir()
    return Tuned(recipe, make_models(root / "finetune", recipe, pretrained), output)


def make_models(root: Path, recipe: Recipe, pretrained: Path) -> Artifact:
    """Random models of both starts and seeds, and those of the seed that is kept once more."""
    settings = recipe.finetune
    assert settings is not None
    target = target_of(settings)
    labels = label_names(read_rows(Path(settings.train), settings), target)
    tokenizer = Tokenizer.load(pretrained)
    spec = TaskSpec.of_recipe(settings, labels, max_tokens=T, vocab_size=tokenizer.vocab_size)
    for number, seed in enumerate(SEEDS):
        for start, folder in enumerate(("model", "scratch")):
            model: TaskModel | Decoder = load_for_task(pretrained, tokenizer.vocab_size)
            assert isinstance(model, Decoder)
            torch.manual_seed(10 * number + start)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
            if target != "text":
                model = TaskModel(model, n_outputs=spec.n_outputs, target=target, dropout=0.1, seed=10 * number + start)
            folders = [root / "seeds" / str(seed) / folder] + ([root / folder] if seed == KEPT else [])
            for each in folders:
                save_task_model(model, each, spec, end_of_text_id=tokenizer.end_of_text_id)
                write_task_tokenizer(pretrained, each, spec)
    return write_output(root, "finetune")


@torch.inference_mode()
def say_alone(folder: Path, recipe: Recipe) -> list[list[float]]:
    """The outputs of the model in `folder` for each test row, by itself and without padding."""
    model, spec = load_task_model(folder)
    model.eval()
    assert recipe.finetune is not None
    rows = read_rows(Path(recipe.finetune.test), recipe.finetune)
    examples = encode_rows(rows, Tokenizer.load(folder), spec)
    said = []
    for sequences, first in zip(examples.sequences, examples.loss_from, strict=True):
        if isinstance(model, Decoder):
            ids = torch.tensor(sequences)
            targets = ids[:, 1:].clone()
            targets[:, : first - 1] = IGNORED
            said.append([float(LanguageModel(model)(ids[:, :-1], targets)[0]), float((targets != IGNORED).sum())])
        elif spec.target == "number":
            one, other = (model.decoder(torch.tensor([ids]))[0, -1] for ids in sequences)
            said.append((model.score.weight @ (one + other)).tolist())
        else:
            pooled = torch.stack([model.decoder(torch.tensor([ids]))[0, -1] for ids in sequences])
            said.append((pooled @ model.score.weight.T).flatten().tolist())
    return said


def headline_of(target: Target, said: list[list[float]], recipe: Recipe) -> float:
    """Worked out anew from the outputs of single examples."""
    from scipy.stats import pearsonr
    from sklearn.metrics import f1_score

    labels = [row_of(target, place).get("label") for place in range(len(TEXTS))]
    if target == "class":
        return sum(["no", "yes"].index(str(label)) == row.index(max(row)) for label, row in zip(labels, said)) / 6  # noqa: B905
    if target == "choice":
        return sum(label == row.index(max(row)) for label, row in zip(labels, said, strict=True)) / 6
    if target == "classes":
        truth = [[name in label for name in ("land", "water")] for label in labels if isinstance(label, list)]
        return float(f1_score(truth, [[x > 0 for x in row] for row in said], average="macro", zero_division=0))
    if target == "number":
        return float(pearsonr(labels, [row[0] for row in said]).statistic)
    return sum(nats for nats, _ in said) / sum(tokens for _, tokens in said)


@pytest.mark.parametrize("target", TASKS)
def test_every_target_is_scored_over_all_seeds_without_a_corpus(tmp_path: Path, target: Target) -> None:
    tuned = make_tuned(tmp_path, target)
    evaluation, figures = tuned.evaluate()
    assert evaluation.keys() == {"task"}
    told = evaluation["task"]
    name, sign = headline(target)
    assert (told["headline"], told["seeds"], told["kept_seed"]) == (name, list(SEEDS), KEPT)
    values = {}
    for start, folder, prefix in (("pretrained", "model", "test"), ("scratch", "scratch", "scratch_test")):
        values[start] = [
            headline_of(
                target, say_alone(tuned.finetune.root / "seeds" / str(seed) / folder, tuned.recipe), tuned.recipe
            )
            for seed in SEEDS
        ]
        assert [each[name] for each in told["models"][start]["seeds"]] == pytest.approx(values[start], rel=1e-4)
        assert figures[f"{prefix}_{name}"] == pytest.approx(sum(values[start]) / 2, rel=1e-4)
        assert f"{prefix}_{name}_spread" in figures
    gains = [sign * (ours - theirs) for ours, theirs in zip(values["pretrained"], values["scratch"], strict=True)]
    assert figures["lift"] == pytest.approx(sum(gains) / 2, abs=1e-4)
    assert set(told["models"]) - {"pretrained", "scratch"} == (
        set() if target == "text" else {"bag_of_words", "majority"}
    )


def test_a_kept_model_of_none_of_the_seeds_is_refused(tmp_path: Path) -> None:
    tuned = make_tuned(tmp_path, "class")
    root = tuned.finetune.root
    (root / "scratch" / "model.safetensors").replace(root / "model" / "model.safetensors")
    (root / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="is the model of none of the seeds"):
        Tuned(tuned.recipe, write_output(root, "finetune"), tuned.output).evaluate()
