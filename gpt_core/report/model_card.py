"""The card of a fine-tuned model: README.md beside its weights, as Hugging Face's hub shows it.

A YAML header and Markdown below it: what the model does, what it learned from, how well it does, and what it is not
for. Paths of the machine that made it stay out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gpt_core.artifact import write_atomically
from gpt_core.recipe import Finetune, Recipe
from gpt_core.report import units
from gpt_core.tasks.spec import Target, TaskSpec

CARD = "README.md"

PIPELINES: dict[Target, str] = {
    "class": "text-classification",
    "classes": "text-classification",
    "number": "text-classification",
    "choice": "multiple-choice",
    "text": "text-generation",
}
SENTENCES: dict[str, str] = {
    "classification": "tells the label of a text",
    "entailment": "tells how a hypothesis relates to a premise",
    "similarity": "compares two texts, in either order with the same result",
    "multiple_choice": "picks one of several continuations of a context",
    "completion": "completes a prompt",
}
TARGETS: dict[Target, str] = {
    "class": "One of {count} classes: {labels}.",
    "classes": "Any number of {count} classes: {labels}. Each has a logit of its own; above 0 the text has the class.",
    "number": "A number.",
    "choice": "A score for each choice; the greatest wins.",
    "text": "Text that goes on until the end-of-text token.",
}
SEQUENCES: dict[str, str] = {
    "classification": "<|start|> {0} <|extract|>",
    "entailment": "<|start|> {0} <|delimiter|> {1} <|extract|>",
    "similarity": "<|start|> {0} <|delimiter|> {1} <|extract|>, and the same with {1} first: the activations at the "
    "last token of both are added before the head",
    "multiple_choice": "<|start|> {0} <|delimiter|> one of {1} <|extract|>, a sequence for each choice",
    "completion": "end of text, {0}; what follows is {1} and the end of text",
}
FIGURES = {  # in words, by the end of their names
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "pearson": "Pearson's correlation",
    "loss": "Loss, nats per token",
}
MOST_LABELS = 30  # that are listed


def write_model_card(
    folder: Path, recipe: Recipe, spec: TaskSpec, figures: Mapping[str, float], *, train_examples: int
) -> Path:
    """The card of the model in `folder` stands there. `figures` are those of the fine-tuning's manifest."""
    write_atomically(folder / CARD, model_card(recipe, spec, figures, train_examples=train_examples))
    return folder / CARD


def model_card(recipe: Recipe, spec: TaskSpec, figures: Mapping[str, float], *, train_examples: int) -> str:
    """The card's text."""
    settings = recipe.finetune
    assert settings is not None
    header = yaml.safe_dump(_header(recipe.name, spec, figures), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{header}---\n",
        f"# {recipe.name}\n",
        f"This model {SENTENCES[spec.task]}. It was made with gptmill.\n",
        _what(spec),
        _data(recipe, settings, train_examples=train_examples),
        _figures(settings, figures),
        _use(spec),
        _limits(spec),
    ]
    return "\n".join(parts)


def _header(name: str, spec: TaskSpec, figures: Mapping[str, float]) -> dict[str, Any]:
    """What the hub reads. A licence is the owner's to choose, and is left out."""
    metrics = [
        {"type": metric.removeprefix("validation_"), "value": value, "name": _in_words(metric)}
        for metric, value in figures.items()
        if metric.startswith("validation_") and not metric.endswith("_spread")
    ]
    task = {"type": PIPELINES[spec.target], "name": spec.task.replace("_", " ")}
    dataset = {"type": "other", "name": "validation examples"}
    return {
        "library_name": "transformers",
        "pipeline_tag": PIPELINES[spec.target],
        "tags": ["gptmill", spec.task],
        "model-index": [{"name": name, "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}],
    }


def _what(spec: TaskSpec) -> str:
    shown = ", ".join(spec.labels[:MOST_LABELS]) + (", ..." if len(spec.labels) > MOST_LABELS else "")
    output = TARGETS[spec.target].format(count=len(spec.labels), labels=shown)
    sequence = SEQUENCES[spec.task].format(*spec.fields)
    length = units.count(spec.max_tokens)
    return f"## What it does\n\n- Input: `{sequence}`, at most {length} tokens.\n- Output: {output}\n"


def _data(recipe: Recipe, settings: Finetune, *, train_examples: int) -> str:
    if recipe.corpus is None:
        origin = f"A language model of the folder `{Path(settings.model or '').name}`"
    else:
        files = ", ".join(f"`{Path(entry.path).name}`" for entry in recipe.corpus.inputs)
        tokens, shape = units.count(recipe.pretrain.tokens), recipe.model
        origin = (
            f"A {shape.architecture} decoder of {shape.n_layer} layers, width {shape.n_embd}, pre-trained on {tokens} "
            f"tokens of {files},"
        )
    learned = {
        "all": "all weights",
        "head": "the head and the new tokens",
        "last_n": f"the head, the new tokens and the last {settings.trainable_blocks} blocks",
        "lora": f"the head, the new tokens and additions of rank {settings.lora_rank}, merged into the matrices",
    }[settings.trainable]
    return (
        f"## What it learned from\n\n{origin} was tuned on {units.count(train_examples)} examples of "
        f"`{Path(settings.train).name}` in {settings.epochs} epochs of batches of {settings.batch_sequences}; peak "
        f"learning rate {settings.learning_rate:g}, weight of the language model's loss {settings.lm_weight:g}. What "
        f"learned: {learned}. The epoch with the best validation figure is kept"
        f"{f', and of {settings.seeds} seeds the best' if settings.seeds > 1 else ''}.\n"
    )


def _figures(settings: Finetune, figures: Mapping[str, float]) -> str:
    """A table: this model, and the same model from random weights."""
    rows = []
    for metric, value in figures.items():
        if not metric.startswith("validation_") or metric.endswith("_spread"):
            continue
        spread, scratch = figures.get(f"{metric}_spread"), figures.get(f"scratch_{metric}")
        told = units.fixed(value) + (f" +- {units.fixed(spread)}" if spread is not None else "")
        rows.append(f"| {_in_words(metric)} | {told} | {units.fixed(scratch) if scratch is not None else '-'} |")
    over = f", mean and standard deviation of {settings.seeds} seeds" if settings.seeds > 1 else ""
    table = "\n".join(["| figure | this model | from random weights |", "| --- | --- | --- |", *rows])
    return f"## How well it does\n\nOn the validation examples{over}:\n\n{table}\n"


def _use(spec: TaskSpec) -> str:
    name = "AutoModelForCausalLM" if spec.target == "text" else "AutoModelForSequenceClassification"
    lines = [
        f"from transformers import AutoTokenizer, {name}",
        "",
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        f'model = {name}.from_pretrained(".")',
    ]
    note = ""
    if spec.task in ("similarity", "multiple_choice"):
        note = "\nThat gives the logits of one sequence; `task.json` says how those of an example combine.\n"
    return "## How to use it\n\n```python\n" + "\n".join(lines) + f"\n```\n{note}"


def _limits(spec: TaskSpec) -> str:
    limits = [
        "The validation figures chose the epoch (and the seed), so they flatter; figures of a test set do not.",
        f"What is longer than {units.count(spec.max_tokens)} tokens is cut, and what is cut is not seen.",
        "It knows the language, the topics and the prejudices of the texts that it learned from, and no others.",
    ]
    if spec.target == "class":
        limits.append("It has no answer for a text that is of none of its classes: it names one of them all the same.")
    if spec.target == "text":
        limits.append("What it writes may be wrong, and is not to be relied on unread.")
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits) + "\n"


def _in_words(metric: str) -> str:
    name = metric.removeprefix("validation_")
    return FIGURES.get(name, name)
