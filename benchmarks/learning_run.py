"""One contestant's learning curve, in a process of its own; started by sample_efficiency.py.

Trains on token shards and prints a line of JSON at every validation: the steps, the seconds of training so far
(validations and the first step's compiling are not in it) and the validation loss.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path
from statistics import median

import torch
from contestants import CONTESTANTS, Contestant, Options
from torch import Tensor

from gpt_core.artifact import open_artifact
from gpt_core.data.batches import TrainingSamples, ValidationWindows
from gpt_core.data.shard_set import ShardSet
from gpt_core.recipe import Pretrain
from gpt_core.tasks.spec import IGNORED
from gpt_core.training.schedule import Schedule

WARMUP_SHARE = 0.05


def main() -> None:
    """Train to the end of the schedule."""
    arguments = parse_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("high")
    options = Options(
        model=arguments.model,
        compiled=arguments.compile,
        batch=arguments.batch,
        threads=arguments.threads,
        learning_rate=arguments.learning_rate,
        weight_decay=arguments.weight_decay,
        muon_learning_rate=arguments.muon_learning_rate,
    )
    contestant = CONTESTANTS[arguments.contestant](options, device)
    shards = open_artifact(arguments.shards)
    assert shards is not None, "sample_efficiency.py made them"
    settings = Pretrain(batch_sequences=arguments.batch)
    samples = TrainingSamples(ShardSet.open(shards, "train"), arguments.context, settings, ignored=IGNORED)
    validation = ValidationWindows(
        ShardSet.open(shards, "validation"), arguments.context, max_tokens=arguments.validation_tokens
    )
    schedule = Schedule(
        shape=arguments.schedule,
        peak=1.0,
        final=arguments.final,
        warmup_steps=math.ceil(WARMUP_SHARE * arguments.steps),
        steps=arguments.steps,
    )
    seconds: list[float] = []
    for step in range(arguments.steps):
        started = time.perf_counter()
        batch = samples.batch(step, rank=0, world_size=1)
        ids, targets = _tensors(batch.ids[:, :-1], batch.targets, device)
        contestant.step(ids, targets, schedule.learning_rate(step))
        seconds.append(time.perf_counter() - started)
        if (step + 1) % arguments.validate_every == 0 or step + 1 == arguments.steps:
            spent = median(seconds[1:]) + sum(seconds[1:])
            loss = _validate(contestant, validation, arguments.batch, device)
            print(json.dumps({"step": step + 1, "seconds": spent, "validation_loss": loss}), flush=True)
    os._exit(0)


def parse_arguments() -> argparse.Namespace:
    """What the benchmark asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("contestant", choices=CONTESTANTS)
    for name in ("model", "shards"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("batch", "context", "steps", "threads", "validate-every", "validation-tokens"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("learning-rate", "weight-decay", "final"):
        parser.add_argument(f"--{name}", type=float, required=True)
    parser.add_argument("--schedule", choices=["cosine", "linear"], required=True)
    parser.add_argument("--muon-learning-rate", type=float)
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def _validate(contestant: Contestant, validation: ValidationWindows, batch: int, device: torch.device) -> float:
    """The mean loss over whole batches of windows."""
    losses = []
    for start in range(0, len(validation) - batch + 1, batch):
        windows = validation.take(range(start, start + batch))
        losses.append(contestant.loss(*_tensors(windows[:, :-1], windows[:, 1:], device)))
    return sum(losses) / len(losses)


def _tensors(ids: object, targets: object, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(ids, device=device), torch.tensor(targets, device=device)


if __name__ == "__main__":
    main()
