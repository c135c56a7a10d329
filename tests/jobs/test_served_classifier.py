"""The registered classifier, through MLflow's own loader and command line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tokenizers
import torch

from gpt_core.fingerprint import fingerprint
from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import SequenceClassifier
from gpt_core.model.hf import load_classifier, save_classifier
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import parse_recipe
from gpt_core.tasks.labelled import Row
from gpt_core.tasks.sequences import encode_rows
from gpt_core.tasks.spec import TaskSpec
from gpt_core.tasks.tokenizer import write_task_tokenizer
from gpt_core.tokenizer.tokenizer import Tokenizer, build_backend, close_vocabulary
from jobs.pipeline_run import open_pipeline_run
from jobs.served_classifier import batch_rows, requirements
from jobs.tracking import RUN_ID, register_classifier, tracking_uri

pytestmark = pytest.mark.mlflow

LABELS = ["mountains", "rivers", "seas"]
MAX_TOKENS = 12
TEXTS = ["the river", "a mountain of the north and another mountain, far beyond the hills of the coast", "", "sea"]


def make_classifier(folder: Path) -> Path:
    """A random classifier over a tokenizer that is learned here."""
    backend = build_backend()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["the river and the mountain by the sea"] * 4, trainer)
    tokenizer = close_vocabulary(backend, "<|endoftext|>")
    tokenizer.save(folder / "tokenizer")
    recipe = recipe_in(folder)
    assert recipe.finetune is not None
    size = tokenizer.vocab_size
    spec = TaskSpec.of_recipe(recipe.finetune, tuple(LABELS), max_tokens=MAX_TOKENS, vocab_size=size)
    write_task_tokenizer(folder / "tokenizer", folder / "model", spec)
    spec.write(folder / "model")
    decoder = Decoder(DecoderConfig.from_recipe(recipe.model, tokenizer.vocab_size))
    decoder.init_weights(seed=1)
    classifier = SequenceClassifier(decoder, len(LABELS), dropout=0.1)
    with torch.no_grad():
        classifier.score.weight.mul_(50)  # so that labels differ
    save_classifier(classifier, folder / "model", LABELS)
    return folder / "model"


def recipe_in(workspace: Path) -> Recipe:
    return parse_recipe(
        {
            "name": "tiny",
            "workspace": str(workspace),
            "corpus": {"inputs": [{"path": "a.jsonl"}]},
            "model": {"n_layer": 2, "n_head": 2, "n_embd": 32, "context_length": 32},
            "finetune": {"train": "t", "validation": "v", "test": "e", "max_tokens": MAX_TOKENS},
        },
        origin="test",
    )


def expected_probabilities(folder: Path) -> np.ndarray:
    """(texts, labels), one text at a time, without padding."""
    classifier, labels = load_classifier(folder)
    assert labels == LABELS
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    rows = []
    with torch.inference_mode():
        for text in TEXTS:
            ids = torch.tensor(encode_rows([Row("", (text,), None)], tokenizer, TaskSpec.read(folder)).sequences[0])
            logits, _ = classifier.eval()(ids, torch.tensor([ids.shape[1]]))
            rows.append(logits[0].double().softmax(-1).numpy())
    return np.stack(rows)


class Registered:
    """A store with a registered classifier, the folder it was made from, and the run."""

    def __init__(self, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workspace = workspace
        self.folder = make_classifier(workspace / "finetune")
        self.recipe = recipe_in(workspace)
        self.uri = tracking_uri(self.recipe)
        run = open_pipeline_run(self.recipe)
        self.client = run.store.client
        self.run_id = run.start_stage("finetune", identity={"stage": "finetune"}, inputs={}, command=[])
        for name, value in run.environment(self.run_id).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        self.version = register_classifier(self.recipe, self.folder, TEXTS[:2])


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registered]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_REGISTRY_URI", RUN_ID, "RANK"):
            monkeypatch.delenv(name, raising=False)
        yield Registered(tmp_path_factory.mktemp("workspace"), monkeypatch)


def test_the_version_stands_at_the_alias_and_knows_its_run_and_output(registered: Registered) -> None:
    version = registered.client.get_model_version_by_alias("tiny-classifier", "candidate")
    assert (str(version.version), version.run_id) == (registered.version, registered.run_id)
    assert version.tags == {
        "gptmill.recipe": "tiny",
        "gptmill.output": str(registered.folder.parent),
        "gptmill.fingerprint": fingerprint({"stage": "finetune"}),
    }
    assert registered.run_id is not None
    run = registered.client.get_run(registered.run_id)
    (model,) = [registered.client.get_logged_model(output.model_id) for output in run.outputs.model_outputs]
    assert model.experiment_id == run.info.experiment_id
    assert model.artifact_location.startswith((registered.workspace / "mlartifacts").as_uri())
    assert run.data.tags["gptmill.registered_model"] == f"models:/tiny-classifier/{registered.version}"


def test_batched_predictions_in_any_order_are_those_of_each_text_alone(registered: Registered) -> None:
    import mlflow

    model = mlflow.pyfunc.load_model("models:/tiny-classifier@candidate")
    expected = expected_probabilities(registered.folder)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        answer = model.predict(pd.DataFrame({"text": [TEXTS[i] for i in order]}))
        got = np.array([[row[label] for label in LABELS] for row in answer["probabilities"]])
        np.testing.assert_allclose(got, expected[order], atol=1e-6)
        assert answer["label"].tolist() == [LABELS[i] for i in expected[order].argmax(1)]
        np.testing.assert_allclose(answer["score"], expected[order].max(1), atol=1e-6)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"body": ["a"]}), "text"),
        (pd.DataFrame({"text": ["a", None]}), r"row 1: text is None, not a string"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place(registered: Registered, table: pd.DataFrame, message: str) -> None:
    import mlflow

    model = mlflow.pyfunc.load_model("models:/tiny-classifier@candidate")
    with pytest.raises(mlflow.exceptions.MlflowException, match=message):
        model.predict(table)


def test_the_command_of_mlflow_predicts(registered: Registered, tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text(json.dumps({"inputs": [{"text": text} for text in TEXTS]}))
    command = [sys.executable, "-m", "mlflow", "models", "predict", "-m", "models:/tiny-classifier@candidate"]
    command += ["--env-manager", "local", "--content-type", "json", "-i", "texts.json", "-o", "answer.json"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": registered.uri}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads((tmp_path / "answer.json").read_text())["predictions"]
    expected = expected_probabilities(registered.folder)
    assert [row["label"] for row in answer] == [LABELS[i] for i in expected.argmax(1)]
    np.testing.assert_allclose([row["score"] for row in answer], expected.max(1), atol=1e-6)
    assert set(answer[0]["probabilities"]) == set(LABELS)


def test_a_process_that_loads_the_model_runs_the_models_own_copy_of_gpt_core(
    registered: Registered, tmp_path: Path
) -> None:
    code = """
import json, mlflow
model = mlflow.pyfunc.load_model("models:/tiny-classifier@candidate")
import gpt_core.model.hf, sys
print(json.dumps([gpt_core.model.hf.__file__, "jobs" in sys.modules]))
"""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": registered.uri}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    used, jobs_loaded = json.loads(done.stdout)
    assert used.startswith(str(registered.workspace / "mlartifacts"))
    assert not jobs_loaded


def test_batches_hold_every_row_once_and_no_more_tokens_than_allowed() -> None:
    lengths = [3, 50, 7, 50, 1, 200]
    batches = batch_rows(lengths, 100)
    assert batches == [[5], [1, 3], [2, 0, 4]]


def test_the_requirements_are_pinned_and_name_no_engine_but_mlflow() -> None:
    named = dict(line.split("==") for line in requirements())
    assert {"mlflow", "torch", "safetensors", "tokenizers"} <= set(named)
    assert not {"pyspark", "ray", "deepspeed", "gptmill"} & set(named)
    assert all("+" not in version for version in named.values())
