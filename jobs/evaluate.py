"""The evaluate stage: held-out figures of both models, and samples. One process, all its cores or its one GPU.

The language model is scored on every whole window of the validation shards, the classifiers on finetune.test, which
nothing else scores. Everything runs in fp32, as whoever loads the files will run it.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from gpt_core.artifact import Artifact, write_atomically, write_json
from gpt_core.data.batches import ValidationWindows
from gpt_core.data.shard_cache import ShardCache, open_side
from gpt_core.errors import UserError
from gpt_core.fingerprint import Json
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import LanguageModel, TaskModel
from gpt_core.model.hf import load_decoder, load_task_model
from gpt_core.model.sampling import Sampling
from gpt_core.model.stream import stream_texts
from gpt_core.recipe import Evaluate, Finetune, Recipe
from gpt_core.tasks.batches import make_batch
from gpt_core.tasks.labelled import read_rows, require_known_labels
from gpt_core.tasks.sequences import Examples, encode_rows
from gpt_core.tokenizer.tokenizer import Tokenizer
from gpt_core.training.metrics import ClassificationScore, majority_label, score_classification
from jobs.job import Job, Outcome, run_job
from jobs.registry import register_models

BATCH_TOKENS = 8192  # in a forward pass, padding in
MODEL_FOLDERS = {"pretrained": "model", "scratch": "scratch"}  # how fine-tuning began -> folder of what it made

Report = Callable[[int, int], None]  # units done, units in all


@dataclass(frozen=True)
class LanguageModelScore:
    """Likelihood of the validation text. The loss is in nats a token, the perplexity its exponential."""

    validation_loss: float
    validation_bits_per_byte: float
    validation_perplexity: float
    tokens_scored: int


@dataclass(frozen=True)
class Test:
    """The test split and what is to be scored on it: a classifier for each way that fine-tuning began."""

    __test__ = False  # no test of pytest's

    classifiers: dict[str, TaskModel]
    labels: list[str]
    examples: Examples
    majority: int  # the most frequent label of the training split


def make(job: Job) -> Outcome:
    """evaluation.json and samples.json stand in the output."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pretrain = job.inputs["pretrain"]
    tokenizer = Tokenizer.load(pretrain.file("model/tokenizer.json"))
    decoder = load_decoder(pretrain.file("model/config.json").parent).to(device).eval()
    # what the user can have got wrong is told before the long work
    prompts = encode_prompts(job.recipe, tokenizer, context_length=decoder.config.context_length)
    settings, finetune = job.recipe.finetune, job.inputs.get("finetune")
    test = open_test(finetune, settings, tokenizer, device=device) if finetune and settings else None

    shards = job.inputs["shards"]
    cache = ShardCache.of_recipe(job.recipe, shards)
    language = score_language_model(
        decoder,
        shards,
        partial(job.report, unit="tokens"),
        cache=cache,
        document_mask=job.recipe.pretrain.document_mask,
    )
    evaluation: dict[str, Json] = {"language_model": asdict(language)}
    figures = {name: value for name, value in asdict(language).items() if name != "tokens_scored"}
    counts = {"validation_tokens": language.tokens_scored}
    samples = write_samples(decoder, tokenizer, job.recipe.evaluate, prompts)
    write_atomically(job.output / "samples.json", json.dumps(samples, indent=1, ensure_ascii=False) + "\n")
    if test is not None:
        scores = score_test(test, partial(job.report, unit="examples"))
        evaluation["classification"] = describe_scores(test, scores)
        figures |= name_figures(scores)
        counts["test_examples"] = len(test.examples)
    evaluated = write_json(job.output / "evaluation.json", evaluation)
    register_models(
        job.recipe,
        task_folder=finetune.root / "model" if finetune else None,
        language_folder=pretrain.root / "model",
        figures=figures,
    )
    return Outcome([evaluated, job.output / "samples.json"], counts=counts, figures=figures, engines=("torch",))


def score_language_model(
    decoder: Decoder,
    shards: Artifact,
    report: Report,
    *,
    cache: ShardCache | None = None,
    document_mask: bool = False,
) -> LanguageModelScore:
    """The decoder's score on all whole windows of the validation shards, each document by itself where so trained.

    Bits per byte are per UTF-8 byte of the validation text, of which the tokens scored have their share; the end of
    every document costs nats and has no byte. Raises UserError if there is no whole window.
    """
    T = decoder.config.context_length  # noqa: N806
    windows = ValidationWindows(open_side(shards, "validation", cache=cache), T)
    model, device = LanguageModel(decoder), decoder.embedding.weight.device
    nats, scored = 0.0, 0
    size = max(1, BATCH_TOKENS // T)
    for start in range(0, len(windows), size):
        numbers = range(start, min(start + size, len(windows)))
        taken = windows.take(numbers)
        ids = torch.from_numpy(taken).to(device)  # (B, T + 1)
        positions = torch.from_numpy(windows.positions(taken)).to(device).long() if document_mask else None
        with torch.inference_mode():
            nats += float(model(ids[:, :-1], ids[:, 1:], positions)[0])
        scored += len(numbers) * T
        report(scored, len(windows) * T)
    counts = shards.manifest.counts
    scored_bytes = counts["validation_bytes"] * scored / counts["validation_tokens"]
    loss = nats / scored
    return LanguageModelScore(loss, nats / math.log(2) / scored_bytes, math.exp(loss), scored)


def encode_prompts(recipe: Recipe, tokenizer: Tokenizer, *, context_length: int) -> list[list[int]]:
    """The ids of every prompt, each of which begins a document as the training documents began.

    It stands behind an end-of-text token; with pretrain.document_mask no document saw the one before, and no prompt
    does. Raises UserError for a prompt that leaves no room in the context.
    """
    opening = [] if recipe.pretrain.document_mask else [tokenizer.end_of_text_id]
    prompts = [[*opening, *tokenizer.encode(prompt)] for prompt in recipe.evaluate.prompts]
    for index, ids in enumerate(prompts):
        if len(ids) >= context_length:
            raise UserError(
                f"evaluate.prompts.{index}: its {len(ids)} tokens leave no room in model.context_length="
                f"{context_length}; shorten it"
            )
    return prompts


def write_samples(
    decoder: Decoder, tokenizer: Tokenizer, settings: Evaluate, prompts: Sequence[Sequence[int]]
) -> list[dict[str, str]]:
    """Each prompt and the text that continues it; sample i is drawn with the seed plus i."""
    samples = [{"prompt": prompt, "text": ""} for prompt in settings.prompts]
    for piece in stream_texts(
        decoder,
        tokenizer,
        prompts,
        max_new_tokens=settings.sample_tokens,
        sampling=Sampling(settings.temperature, settings.top_k, settings.top_p),
        seed=settings.seed,
        stop=settings.stop,
    ):
        samples[piece.number]["text"] += piece.text
    return samples


def open_test(finetune: Artifact, settings: Finetune, tokenizer: Tokenizer, *, device: torch.device) -> Test:
    """The classifiers of the fine-tuning and the test split. Raises InputError for a row that cannot be scored."""
    classifiers: dict[str, TaskModel] = {}
    names: list[str] = []
    for start, folder in MODEL_FOLDERS.items():
        if finetune.has(f"{folder}/config.json"):
            classifier, spec = load_task_model(finetune.root / folder)
            assert isinstance(classifier, TaskModel), spec
            classifiers[start], names = classifier.to(device).eval(), list(spec.labels)
    rows, train = read_rows(Path(settings.test), settings), read_rows(Path(settings.train), settings)
    require_known_labels(rows, names)
    majority = majority_label([names.index(str(row.label)) for row in train])
    return Test(classifiers, names, encode_rows(rows, tokenizer, spec), majority)


def score_test(test: Test, report: Report) -> dict[str, ClassificationScore]:
    """The score of every classifier on the test split, and of always saying the training split's majority label."""
    total = len(test.classifiers) * len(test.examples)
    score = partial(score_classification, test.examples.labels, n_labels=len(test.labels))

    def report_from(done: int) -> Report:
        return lambda more, _: report(done + more, total)

    scores = {"majority": score([test.majority] * len(test.examples))}
    for index, (start, classifier) in enumerate(test.classifiers.items()):
        scores[start] = score(predict_labels(classifier, test.examples, report_from(index * len(test.examples))))
    return scores


def predict_labels(classifier: TaskModel, examples: Examples, report: Report) -> npt.NDArray[np.int64]:
    """The likeliest label number of each example, (n,). Examples of like length go together, to spare padding."""
    device = classifier.score.weight.device
    predicted = np.empty(len(examples), dtype=np.int64)
    order = np.argsort(-examples.lengths, kind="stable")  # the longest first: it says how many go together
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, BATCH_TOKENS // int(examples.lengths[order[start]]))]
        batch = make_batch(examples, rows.tolist(), pad_id=0)  # attention is causal: any padding will do
        with torch.inference_mode():
            logits, _ = classifier(*(torch.from_numpy(it).to(device) for it in (batch.ids, batch.lengths)))
        predicted[rows] = logits.argmax(dim=-1).cpu().numpy()
        start += len(rows)
        report(start, len(order))
    return predicted


def describe_scores(test: Test, scores: dict[str, ClassificationScore]) -> dict[str, Json]:
    """What evaluation.json says: all of the pre-trained classifier, the confusion of each, the label of majority."""
    described: dict[str, Json] = {}
    for start, score in scores.items():
        figures: dict[str, Json] = {"accuracy": score.accuracy, "macro_f1": score.macro_f1}
        told: Json = test.labels[test.majority] if start == "majority" else [list(row) for row in score.confusion]
        described[start] = figures | {"label" if start == "majority" else "confusion": told}
    pretrained = scores["pretrained"]
    return {
        "labels": list(test.labels),
        "confusion": [list(row) for row in pretrained.confusion],
        "per_label": {label: asdict(score) for label, score in zip(test.labels, pretrained.labels, strict=True)},
        **described,
    }


def name_figures(scores: dict[str, ClassificationScore]) -> dict[str, float]:
    """The figures of the manifest."""
    figures = {
        "test_accuracy": scores["pretrained"].accuracy,
        "test_macro_f1": scores["pretrained"].macro_f1,
        "majority_accuracy": scores["majority"].accuracy,
    }
    if "scratch" in scores:
        figures["scratch_test_accuracy"] = scores["scratch"].accuracy
        figures["scratch_test_macro_f1"] = scores["scratch"].macro_f1
    return figures


if __name__ == "__main__":
    run_job("evaluate", make)
