"""Whole outputs of the stages before training, made in a moment: a tokenizer, shards and labels of counted words."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from stage_output import write_output

from gpt_core.artifact import Artifact, open_artifact
from gpt_core.data.index import ShardEntry, ShardIndex, write_index
from gpt_core.data.shards import ShardMetadata, write_shard
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import parse_recipe
from gpt_core.tokenizer.tokenizer import Tokenizer, build_backend, close_vocabulary
from jobs.job import IDENTITY, RECIPE

ROOT = Path(__file__).parents[1]
WORDS = {"sea": ["ship", "sail", "wave", "anchor", "harbour"], "land": ["horse", "field", "barn", "plough", "meadow"]}


def write_text(topic: str, seed: int) -> str:
    chooser = random.Random(seed)
    return " ".join(chooser.choice([*WORDS[topic], "the", "of", "and"]) for _ in range(20))


def make_tokenizer(root: Path) -> Artifact:
    backend = build_backend()
    import tokenizers

    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([write_text(topic, seed) for topic in WORDS for seed in range(20)], trainer)
    root.mkdir(parents=True)
    tokenizer = close_vocabulary(backend, "<|endoftext|>")
    tokenizer.save(root)
    return write_output(root, "tokenizer", {"vocab_size": tokenizer.vocab_size})


def make_shards(root: Path, tokenizer_root: Path) -> Artifact:
    tokenizer = Tokenizer.load(tokenizer_root)
    metadata = ShardMetadata(tokenizer.digest, tokenizer.vocab_size, tokenizer.end_of_text_id, seed=0)
    counts: dict[str, int] = {}
    sides: list[tuple[ShardEntry, ...]] = []
    for side, seeds in (("train", range(100, 220)), ("validation", range(220, 232))):
        entries = []
        for topic in sorted(WORDS):
            texts = [write_text(topic, seed) for seed in seeds]
            ids = [[*tokenizer.encode(text), tokenizer.end_of_text_id] for text in texts]
            tokens = np.array([token for document in ids for token in document], dtype=metadata.dtype)
            entries.append(ShardEntry(f"{side}/{topic}/shard-00000.arrow", topic, len(ids), len(tokens)))
            write_shard(
                root / entries[-1].path,
                doc_ids=[f"{side}-{topic}-{index}" for index in range(len(texts))],
                tokens=tokens,
                offsets=np.cumsum([0, *map(len, ids)]),
                metadata=metadata,
            )
            counts[f"{side}_tokens"] = counts.get(f"{side}_tokens", 0) + len(tokens)
            counts[f"{side}_bytes"] = counts.get(f"{side}_bytes", 0) + sum(map(len, texts))
        sides.append(tuple(entries))
    write_index(root, ShardIndex(metadata, *sides))
    return write_output(root, "shards", counts)


def make_inputs(root: Path) -> dict[str, Artifact]:
    """What pre-training reads."""
    tokenizer = make_tokenizer(root / "tokenizer")
    return {"shards": make_shards(root / "shards", tokenizer.root), "tokenizer": tokenizer}


def write_labels(path: Path, seeds: range) -> Path:
    rows = [{"text": write_text(topic, seed), "label": topic} for seed in seeds for topic in WORDS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_recipe(folder: Path, **sections: Mapping[str, object]) -> Recipe:
    tree: dict[str, object] = {
        "name": "tiny",
        "workspace": str(folder / "workspace"),
        "corpus": {"inputs": [{"path": "none.jsonl"}]},
        "model": {"n_layer": 2, "n_head": 2, "n_embd": 16, "context_length": 32, **sections.get("model", {})},
        "pretrain": {
            "tokens": 32 * 8 * 24,
            "batch_sequences": 8,
            "learning_rate": 0.01,
            "warmup_tokens": 512,
            "validate_every_steps": 12,
            "precision": "fp32",
            **sections.get("pretrain", {}),
        },
        "cluster": {
            "train": {
                "processes": 2,
                "threads_per_process": 1,
                "checkpoint_every_steps": 6,
                **sections.get("train", {}),
            }
        },
    }
    if "tracking" in sections:
        tree["tracking"] = sections["tracking"]
    if "finetune" in sections:
        tree["finetune"] = {
            "train": str(write_labels(folder / "train.jsonl", range(300, 340))),
            "validation": str(write_labels(folder / "validation.jsonl", range(340, 350))),
            "test": str(write_labels(folder / "test.jsonl", range(350, 360))),
            "precision": "fp32",
            **sections["finetune"],
        }
    return parse_recipe(json.loads(json.dumps(tree)), origin="the test's recipe")


def start_training(
    stage: str, output: Path, recipe: Recipe, inputs: Mapping[str, Artifact], *, processes: int = 2
) -> "subprocess.Popen[str]":
    """The job under torchrun, as the runner would start it."""
    output.mkdir(parents=True, exist_ok=True)
    (output / RECIPE).write_text(recipe.model_dump_json(), encoding="utf-8")
    (output / IDENTITY).write_text(json.dumps({"stage": stage}), encoding="utf-8")
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    paths = [f"{name}={artifact.root}" for name, artifact in inputs.items()]
    arguments = ["--recipe", str(output / RECIPE), "--output", str(output), "--inputs", *paths]
    return subprocess.Popen(
        [sys.executable, "-m", *torchrun, "-m", f"jobs.{stage}", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(job: "subprocess.Popen[str]", output: Path) -> Artifact:
    return finish_telling(job, output)[0]


def finish_telling(job: "subprocess.Popen[str]", output: Path) -> tuple[Artifact, str]:
    """The job's whole output, and what it printed."""
    told, _ = job.communicate()
    assert job.returncode == 0, told
    artifact = open_artifact(output)
    assert artifact is not None, told
    return artifact, told
