"""A model card: a header that the hub can read, and what a person wants to know of every task."""

import pytest
import yaml
from report_run import make_recipe

from gpt_core.report.model_card import model_card
from gpt_core.tasks.spec import TaskSpec

FIGURES = {"train_loss": 0.5, "validation_accuracy": 0.8125, "scratch_validation_accuracy": 0.75}
TASKS = [
    ("classification", "class"),
    ("classification", "classes"),
    ("classification", "number"),
    ("entailment", "class"),
    ("similarity", "class"),
    ("similarity", "number"),
    ("multiple_choice", "class"),
    ("completion", "class"),
]


def card(figures: dict[str, float] = FIGURES, **settings: object) -> str:
    files = {"train": "/home/me/train.jsonl", "validation": "/home/me/validation.jsonl", "test": "/home/me/test.jsonl"}
    recipe = make_recipe(finetune={**files, **settings})
    assert recipe.finetune is not None
    labels = ("A|B", "C: D") if recipe.finetune.labels != "number" else ()
    spec = TaskSpec.of_recipe(recipe.finetune, labels, max_tokens=64, vocab_size=4096)
    return model_card(recipe, spec, figures, train_examples=1234)


@pytest.mark.parametrize(("task", "labels"), TASKS)
def test_the_header_is_yaml_and_no_path_of_this_machine_is_told(task: str, labels: str) -> None:
    text = card(task=task, labels=labels)
    _, header, body = text.split("---\n", 2)
    tree = yaml.safe_load(header)
    assert tree["tags"] == ["gptmill", task]
    metrics = tree["model-index"][0]["results"][0]["metrics"]
    assert metrics == [{"type": "accuracy", "value": 0.8125, "name": "Accuracy"}]
    assert "/home/me" not in text
    assert "1,234 examples of `train.jsonl`" in body
    assert "{" not in body
    assert "| Accuracy | 0.812 | 0.750 |" in body


def test_of_several_seeds_the_spread_is_told() -> None:
    text = card({**FIGURES, "validation_accuracy_spread": 0.0123}, seeds=3)
    assert "| Accuracy | 0.812 +- 0.012 | 0.750 |" in text
    assert "of 3 seeds the best" in text


def test_it_says_what_learned() -> None:
    assert "What learned: the head, the new tokens and additions of rank 4" in card(trainable="lora", lora_rank=4)
