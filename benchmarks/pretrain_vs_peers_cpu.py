"""Claim: pre-training on a CPU through ZeRO-1 is 1.7 times as fast as a plain fp32 loop, at least as fast as its
compiled bf16, and takes 60 % of its memory.

    make bench NAME=pretrain_vs_peers_cpu
    python benchmarks/pretrain_vs_peers_cpu.py --rounds 1 --steps 3

GPT-2's architecture, 6 layers x 384, vocabulary 50,304, 8 sequences of 256 tokens a step, random tokens. Ours goes
through DeepSpeed under torchrun, one rank; the peers are transformers' GPT-2 and a plain loop as nanoGPT's
(plain_gpt.py), each in fp32, in bf16 under autocast, and compiled. All start from the same weights, take turns, each in
a process of its own; figures are medians over the steps of all rounds, without the first two steps of each.
`same_work`: every contestant's first loss is the same, in fp32 to 1e-4, in bf16 to 1e-2. `ratio` is the least of the
speed over the plain fp32 loop by 1.7, the speed over the fastest compiled bf16 peer by 1.0, and 0.6 by the memory's
share of that peer.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from contestants import make_gpt2

from jobs.environment import training_environment

BATCH, CONTEXT = 8, 256
FASTER_THAN_FP32, FASTER_THAN_COMPILED, MEMORY_SHARE = 1.7, 1.0, 0.6
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Contestant:
    """Who trains, and how."""

    who: str
    precision: str
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.who} {self.precision}{' compiled' if self.compiled else ''}"


CONTESTANTS = [
    Contestant(who, precision, compiled)
    for who in ("ours", "plain", "transformers")
    for precision, compiled in (("fp32", False), ("autocast", False), ("autocast", True))
]


def main() -> None:
    """Print each contestant's figures, then the claim as one line of JSON."""
    parser = argparse.ArgumentParser(description="Training steps of ours and of peers, by turns.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="measured in a round, behind two that are not")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--vocabulary", type=int, default=50_304)
    arguments = parser.parse_args()
    runs: dict[Contestant, list[dict[str, list[float]]]] = {contestant: [] for contestant in CONTESTANTS}
    with tempfile.TemporaryDirectory() as name:
        model = make_gpt2(Path(name), arguments.layers, arguments.width, arguments.vocabulary, CONTEXT)
        for _ in range(arguments.rounds):
            for contestant in CONTESTANTS:
                runs[contestant].append(run(contestant, model, steps=arguments.steps))
    speeds = {}
    for contestant, told in runs.items():
        seconds = median(second for each in told for second in each["seconds"])
        speeds[contestant] = BATCH * CONTEXT / seconds
        cpu = median(second for each in told for second in each["cpu_seconds"])
        print(
            f"{contestant!s:<30} {speeds[contestant]:7,.0f} tokens/s, {BATCH * CONTEXT / cpu:7,.0f} per CPU-second, "
            f"{memory(told) / 2**30:.2f} GiB, first loss {told[0]['losses'][0]:.5f}"
        )
    print(json.dumps(claim(runs, speeds)))


def run(contestant: Contestant, model: Path, *, steps: int) -> dict[str, list[float]]:
    """What training_run.py tells; ends the benchmark with its last words where it failed."""
    command = [
        *[sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"],
        *[str(Path(__file__).with_name("training_run.py")), contestant.who, "--model", str(model)],
        *["--precision", contestant.precision, "--batch", str(BATCH), "--context", str(CONTEXT)],
        *["--steps", str(steps), *(["--compile"] if contestant.compiled else [])],
    ]
    own = training_environment() if contestant.who == "ours" else {}  # as `gptmill run` starts its ranks
    environment = {**os.environ, **own, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(os.cpu_count())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {contestant} ended with {done.returncode}\n{done.stderr[-4000:]}")
    told: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return told


def memory(told: list[dict[str, list[float]]]) -> float:
    """Peak bytes of the process, the median of the rounds."""
    return median(each["peak_bytes"] for each in told)  # type: ignore[type-var, return-value]


def claim(runs: dict[Contestant, list[dict[str, list[float]]]], speeds: dict[Contestant, float]) -> dict[str, object]:
    """The last line."""
    ours = max((c for c in CONTESTANTS if c.who == "ours"), key=lambda c: speeds[c])
    compiled = max((c for c in CONTESTANTS if c.who != "ours" and c.compiled), key=lambda c: speeds[c])
    fp32 = speeds[ours] / speeds[Contestant("plain", "fp32")]
    bf16 = speeds[ours] / speeds[compiled]
    share = memory(runs[ours]) / memory(runs[Contestant("plain", "fp32")])
    print(f"{ours}: {fp32:.2f} times plain fp32, {bf16:.2f} times {compiled}, {share:.2f} of plain fp32's memory")
    reference = runs[Contestant("plain", "fp32")][0]["losses"][0]
    tolerance = {"fp32": 1e-4, "autocast": 1e-2}
    same = all(abs(each["losses"][0] - reference) < tolerance[c.precision] for c, told in runs.items() for each in told)
    return {
        "claim": f"training steps on a CPU through ZeRO-1, {ours}; the least of the speed over plain fp32 / "
        f"{FASTER_THAN_FP32}, over {compiled} / {FASTER_THAN_COMPILED}, and {MEMORY_SHARE} / the share of memory",
        "ours": round(speeds[ours]),
        "peer": round(speeds[compiled]),
        "ratio": round(min(fp32 / FASTER_THAN_FP32, bf16 / FASTER_THAN_COMPILED, MEMORY_SHARE / share), 3),
        "unit": "tokens/s",
        "same_work": same,
    }


if __name__ == "__main__":
    main()
