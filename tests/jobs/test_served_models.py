"""Served models: through their classes, MLflow's loader, its command line and its scoring server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModelContext
from served_models import CONTEXT, ScoringServer, make_language_model, make_task_model, serve
from tracked_runs import VARIABLES, start_watched

from gpt_core.model.heads import TaskModel
from gpt_core.model.hf import load_decoder, load_task_model
from gpt_core.model.sampling import Sampling
from gpt_core.model.stream import stream_texts
from gpt_core.recipe import Evaluate, Finetune, Recipe
from gpt_core.recipe_file import parse_recipe
from gpt_core.tasks.labelled import row_of
from gpt_core.tasks.sequences import encode_rows
from gpt_core.tokenizer.tokenizer import Tokenizer
from jobs.registry import register_models
from jobs.served_language_model import ServedLanguageModel
from jobs.served_models import requirements
from jobs.served_task import ServedTask
from jobs.tracking import tracking_uri

LABELS = ["mountains", "rivers", "seas"]
MAX_TOKENS = 12
TEXTS = ["the river", "a mountain of the north and another mountain, far beyond the hills of the coast", "", "sea"]
ROWS = [{"text": text} for text in TEXTS]
PROMPTS = ["the river", "", "a mountain by the sea"]
GREEDY = {"temperature": 0.0, "max_new_tokens": 5}


# ------------------------------------------------------------------------------------------- every task's answer


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_language_model(tmp_path_factory.mktemp("pretrain"))


def settings_of(**fields: Any) -> Finetune:
    return Finetune(train="t.jsonl", test="e.jsonl", **fields)


def outputs_alone(folder: Path, row: dict[str, object]) -> np.ndarray:
    """The model's output for one row by itself, without any padding."""
    model, spec = load_task_model(folder)
    assert isinstance(model, TaskModel)
    examples = encode_rows([row_of(row, spec, "row")], Tokenizer.load(folder), spec)
    (sequences,) = examples.sequences
    hidden = []
    with torch.inference_mode():
        for sequence in sequences:
            hidden.append(model.decoder.eval()(torch.tensor([sequence]))[0, -1])
        pooled = torch.stack(hidden)
        if spec.target != "choice":
            pooled = pooled.sum(dim=0, keepdim=True)
        scores: np.ndarray = model.score(pooled).double().numpy()
    return scores[:, 0] if spec.target == "choice" else scores[0]


def serve_in_process(folder: Path, rows: list[dict[str, object]]) -> list[dict[str, Any]]:
    served = ServedTask()
    context = PythonModelContext(artifacts={"model": str(folder)}, model_config={})
    served.load_context(context)
    answer: list[dict[str, Any]] = served.predict(context, pd.DataFrame(rows)).to_dict("records")
    return answer


def softmax(x: np.ndarray) -> np.ndarray:
    odds = np.exp(x - x.max())
    return odds / odds.sum()


def test_a_class_is_the_likeliest_with_its_probability(pretrained: Path, tmp_path: Path) -> None:
    pair = settings_of(task="entailment")
    folder = make_task_model(tmp_path, pretrained, pair, LABELS)
    rows: list[dict[str, object]] = [
        {"premise": "the river by the sea", "hypothesis": "a river"},
        {"premise": "mountain", "hypothesis": "the mountain and the river and the sea"},
    ]
    for row, answer in zip(rows, serve_in_process(folder, rows), strict=True):
        expected = softmax(outputs_alone(folder, row))
        assert list(answer["probabilities"]) == LABELS
        np.testing.assert_allclose(list(answer["probabilities"].values()), expected, atol=1e-6)
        assert answer["label"] == LABELS[expected.argmax()]
        assert answer["score"] == pytest.approx(expected.max(), abs=1e-6)


def test_classes_are_all_those_above_a_half(pretrained: Path, tmp_path: Path) -> None:
    folder = make_task_model(tmp_path, pretrained, settings_of(labels="classes"), LABELS)
    rows: list[dict[str, object]] = [{"text": text} for text in TEXTS]
    found = set()
    for row, answer in zip(rows, serve_in_process(folder, rows), strict=True):
        odds = 1 / (1 + np.exp(-outputs_alone(folder, row)))
        np.testing.assert_allclose(list(answer["probabilities"].values()), odds, atol=1e-6)
        assert answer["labels"] == [label for label, odd in zip(LABELS, odds, strict=True) if odd > 0.5]
        found.add(len(answer["labels"]))
    assert len(found) > 1, "every row has as many classes"


def test_a_number_of_a_pair_is_the_same_in_either_order(pretrained: Path, tmp_path: Path) -> None:
    folder = make_task_model(tmp_path, pretrained, settings_of(task="similarity", labels="number"))
    rows: list[dict[str, object]] = [
        {"first": "a river", "second": "the sea"},
        {"first": "the sea", "second": "a river"},
    ]
    one, other = serve_in_process(folder, rows)
    assert one["value"] == pytest.approx(outputs_alone(folder, rows[0]).item(), abs=1e-5)
    assert other["value"] == pytest.approx(one["value"], abs=1e-5)


def test_a_choice_is_told_by_its_text_among_as_many_as_the_row_has(pretrained: Path, tmp_path: Path) -> None:
    folder = make_task_model(tmp_path, pretrained, settings_of(task="multiple_choice"))
    rows: list[dict[str, object]] = [
        {"context": "the river", "choices": ["by the sea", "and", "mountain"]},
        {"context": "a sea", "choices": ["river", "the mountain"]},
    ]
    for row, answer in zip(rows, serve_in_process(folder, rows), strict=True):
        expected = softmax(outputs_alone(folder, row))
        np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)
        assert answer["choice"] == row["choices"][expected.argmax()]  # type: ignore[index]
        assert answer["score"] == pytest.approx(expected.max(), abs=1e-6)


def test_answers_are_the_same_however_rows_are_batched(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_task_model(tmp_path, pretrained, settings_of(task="multiple_choice"))
    words = ["river", "the mountain", "by the sea and the river", "and"]
    rows: list[dict[str, object]] = [{"context": "the " * n, "choices": words[: 2 + n % 3]} for n in range(1, 9)]
    expected = serve_in_process(folder, rows)
    monkeypatch.setattr("gpt_core.model.predict.BATCH_TOKENS", 60)
    for one, other in zip(expected, serve_in_process(folder, rows), strict=True):
        assert one["choice"] == other["choice"]
        np.testing.assert_allclose(one["probabilities"], other["probabilities"], atol=1e-6)


def test_a_completion_comes_with_the_mean_log_likelihood_of_its_tokens_and_its_end(
    pretrained: Path, tmp_path: Path
) -> None:
    folder = make_task_model(tmp_path, pretrained, settings_of(task="completion", text_field="question"))
    served = ServedLanguageModel()
    context = PythonModelContext(artifacts={"model": str(folder)}, model_config={})
    served.load_context(context)
    answer = served.predict(context, pd.DataFrame({"question": PROMPTS}), {"max_new_tokens": 4, "temperature": 0.0})
    tokenizer, decoder = Tokenizer.load(folder), load_decoder(folder).eval()
    end = tokenizer.end_of_text_id
    for prompt, text, told in zip(PROMPTS, answer["completion"], answer["mean_log_likelihood"], strict=True):
        before, after = [end, *tokenizer.encode(prompt)], [*tokenizer.encode(text), end]
        with torch.inference_mode():
            logits = decoder.logits(decoder(torch.tensor([[*before, *after]])))[0].double().log_softmax(-1)
        expected = np.mean([float(logits[len(before) - 1 + i, token]) for i, token in enumerate(after)])
        assert told == pytest.approx(expected, abs=1e-5)


# ------------------------------------------------------------------------------------------- through MLflow


@dataclass(frozen=True)
class Registered:
    """Both models in a registry, the folders they were made from, and servers over them."""

    workspace: Path
    uri: str
    task: Path
    language: Path
    classify: ScoringServer
    write: ScoringServer


def recipe_in(workspace: Path) -> Recipe:
    return parse_recipe(
        {
            "name": "tiny",
            "workspace": str(workspace),
            "corpus": {"inputs": [{"path": "a.jsonl"}]},
            "model": {"n_layer": 2, "n_head": 2, "n_embd": 32, "context_length": CONTEXT},
            "finetune": {"train": "t.jsonl", "test": str(workspace / "test.jsonl"), "max_tokens": MAX_TOKENS},
            "evaluate": {"prompts": ["the sea"], "sample_tokens": 6, "temperature": 0.5, "seed": 3},
        },
        origin="test",
    )


@pytest.fixture(scope="module")
def registered(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registered]:
    workspace = tmp_path_factory.mktemp("workspace")
    recipe = recipe_in(workspace)
    assert recipe.finetune is not None
    (workspace / "test.jsonl").write_text(
        "".join(json.dumps({"text": text or "the", "label": "seas"}) + "\n" for text in TEXTS)
    )
    task = make_task_model(workspace / "finetune", pretrained, recipe.finetune, LABELS)
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        start_watched(recipe, "evaluate", patch)
        figures = {"test_accuracy": 0.75, "validation_bits_per_byte": 2.5}
        register_models(recipe, task_folder=task, language_folder=pretrained, figures=figures)
        uri = tracking_uri(recipe)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        models = ("models:/tiny-classifier@champion", "models:/tiny-language-model@candidate")
        with serve(workspace, uri, *models) as (classify, write):
            yield Registered(workspace, uri, task, pretrained, classify, write)


@pytest.mark.mlflow
@pytest.mark.parametrize(
    "request_of",
    [
        lambda rows: {"inputs": rows},
        lambda rows: {"inputs": [row["text"] for row in rows]},
        lambda rows: {"inputs": {"text": [row["text"] for row in rows]}},
        lambda rows: {"instances": rows},
        lambda rows: {"dataframe_records": rows},
        lambda rows: {"dataframe_split": {"columns": ["text"], "data": [[row["text"]] for row in rows]}},
    ],
)
def test_a_server_answers_batches_in_any_order_and_form_as_each_text_alone(
    registered: Registered, request_of: Any
) -> None:
    expected = np.array([softmax(outputs_alone(registered.task, dict(row))) for row in ROWS])
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        answers = registered.classify.ask(request_of([ROWS[i] for i in order]))
        got = np.array([[answer["probabilities"][label] for label in LABELS] for answer in answers])
        np.testing.assert_allclose(got, expected[order], atol=1e-6)
        assert [answer["label"] for answer in answers] == [LABELS[i] for i in expected[order].argmax(1)]
        np.testing.assert_allclose([answer["score"] for answer in answers], expected[order].max(1), atol=1e-6)


@pytest.mark.mlflow
@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"inputs": [{"body": "a"}]}, "Model is missing inputs ['text']. Note that there were extra inputs: ['body']"),
        ({"inputs": [{"text": "a"}, {"text": None}]}, "row 1: 'text' is null; it must be a string"),
        ({"instances": [{"text": "a"}, {"text": None}]}, "row 1: 'text' is null; it must be a string"),
        ({"dataframe_records": [{"text": "a"}, {"body": "b"}]}, "row 1: 'text' is null; it must be a string"),
        ({"inputs": [{"text": "a"}, {"text": 3}]}, "row 1: 'text' is 3; it must be a string"),
        ({"dataframe_split": {"columns": ["text"], "data": [[7], [8]]}}, "row 0: 'text' is 7; it must be a string"),
        ({"inputs": []}, "no row; give one or more with 'text'"),
        ({"dataframe_split": {"columns": ["text"], "data": []}}, "no row; give one or more with 'text'"),
    ],
)
def test_a_server_refuses_what_is_no_text_with_its_row_column_and_value(
    registered: Registered, request_: dict[str, Any], words: str
) -> None:
    assert words in registered.classify.refuse(request_)


@pytest.mark.mlflow
def test_a_server_writes_batches_of_prompts_as_generate_does(registered: Registered) -> None:
    decoder, tokenizer = load_decoder(registered.language).eval(), Tokenizer.load(registered.language)
    ids = [tokenizer.encode(prompt) or [tokenizer.end_of_text_id] for prompt in PROMPTS]
    expected = [""] * len(ids)
    sampling = Sampling(temperature=0.9, top_k=40, top_p=0.95)
    for piece in stream_texts(decoder, tokenizer, ids, max_new_tokens=7, sampling=sampling, seed=11):
        expected[piece.number] += piece.text
    params = {"max_new_tokens": 7, "temperature": 0.9, "top_k": 40, "top_p": 0.95, "seed": 11}
    request = {"inputs": [{"prompt": prompt} for prompt in PROMPTS], "params": params}
    assert [answer["text"] for answer in registered.write.ask(request)] == expected
    cut = registered.write.ask({**request, "params": {**params, "stop": [expected[0][1:3]]}})
    assert cut[0]["text"] == expected[0][: expected[0].index(expected[0][1:3])]


@pytest.mark.mlflow
def test_without_params_a_server_writes_as_the_recipes_samples(registered: Registered) -> None:
    request = {"inputs": [{"prompt": "the sea"}]}
    recipes = {"max_new_tokens": 6, "temperature": 0.5, "top_k": Evaluate().top_k, "top_p": 1.0, "seed": 3}
    assert registered.write.ask(request) == registered.write.ask({**request, "params": recipes})


@pytest.mark.mlflow
@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"inputs": [{"prompt": "a"}, {"prompt": None}]}, "row 1: 'prompt' is null; it must be a string"),
        ({"inputs": [{"text": "a"}]}, "Model is missing inputs ['prompt']"),
        (
            {"inputs": [{"prompt": "a"}, {"prompt": "xyz " * 40}]},
            f"tokens leave no room in a context of {CONTEXT}; shorten it",
        ),
        (
            {"inputs": [{"prompt": "a"}], "params": {"max_new_token": 3}},
            "no parameter 'max_new_token'; there are max_new_tokens, temperature, top_k, top_p, seed, stop",
        ),
        ({"inputs": [{"prompt": "a"}], "params": {"top_k": "many"}}, "'top_k': long (default: 50)"),
        ({"inputs": [{"prompt": "a"}], "params": {"stop": "x"}}, "Value must be a 1D array"),
        (
            {"inputs": [{"prompt": "a"}], "params": {"temperature": -1.0}},
            "parameter temperature is -1.0: input should be greater than or equal to 0",
        ),
        (
            {"inputs": [{"prompt": "a"}], "params": {"stop": [""]}},
            "parameter stop.0 is '': string should have at least",
        ),
    ],
)
def test_a_server_refuses_what_it_cannot_continue_with_the_way_out(
    registered: Registered, request_: dict[str, Any], words: str
) -> None:
    assert words in registered.write.refuse(request_)


@pytest.mark.mlflow
def test_the_command_of_mlflow_predicts(registered: Registered, tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text(json.dumps({"inputs": ROWS}))
    command = [sys.executable, "-m", "mlflow", "models", "predict", "-m", "models:/tiny-classifier@candidate"]
    command += ["--env-manager", "local", "--content-type", "json", "-i", "texts.json", "-o", "answer.json"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads((tmp_path / "answer.json").read_text())["predictions"]
    assert answer == registered.classify.ask({"inputs": ROWS})


@pytest.mark.mlflow
def test_a_process_that_loads_the_model_runs_the_models_own_copy_of_gpt_core(
    registered: Registered, tmp_path: Path
) -> None:
    code = """
import json, mlflow
model = mlflow.pyfunc.load_model("models:/tiny-classifier@candidate")
import gpt_core.model.hf, sys
print(json.dumps([gpt_core.model.hf.__file__, "jobs" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    used, jobs_loaded = json.loads(done.stdout)
    assert used.startswith(str(registered.workspace / "mlartifacts"))
    assert not jobs_loaded


@pytest.mark.mlflow
def test_a_loaded_model_says_what_is_wrong_with_a_table(registered: Registered) -> None:
    import mlflow

    model = mlflow.pyfunc.load_model("models:/tiny-language-model@champion")
    with pytest.raises(MlflowException, match="no parameter 'n'; there are max_new_tokens"):
        model.predict(pd.DataFrame({"prompt": ["a"]}), params={"n": 1})
    indexed = pd.DataFrame({"prompt": ["a", "b"]}, index=[7, 9])
    assert list(model.predict(indexed, params=GREEDY).index) == [7, 9]


def test_the_requirements_are_pinned_and_name_no_engine_but_mlflow() -> None:
    named = dict(line.split("==") for line in requirements())
    assert {"mlflow", "torch", "safetensors", "tokenizers"} <= set(named)
    assert not {"pyspark", "ray", "deepspeed", "gptmill"} & set(named)
    assert all("+" not in version for version in named.values())
