"""Fine-tuning with real DeepSpeed on forked ranks: every task is learned; ranks and kills change nothing."""

import json
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stage_output import write_output

from forked_ranks import Blow, ForkedRanks, told
from gpt_core.artifact import Artifact, open_artifact
from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.model.hf import load_task_model, save_language_model
from gpt_core.recipe import Recipe
from gpt_core.tokenizer.tokenizer import Tokenizer, copy_tokenizer
from tiny_training import WORDS, make_recipe, make_tokenizer

pytestmark = pytest.mark.train

TOPICS = sorted(WORDS)
ONE = {"processes": 1, "zero_stage": 0, "checkpoint_every_steps": 100}
Row = dict[str, Any]


@pytest.fixture(scope="module")
def ranks() -> Iterator[ForkedRanks]:
    server = ForkedRanks()
    yield server
    server.close()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Artifact]:
    """A decoder with random weights, in the place of a pre-trained one."""
    root = tmp_path_factory.mktemp("inputs")
    tokenizer = make_tokenizer(root / "tokenizer")
    vocab_size = Tokenizer.load(tokenizer.root).vocab_size
    decoder = Decoder(DecoderConfig.from_recipe(make_recipe(root).model, vocab_size))
    decoder.init_weights(1)
    (root / "pretrain" / "model").mkdir(parents=True)
    save_language_model(decoder, root / "pretrain" / "model")
    copy_tokenizer(tokenizer.root, root / "pretrain" / "model")
    return {"pretrain": write_output(root / "pretrain", "pretrain")}


def words(chooser: random.Random, topic: str, count: int = 5) -> str:
    return " ".join(chooser.choice([*WORDS[topic], "the"]) for _ in range(count))


def labelled(chooser: random.Random) -> Row:
    topic = chooser.choice(TOPICS)
    return {"text": words(chooser, topic), "label": topic}


def many_labelled(chooser: random.Random) -> Row:
    topics = [topic for topic in TOPICS if chooser.random() < 0.5]
    return {"text": " ".join(["the", *(words(chooser, topic) for topic in topics)]), "label": topics}


def numbered(chooser: random.Random) -> Row:
    count = chooser.randrange(6)
    return {"text": " ".join(["sail"] * count + ["barn"] * (5 - count)), "label": count / 5}


def entailed(chooser: random.Random) -> Row:
    row = alike(chooser)
    return {"premise": row["first"], "hypothesis": row["second"], "label": row["label"]}


def alike(chooser: random.Random) -> Row:
    topics = chooser.choice(TOPICS), chooser.choice(TOPICS)
    label = f"{len(set(topics) & {'sea'})} {len(set(topics) & {'land'})}"
    first, second = (words(chooser, topic, 2) for topic in topics)
    return {"first": first, "second": second, "label": label}


def chosen(chooser: random.Random) -> Row:
    choices = [words(chooser, "land", 2) for _ in range(chooser.randrange(1, 3))]
    right = words(chooser, "sea", 2)
    choices.insert(chooser.randrange(len(choices) + 1), right)
    return {"context": "the", "choices": choices, "label": choices.index(right)}


def completed(chooser: random.Random) -> Row:
    topic = chooser.choice(TOPICS)
    return {"prompt": words(chooser, topic), "completion": {"sea": " wave", "land": " barn"}[topic]}


def write_rows(path: Path, make: Callable[[random.Random], Row], count: int, seed: int) -> str:
    chooser = random.Random(seed)
    path.write_text("".join(json.dumps(make(chooser)) + "\n" for _ in range(count)), encoding="utf-8")
    return str(path)


def recipe_of(
    folder: Path, make: Callable[[random.Random], Row], settings: Row, *, model: Row | None = None, **train: Any
) -> Recipe:
    folder.mkdir(parents=True, exist_ok=True)
    splits = (("train", 96), ("validation", 40), ("test", 8))
    files = {split: write_rows(folder / f"rows.{split}.jsonl", make, n, seed) for seed, (split, n) in enumerate(splits)}
    finetune = {"learning_rate": 0.01, "epochs": 4, "batch_sequences": 12, **files, **settings}
    return make_recipe(folder, finetune=finetune, model=model or {}, train={**ONE, **train})


def whole(output: Path) -> Artifact:
    artifact = open_artifact(output)
    assert artifact is not None, told(output)
    return artifact


def tune(ranks: ForkedRanks, recipe: Recipe, inputs: Mapping[str, Artifact], output: Path) -> Artifact:
    codes = ranks.run(output, recipe, inputs, stage="finetune")
    assert codes == [0] * recipe.cluster.train.processes, told(output)
    return whole(output)


def curve(artifact: Artifact, training: str, name: str) -> list[float]:
    return [value for _, value in json.loads(artifact.file("curves.json").read_text())[training][name]]


def weights(artifact: Artifact, folder: str = "model") -> dict[str, torch.Tensor]:
    return load_file(artifact.file(f"{folder}/model.safetensors"))


def digests(artifact: Artifact) -> dict[str, str]:
    """Of all weights in the output."""
    entries = artifact.manifest.files
    return {entry.path: entry.sha256 for entry in entries if entry.path.endswith(".safetensors")}


QUICK: Row = {"batch_sequences": 4, "learning_rate": 5e-3, "from_scratch_baseline": False}
TASKS: dict[str, tuple[Callable[[random.Random], Row], Row, str, float]] = {  # rows, settings, headline, its bound
    "class": (labelled, {"class_weights": "balanced"}, "accuracy", 0.95),
    "classes": (many_labelled, {"labels": "classes", "lm_coefficient": 0}, "macro_f1", 0.9),
    "number": (numbered, {"labels": "number"}, "pearson", 0.9),
    "entailment": (entailed, {"task": "entailment", "lm_coefficient": 0}, "accuracy", 0.8),
    "similarity": (alike, {"task": "similarity", "lm_coefficient": 0}, "accuracy", 0.8),
    "choice": (chosen, {"task": "multiple_choice"}, "accuracy", 0.9),
    "completion": (completed, {"task": "completion", "learning_rate": 0.02}, "loss", 0.5),
}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_learned(ranks: ForkedRanks, inputs: Mapping[str, Artifact], tmp_path: Path, name: str) -> None:
    make, settings, headline, bound = TASKS[name]
    artifact = tune(ranks, recipe_of(tmp_path, make, {**QUICK, **settings}), inputs, tmp_path / "out")
    value = artifact.manifest.figures[f"validation_{headline}"]
    assert value < bound if headline == "loss" else value > bound
    series = curve(artifact, "pretrained", f"validation_{headline}")
    assert value == (min(series) if headline == "loss" else max(series))
    assert len(series) == 4
    model, spec = load_task_model(artifact.file("model/task.json").parent)
    assert spec.task == settings.get("task", "classification")
    assert sum(parameter.numel() for parameter in model.parameters()) == artifact.manifest.counts["parameters"]
    assert artifact.has("model/README.md")


# ------------------------------------------------------------------------------------- ranks, stages and kills

KILLED = {"seeds": 2, "epochs": 2, "trainable": "last_n", "trainable_blocks": 1}  # four trainings of 16 steps
EVERY = 5


def killed_recipe(folder: Path, **train: Any) -> Recipe:
    ranks = {"processes": 2, "zero_stage": 2, "checkpoint_every_steps": EVERY}
    return recipe_of(folder, labelled, KILLED, **{**ranks, **train})


@pytest.fixture(scope="module")
def uninterrupted(
    ranks: ForkedRanks, inputs: Mapping[str, Artifact], tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    """Two ranks at ZeRO 2, never killed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return tune(ranks, killed_recipe(folder), inputs, folder / "out")


def assert_same(artifact: Artifact, other: Artifact) -> None:
    assert digests(artifact) == digests(other)
    for training in ("seed0.pretrained", "seed0.scratch", "seed1.pretrained", "seed1.scratch"):
        for name in ("train_loss", "lm_loss", "gradient_norm", "validation_accuracy"):
            assert curve(artifact, training, name) == curve(other, training, name), (training, name)


def test_of_several_seeds_figures_are_means_and_the_best_model_is_kept(uninterrupted: Artifact) -> None:
    figures = uninterrupted.manifest.figures
    bests = {seed: max(curve(uninterrupted, f"seed{seed}.pretrained", "validation_accuracy")) for seed in (0, 1)}
    assert figures["validation_accuracy"] == pytest.approx(np.mean(list(bests.values())))
    assert figures["validation_accuracy_spread"] == pytest.approx(np.std(list(bests.values()), ddof=1))
    assert "scratch_validation_accuracy_spread" in figures
    best = max(bests, key=lambda seed: bests[seed])
    of = digests(uninterrupted)
    assert set(of) == {
        f"{folder}/model.safetensors"
        for folder in (
            "model",
            "scratch",
            *(f"seeds/{seed}/{start}" for seed in (0, 1) for start in ("model", "scratch")),
        )
    }
    assert of["model/model.safetensors"] == of[f"seeds/{best}/model/model.safetensors"]
    assert of["scratch/model.safetensors"] == of[f"seeds/{best}/scratch/model.safetensors"]
    assert of["seeds/0/model/model.safetensors"] != of["seeds/1/model/model.safetensors"]
    assert not (uninterrupted.root / "checkpoints").exists()


def test_from_random_weights_all_learn_where_else_the_last_block_does(
    uninterrupted: Artifact, inputs: Mapping[str, Artifact]
) -> None:
    folder = inputs["pretrain"].root / "model"
    vocab_size = Tokenizer.load(folder).vocab_size
    before, after, scratch = (
        load_file(folder / "model.safetensors"),
        weights(uninterrupted),
        weights(uninterrupted, "scratch"),
    )
    moved = {
        name
        for name, value in before.items()
        if not torch.equal(value[:vocab_size], after[name][: len(value)][:vocab_size])
    }
    assert moved == {name for name in before if ".h.1." in name}  # of two blocks
    assert not any(torch.equal(value, scratch[name][: len(value)]) for name, value in before.items())
    counts = uninterrupted.manifest.counts
    assert 0 < counts["trainable_parameters"] < counts["parameters"]


KILLS = (  # where the rank is struck, counted from each start
    Blow(1, "step", 13),  # in the midst of the first training, to be gone on with behind step 10
    Blow(0, "step", 6 + 14),  # in the second, behind its best epoch
)


def test_killed_anywhere_at_equal_size_it_ends_with_the_same_bits(
    ranks: ForkedRanks, inputs: Mapping[str, Artifact], uninterrupted: Artifact, tmp_path: Path
) -> None:
    output, first = tmp_path / "out", tmp_path / "out" / "seeds" / "0" / "model" / "model.safetensors"
    made = []
    for number, blow in enumerate(KILLS):
        recipe = killed_recipe(tmp_path, background_checkpoints=bool(number % 2))
        codes = ranks.run(output, recipe, inputs, stage="finetune", blow=blow)
        assert codes[blow.rank] == -9, told(output)
        assert open_artifact(output) is None
        made.append(first.stat().st_mtime_ns if first.exists() else None)
    assert made[0] is None
    assert made[1] is not None
    artifact = tune(ranks, killed_recipe(tmp_path), inputs, output)
    assert_same(artifact, uninterrupted)
    assert made[1] == first.stat().st_mtime_ns  # a training that is whole is not repeated
    assert "resumed behind step" in told(output)


def test_sigterm_to_one_rank_stops_all_behind_the_same_step(
    ranks: ForkedRanks, inputs: Mapping[str, Artifact], uninterrupted: Artifact, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    blow, recipe = Blow(1, "step", 16 + 12, "SIGTERM"), killed_recipe(tmp_path, keep_every_steps=10)
    assert ranks.run(output, recipe, inputs, stage="finetune", blow=blow) == [5, 5], told(output)
    error = json.loads((output / "error.json").read_text())
    message = "SIGTERM stopped it behind step 12; start it again to go on behind step 12"
    assert error == {"kind": "preempted", "message": message}
    assert_same(tune(ranks, recipe, inputs, output), uninterrupted)
    kept = {str(path.relative_to(output / "checkpoints")) for path in (output / "checkpoints").glob("**/step-*")}
    assert kept == {f"{seed}-{start}/step-10" for seed in (0, 1) for start in ("pretrained", "scratch")}
    assert len(list((output / "checkpoints").iterdir())) == 4


CHAIN = ((1, 0, 8), (2, 3, 6), (1, 2, None))  # (ranks, ZeRO stage, the step of this start in which a rank is killed)


@pytest.mark.parametrize(("trainable", "starts"), [("all", ((2, 3, None),)), ("lora", CHAIN)])
def test_other_ranks_and_stages_give_the_same_losses_and_weights(
    ranks: ForkedRanks,
    inputs: Mapping[str, Artifact],
    tmp_path: Path,
    trainable: str,
    starts: tuple[tuple[int, int, int | None], ...],
) -> None:
    settings = {"trainable": trainable, "from_scratch_baseline": False, "classifier_dropout": 0.0, "epochs": 2}
    settings["class_weights"] = {"sea": 3.0}
    alone = tune(ranks, recipe_of(tmp_path / "alone", labelled, settings), inputs, tmp_path / "alone" / "out")
    output = tmp_path / "others" / "out"
    for world_size, stage, struck in starts:
        train = {"processes": world_size, "zero_stage": stage, "checkpoint_every_steps": 4, "micro_batch_sequences": 3}
        blow = Blow(world_size - 1, "step", struck) if struck else None
        recipe = recipe_of(tmp_path / "others", labelled, settings, **train)
        codes = ranks.run(output, recipe, inputs, stage="finetune", blow=blow)
        assert codes[-1] == (-9 if struck else 0), told(output)
    for name in ("train_loss", "lm_loss", "gradient_norm", "validation_accuracy"):
        expected = curve(alone, "pretrained", name)
        assert curve(whole(output), "pretrained", name) == pytest.approx(expected, rel=1e-4, abs=1e-4), name
    for name, value in weights(whole(output)).items():
        torch.testing.assert_close(value, weights(alone)[name], atol=1e-3, rtol=0)


def test_in_bf16_it_learns_too(ranks: ForkedRanks, inputs: Mapping[str, Artifact], tmp_path: Path) -> None:
    settings = {"precision": "bf16", "from_scratch_baseline": False, "trainable": "last_n", "trainable_blocks": 1}
    recipe = recipe_of(tmp_path, labelled, settings, zero_stage=2)
    assert tune(ranks, recipe, inputs, tmp_path / "out").manifest.figures["validation_accuracy"] > 0.95


def test_a_label_that_training_never_saw_stops_before_training(
    ranks: ForkedRanks, inputs: Mapping[str, Artifact], tmp_path: Path
) -> None:
    recipe = recipe_of(tmp_path, labelled, {})
    with (tmp_path / "rows.validation.jsonl").open("a") as stream:
        stream.write('{"text": "a cloud", "label": "sky"}\n')
    assert ranks.run(tmp_path / "out", recipe, inputs, stage="finetune") == [2]
    error = json.loads((tmp_path / "out" / "error.json").read_text())
    assert error["kind"] == "user"
    assert "rows.validation.jsonl:41: the label 'sky' is none of the training split's: land, sea" in error["message"]
