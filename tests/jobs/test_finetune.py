"""Fine-tuning under torchrun with real DeepSpeed: it learns, ranks change nothing, bad labels are refused."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from stage_output import write_output
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from gpt_core.artifact import Artifact
from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.model.hf import load_classifier, save_language_model
from gpt_core.recipe_file import load_recipe
from gpt_core.tasks.labelled import read_rows
from gpt_core.tasks.sequences import encode_rows
from gpt_core.tasks.spec import TaskSpec
from gpt_core.tokenizer.tokenizer import Tokenizer, copy_tokenizer
from tiny_training import finish, make_recipe, make_tokenizer, start_training

pytestmark = pytest.mark.train

FINETUNE = {"learning_rate": 0.01, "epochs": 3, "batch_sequences": 12, "max_tokens": 24}


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


@pytest.fixture(scope="module")
def tuned(inputs: Mapping[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("tuned")
    recipe = make_recipe(folder, finetune=FINETUNE)
    return finish(start_training("finetune", folder / "out", recipe, inputs), folder / "out")


def curve(artifact: Artifact, start: str, name: str) -> list[float]:
    return [value for _, value in json.loads(artifact.file("curves.json").read_text())[start][name]]


def test_two_topics_of_disjoint_words_are_told_apart(tuned: Artifact) -> None:
    assert tuned.manifest.figures["validation_accuracy"] == 1.0
    assert tuned.manifest.counts["steps"] == 3 * 7  # 80 examples in batches of 12: the last of an epoch has 8
    assert len(curve(tuned, "pretrained", "validation_accuracy")) == 3
    assert curve(tuned, "scratch", "train_loss")[-1] < 0.5


def test_the_auxiliary_objective_starts_at_the_log_of_the_vocabulary(tuned: Artifact) -> None:
    assert curve(tuned, "pretrained", "lm_loss")[0] == pytest.approx(5.95, abs=0.1)  # ln 384


def test_one_rank_gives_the_curves_of_two(tuned: Artifact, inputs: Mapping[str, Artifact], tmp_path: Path) -> None:
    settings = {**FINETUNE, "classifier_dropout": 0.0, "epochs": 1, "from_scratch_baseline": False}
    curves = []
    for processes, micro_batch in ((1, 12), (2, 2)):
        folder = tmp_path / str(processes)
        folder.mkdir()
        train = {"processes": processes, "micro_batch_sequences": micro_batch}
        recipe = make_recipe(folder, finetune=settings, train=train)
        job = start_training("finetune", folder / "out", recipe, inputs, processes=processes)
        artifact = finish(job, folder / "out")
        curves.append([curve(artifact, "pretrained", name) for name in ("train_loss", "lm_loss")])
        assert not artifact.has("scratch/config.json")
    for one, two in zip(*curves, strict=True):
        assert one == pytest.approx(two, rel=1e-4)


def test_transformers_loads_the_classifier_and_agrees(tuned: Artifact) -> None:
    folder = tuned.file("model/config.json").parent
    ours, names = load_classifier(folder)
    ours.eval()
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer, their_tokenizer = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    settings = load_recipe(tuned.root / "recipe.json").finetune
    assert settings is not None
    rows = read_rows(Path(settings.test), settings)
    padded = their_tokenizer(["the sea", *(row.texts[0] for row in rows[:3])], padding=True, return_tensors="pt")
    with torch.inference_mode():
        together = theirs(**padded).logits
    for index, row in enumerate(rows[:6]):
        ids = list(encode_rows([row], tokenizer, TaskSpec.read(folder)).sequences[0][0])
        assert their_tokenizer(row.texts[0], truncation=True)["input_ids"] == ids
        with torch.inference_mode():
            expected = theirs(torch.tensor([ids])).logits
            logits, _ = ours(torch.tensor([ids]), torch.tensor([len(ids)]))
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
        if index < 3:
            torch.testing.assert_close(together[index + 1 : index + 2], expected, atol=1e-5, rtol=0)
        assert theirs.config.id2label[int(expected.argmax())] == names[int(logits.argmax())] == row.label


def test_a_label_that_training_never_saw_stops_before_training(inputs: Mapping[str, Artifact], tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, finetune=FINETUNE)
    with (tmp_path / "validation.jsonl").open("a") as stream:
        stream.write('{"text": "a cloud", "label": "sky"}\n')
    job = start_training("finetune", tmp_path / "out", recipe, inputs)
    job.communicate()
    error = json.loads((tmp_path / "out" / "error.json").read_text())
    assert error["kind"] == "user"
    assert "validation.jsonl:21: the label 'sky' is none of the training split's: land, sea" in error["message"]
