"""Claim: the registered classifier answers texts faster than transformers' text-classification pipeline over its files.

    make bench NAME=serving_vs_transformers
    python benchmarks/serving_vs_transformers.py --texts 128 --rounds 2 --layers 2 --width 128

A GPT-2 of 6 layers x 384 with random weights and the topics of data/demo as labels is registered as `evaluate` does it.
The test articles are answered by its predict, by MLflow's scoring server over it (one request), and by the pipeline
over the same folder with batches of 1, of 16, and of 16 with texts sorted by length: `peer` is the fastest of them.
All in turn, medians of the rounds, one thread each. `same_work`: all give every text the same label, and scores that
differ by less than 1e-4.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import tokenizers
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/gpt_core is no package, and must not be found first

import mlflow
import transformers
from served_models import serve

from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import TaskModel
from gpt_core.model.hf import save_language_model, save_task_model
from gpt_core.model.start import load_for_task
from gpt_core.recipe import Evaluate, Finetune, Model
from gpt_core.tasks.labelled import Row, label_names, read_rows
from gpt_core.tasks.spec import TaskSpec
from gpt_core.tasks.tokenizer import write_task_tokenizer
from gpt_core.tokenizer.tokenizer import Tokenizer, build_backend, close_vocabulary
from jobs.mlflow_store import Store
from jobs.served_models import serve_task

DATA = Path(__file__).parents[1] / "data/demo"
SETTINGS = Finetune(train=str(DATA / "topics.train.jsonl.gz"), test=str(DATA / "topics.test.jsonl.gz"))
VOCABULARY, CONTEXT, BATCH = 4096, 256, 16
TOLERANCE = 1e-4

Answer = list[tuple[str, float]]  # label and score of each text


def main() -> None:
    """Print each contestant's median, then the claim as one line of JSON."""
    parser = argparse.ArgumentParser(description="Texts a second of a served classifier.")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    rows = read_rows(Path(SETTINGS.test), SETTINGS)[: arguments.texts]
    texts = [row.texts[0] for row in rows]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = make_classifier(work, layers=arguments.layers, width=arguments.width)
        uri, model = register(work, folder, rows)
        mlflow.set_tracking_uri(uri)
        loaded = mlflow.pyfunc.load_model(model)
        with serve(work, uri, model) as (server,):
            contestants: dict[str, Callable[[], Answer]] = {
                "pyfunc": lambda: pairs(loaded.predict(pd.DataFrame({"text": texts})).to_dict("records")),
                "scoring server": lambda: pairs(server.ask({"inputs": [{"text": text} for text in texts]})),
                **peers(folder, texts),
            }
            seconds, same_work = time_in_turn(contestants, arguments.rounds)
    for name, taken in seconds.items():
        print(f"{name:22} {len(texts) / taken:8.1f} texts/s")
    peer = min(taken for name, taken in seconds.items() if name.startswith("transformers"))
    print(
        json.dumps(
            {
                "claim": "texts a second of the registered classifier, against transformers' pipeline",
                "ours": round(len(texts) / seconds["pyfunc"], 1),
                "peer": round(len(texts) / peer, 1),
                "ratio": round(peer / seconds["pyfunc"], 2),
                "unit": "texts/s",
                "same_work": same_work,
            }
        )
    )


def make_classifier(work: Path, *, layers: int, width: int) -> Path:
    """A folder with a classifier of the demo's topics, random but for its tokenizer; its labels vary."""
    rows = read_rows(Path(SETTINGS.train), SETTINGS)
    backend = build_backend()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([row.texts[0] for row in rows], trainer)
    tokenizer: Tokenizer = close_vocabulary(backend, "<|endoftext|>")
    pretrained, folder = work / "pretrain", work / "finetune"
    tokenizer.save(pretrained)
    shape = Model(architecture="gpt2", n_layer=layers, n_head=width // 64, n_embd=width, context_length=CONTEXT)
    decoder = Decoder(DecoderConfig.from_recipe(shape, tokenizer.vocab_size))
    decoder.init_weights(0)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(10 if parameter.ndim > 1 else 1)  # texts differ
    save_language_model(decoder, pretrained, end_of_text_id=tokenizer.end_of_text_id)
    labels = label_names(rows, "class")
    spec = TaskSpec.of_recipe(SETTINGS, labels, max_tokens=CONTEXT, vocab_size=tokenizer.vocab_size)
    start = load_for_task(pretrained, tokenizer.vocab_size)
    model = TaskModel(start, n_outputs=spec.n_outputs, target=spec.target, dropout=0.0)
    save_task_model(model, folder, spec, end_of_text_id=tokenizer.end_of_text_id)
    write_task_tokenizer(pretrained, folder, spec)
    return folder


def register(work: Path, folder: Path, rows: list[Row]) -> tuple[str, str]:
    """(the store, the model's URI) of the folder as a registered model."""
    store = Store(f"sqlite:///{work}/mlflow.db")
    experiment = store.experiment_id("benchmark", artifact_location=(work / "artifacts").as_uri())
    run_id = store.start_run(experiment, "benchmark", {})
    number = store.log_version(serve_task(folder, rows[:2], Evaluate()), run_id, "topics", {}, {})
    return store.uri, f"models:/topics/{number}"


def peers(folder: Path, texts: list[str]) -> dict[str, Callable[[], Answer]]:
    """The pipeline over the folder, in each of its ways."""
    pipeline = transformers.pipeline("text-classification", model=str(folder), device="cpu", truncation=True)
    order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))

    def by_length() -> Answer:
        answers = pairs(pipeline([texts[number] for number in order], batch_size=BATCH))
        back = dict(zip(order, answers, strict=True))
        return [back[number] for number in range(len(texts))]

    return {
        "transformers": lambda: pairs(pipeline(texts, batch_size=1)),
        f"transformers {BATCH}": lambda: pairs(pipeline(texts, batch_size=BATCH)),
        f"transformers {BATCH} sorted": by_length,
    }


def pairs(answers: list[dict[str, str | float]]) -> Answer:
    """Label and score of each."""
    return [(str(answer["label"]), float(answer["score"])) for answer in answers]


def time_in_turn(contestants: dict[str, Callable[[], Answer]], rounds: int) -> tuple[dict[str, float], bool]:
    """(median seconds of each, whether all gave the same answers); one round first counts nothing."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    same = True
    for number in range(rounds + 1):
        answers = {}
        for name, run in contestants.items():
            started = time.perf_counter()
            answers[name] = run()
            if number:
                seconds[name].append(time.perf_counter() - started)
        first, *others = answers.values()
        for other in others:
            same = same and all(
                a[0] == b[0] and abs(a[1] - b[1]) < TOLERANCE for a, b in zip(first, other, strict=True)
            )
    found = len({label for label, _ in first})
    print(f"{found} labels among the answers")
    return {name: statistics.median(taken) for name, taken in seconds.items()}, same and found > 1


if __name__ == "__main__":
    main()
