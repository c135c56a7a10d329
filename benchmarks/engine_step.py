"""Claim: a step through ZeRO-1 costs at most a tenth more than one of a plain torch loop.

    make bench NAME=engine_step
    python benchmarks/engine_step.py --steps 40 --runs 5

One rank, one thread, four qwen3 blocks of 128 (1 M parameters), one micro-batch of 2 x 128 tokens. The peer is the
same model in plain torch: backward, clip_grad_norm_, torch's AdamW as it comes. Ours is the engine of the jobs with
AdamW, its loss summed over ranks; beside them Muon's, and where its time goes. `same_work`: after the first run the
weights of both are equal but for rounding.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.recipe import Pretrain, TrainCluster
from gpt_core.training.objective import LanguageObjective
from jobs.zero import ZeroEngine, join_ranks

CONFIG = DecoderConfig("qwen3", 1_024, 4, 4, 4, 128, 384, 128, 0.0, 10_000.0)
SEQUENCES, TOKENS = 2, 2 * 128
SETTINGS = Pretrain(precision="fp32", learning_rate=1e-3, eps=1e-5)

Step = Callable[[Tensor, Tensor], None]


def main() -> None:
    """Print each run's milliseconds a step, then the claim as one line of JSON."""
    parser = argparse.ArgumentParser(description="What a training step costs.")
    parser.add_argument("--steps", type=int, default=40, help="in a run")
    parser.add_argument("--runs", type=int, default=5, help="of each, by turns")
    arguments = parser.parse_args()
    if "RANK" not in os.environ:
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "1", __file__, *sys.argv[1:]]
        root = str(Path(__file__).parents[1])
        sys.exit(subprocess.call([sys.executable, "-m", *torchrun], env={**os.environ, "PYTHONPATH": root}))
    join_ranks(TrainCluster(threads_per_process=1))
    engine, muon, peer = (
        make_engine(SETTINGS),
        make_engine(SETTINGS.model_copy(update={"optimizer": "muon"})),
        make_objective(),
    )
    steps = {"ours": engine_step(engine), "ours with Muon": engine_step(muon), "plain torch": plain_step(peer)}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    same = True
    for run in range(arguments.runs):
        for name, step in steps.items():
            taken[name].append(milliseconds(step, arguments.steps))
        print(", ".join(f"{name} {values[-1]:.1f}" for name, values in taken.items()), "ms a step", flush=True)
        if run == 0:
            expected = peer.state_dict()
            same = all(torch.allclose(value, expected[name], atol=1e-3) for name, value in engine.weights().items())
    ours, plain = statistics.median(taken["ours"]), statistics.median(taken["plain torch"])
    line = {"claim": "a step through ZeRO-1", "ours": round(ours, 2), "peer": round(plain, 2)}
    print(json.dumps({**line, "ratio": round(plain / ours, 2), "unit": "ms", "same_work": same}))


def make_objective() -> LanguageObjective:
    """The model, with the same weights each time."""
    decoder = Decoder(CONFIG)
    decoder.init_weights(0)
    return LanguageObjective(decoder, "fp32")


def make_engine(settings: Pretrain) -> ZeroEngine:
    """The jobs' engine over the model."""
    return ZeroEngine(make_objective(), settings, TrainCluster(zero_stage=1), micro_batch=SEQUENCES)


def nats_of(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The summed loss of the objective's output."""
    return output[0] if isinstance(output, tuple) else output


def engine_step(engine: ZeroEngine) -> Step:
    """A step as the loop takes it."""

    def step(ids: Tensor, targets: Tensor) -> None:
        loss = nats_of(engine.forward(ids, targets)) / TOKENS
        engine.backward(loss, last=True)
        engine.sum_over_ranks(loss.detach().view(1))
        engine.step(1.0)

    return step


def plain_step(objective: LanguageObjective) -> Step:
    """The same in plain torch."""
    parameters = list(objective.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": SETTINGS.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (SETTINGS.beta1, SETTINGS.beta2)
    optimizer = torch.optim.AdamW(groups, lr=SETTINGS.learning_rate, betas=betas, eps=SETTINGS.eps)

    def step(ids: Tensor, targets: Tensor) -> None:
        loss = nats_of(objective(ids, targets)) / TOKENS
        loss.backward()
        float(loss.detach()), float(nn.utils.clip_grad_norm_(parameters, SETTINGS.gradient_clip))
        optimizer.step()
        optimizer.zero_grad()

    return step


def milliseconds(step: Step, steps: int) -> float:
    """The median time of a step over the same batches."""
    seconds = []
    for number in range(steps):
        ids = torch.randint(CONFIG.vocab_size, (SEQUENCES, 129), generator=torch.Generator().manual_seed(number))
        started = time.perf_counter()
        step(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds)


if __name__ == "__main__":
    main()
