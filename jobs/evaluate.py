"""The evaluate stage: held-out figures of all models, samples, the registry. One process, all its cores or its GPU.

The language model is scored on every whole window of the validation shards, in all and by source; fine-tuned models
and two baselines on finetune.test, which nothing else scores. A recipe without a corpus has the task alone, one
without finetune the language alone. Everything runs in fp32, as whoever loads the files will run it.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch

from gpt_core.artifact import write_atomically, write_json
from gpt_core.data.shard_cache import ShardCache, open_side
from gpt_core.errors import UserError
from gpt_core.fingerprint import Json
from gpt_core.model.decoder import Decoder
from gpt_core.model.hf import load_decoder
from gpt_core.model.sampling import Sampling
from gpt_core.model.stream import stream_texts
from gpt_core.recipe import Evaluate, Recipe
from gpt_core.tasks.comparison import name_figures
from gpt_core.tokenizer.tokenizer import Tokenizer
from gpt_core.training.held_out import HeldOutScore, score_held_out
from jobs.evaluate_task import KEPT, describe_trial, open_trial, run_trial
from jobs.job import Job, Outcome, run_job
from jobs.registry import register_models

OTHERS = "others"  # the name of the sources that share shards


@dataclass(frozen=True)
class Writer:
    """The pre-trained model, its tokenizer and the prompts that it goes on from."""

    decoder: Decoder
    tokenizer: Tokenizer
    prompts: list[list[int]]


def make(job: Job) -> Outcome:
    """evaluation.json stands in the output, and with a pre-trained model samples.json."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # what the user can have got wrong is told before the long work
    writer = open_writer(job, device) if "pretrain" in job.inputs else None
    settings, finetune = job.recipe.finetune, job.inputs.get("finetune")
    trial = open_trial(finetune, settings) if finetune and settings else None

    evaluation: dict[str, Json] = {}
    figures: dict[str, float] = {}
    counts: dict[str, int] = {}
    paths = [job.output / "evaluation.json"]
    if writer is not None:
        held_out = score_language_model(job, writer)
        evaluation["language_model"] = describe_held_out(held_out)
        figures |= name_held_out(held_out)
        counts["validation_tokens"] = held_out.total.tokens
        samples = write_samples(writer.decoder, writer.tokenizer, job.recipe.evaluate, writer.prompts)
        paths.append(job.output / "samples.json")
        write_atomically(paths[-1], json.dumps(samples, indent=1, ensure_ascii=False) + "\n")
    if trial is not None:
        report = partial(job.report, unit="examples")
        comparison = run_trial(trial, report, device=device, seed=job.recipe.evaluate.seed)
        evaluation["task"] = describe_trial(trial, comparison)
        figures |= name_figures(comparison)
        counts["test_examples"] = len(trial.test)
    write_json(paths[0], evaluation)
    register_models(
        job.recipe,
        task_folder=finetune.root / KEPT if finetune else None,
        language_folder=job.inputs["pretrain"].root / "model" if writer is not None else None,
        figures=figures,
    )
    return Outcome(paths, counts=counts, figures=figures, engines=("scikit-learn", "torch"))


def open_writer(job: Job, device: torch.device) -> Writer:
    """The pre-trained model is in memory. Raises UserError for a prompt that leaves no room in the context."""
    pretrain = job.inputs["pretrain"]
    tokenizer = Tokenizer.load(pretrain.file("model/tokenizer.json"))
    decoder = load_decoder(pretrain.file("model/config.json").parent).to(device).eval()
    prompts = encode_prompts(job.recipe, tokenizer, context_length=decoder.config.context_length)
    return Writer(decoder, tokenizer, prompts)


def score_language_model(job: Job, writer: Writer) -> HeldOutScore:
    """The score on the validation shards, each document by itself where the model was trained so."""
    shards = job.inputs["shards"]
    return score_held_out(
        writer.decoder,
        open_side(shards, "validation", cache=ShardCache.of_recipe(job.recipe, shards)),
        writer.tokenizer,
        partial(job.report, unit="tokens"),
        text_bytes=shards.manifest.counts["validation_bytes"],
        document_mask=job.recipe.pretrain.document_mask,
    )


def describe_held_out(score: HeldOutScore) -> dict[str, Json]:
    """What evaluation.json says of the language model."""
    sources: dict[str, Json] = {source or OTHERS: asdict(found) for source, found in score.sources.items()}
    return {"total": asdict(score.total), "sources": sources}


def name_held_out(score: HeldOutScore) -> dict[str, float]:
    """The figures of the manifest."""
    figures = {f"validation_{name}": value for name, value in asdict(score.total).items() if name != "tokens"}
    for source, found in score.sources.items():
        figures[f"validation_bits_per_byte.{source or OTHERS}"] = found.bits_per_byte
    return figures


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


if __name__ == "__main__":
    run_job("evaluate", make)
