"""Claim: a training that is killed goes on with other ranks at another ZeRO stage, on the same samples, within 15 s.

    make bench NAME=resume_anywhere

Trains a small decoder on two ranks at ZeRO 2 without a break; then the same recipe through CHAIN, where SIGKILL ends
all ranks of every start but the last behind a checkpoint. `ours` is the greatest difference of a step's loss between
the two, `ratio` 1 where that is at most LIMIT and every resumed start has made its first step within LIMIT_SECONDS of
torchrun's start. `same_work`: every step took exactly the sample numbers that are its own, over all ranks. The peer is
DeepSpeed's own load_checkpoint of a checkpoint of two ranks on one: what it raises is told.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/gpt_core is no package, and must not be found first

from gpt_core.artifact import Artifact, open_artifact
from gpt_core.recipe import Recipe
from jobs.job import IDENTITY, RECIPE
from tiny_training import make_recipe, make_shards, make_tokenizer

ROOT = Path(__file__).parents[1]
CHAIN = ((2, 2, 8), (1, 1, 16), (3, 3, 24), (2, 2, None))  # ranks, ZeRO stage, killed behind this checkpoint
STEPS, BATCH, EVERY = 32, 12, 4
LIMIT, LIMIT_SECONDS = 1e-4, 15.0
MARKS = ("launch", "imports", "data, engine", "checkpoint", "first step")


@dataclass(frozen=True)
class Start:
    """What one start has left: when its rank 0 was where (s, monotonic), and the samples of each step."""

    began: float
    marks: Mapping[str, float]
    samples: Mapping[int, list[int]]

    def seconds(self) -> dict[str, float]:
        """From mark to mark."""
        stamps = [self.began, *(self.marks[name] for name in MARKS)]
        return {name: after - before for name, before, after in zip(MARKS, stamps, stamps[1:], strict=False)}


def main() -> None:
    """Print what each start took, then the claim as one line of JSON."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        tokenizer = make_tokenizer(work / "tokenizer")
        inputs = {"shards": make_shards(work / "shards", tokenizer.root), "tokenizer": tokenizer}
        whole = work / "whole"
        run(whole, recipe_of(work, 2, 2), inputs, kill_behind=None)
        broken, starts, refused = work / "broken", [], ""
        for world_size, stage, kill_behind in CHAIN:
            start = run(broken, recipe_of(work, world_size, stage), inputs, kill_behind=kill_behind)
            starts.append(start)
            parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in start.seconds().items())
            total = sum(start.seconds().values())
            print(f"{world_size} ranks, ZeRO {stage}: first step in {total:.1f} s ({parts})", flush=True)
            refused = refused or ask_peer(broken, tokenizer)
        print(f"DeepSpeed alone, two ranks' checkpoint on one: {refused}")
        difference = max(abs(a - b) for a, b in zip(losses(whole), losses(broken), strict=True))
    slowest = max(sum(start.seconds().values()) for start in starts[1:])
    print(f"greatest difference of a step's loss {difference:.1e}; slowest resumed start {slowest:.1f} s")
    same_work = all(takes_its_own(start) for start in starts)
    print(
        json.dumps(
            {
                "claim": "killed, a training goes on with any ranks at any ZeRO stage on the same samples within 15 s",
                "ours": difference,
                "peer": None,
                "ratio": int(difference <= LIMIT and slowest <= LIMIT_SECONDS),
                "unit": "nats",
                "same_work": same_work,
            }
        )
    )


def recipe_of(folder: Path, world_size: int, stage: int) -> Recipe:
    """The same training on so many ranks at this stage."""
    return make_recipe(
        folder,
        model={"n_layer": 4, "n_embd": 64},
        pretrain={"tokens": 32 * BATCH * STEPS, "batch_sequences": BATCH, "validate_every_steps": 16},
        train={"processes": world_size, "zero_stage": stage, "checkpoint_every_steps": EVERY},
    )


def run(output: Path, recipe: Recipe, inputs: Mapping[str, Artifact], *, kill_behind: int | None) -> Start:
    """One start under torchrun, to its end or until a checkpoint of that step stands."""
    output.mkdir(exist_ok=True)
    (output / RECIPE).write_text(recipe.model_dump_json(), encoding="utf-8")
    (output / IDENTITY).write_text('{"stage": "pretrain"}', encoding="utf-8")
    notes = output.parent / f"notes-{time.monotonic_ns()}"
    notes.mkdir()
    paths = [f"{name}={artifact.root}" for name, artifact in inputs.items()]
    began = time.monotonic()
    job = start_ranks(
        recipe.cluster.train.processes,
        ["--notes", str(notes), "--recipe", str(output / RECIPE), "--output", str(output), "--inputs", *paths],
    )
    while job.poll() is None:
        if kill_behind is not None and newest(output) >= kill_behind:
            for process in [*psutil.Process(job.pid).children(recursive=True), psutil.Process(job.pid)]:
                process.kill()
            break
        time.sleep(0.01)
    told, _ = job.communicate()
    assert kill_behind is not None or job.returncode == 0, told
    samples: dict[int, list[int]] = {}
    for path in notes.glob("samples-*"):
        for line in path.read_text().splitlines():
            step, numbers = json.loads(line)
            samples[step] = sorted(samples.get(step, []) + numbers)
    return Start(began, json.loads((notes / "marks.json").read_text()), samples)


def start_ranks(world_size: int, arguments: list[str]) -> "subprocess.Popen[str]":
    """This script on so many ranks."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world_size)]
    return subprocess.Popen(
        [sys.executable, *launcher, __file__, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def newest(output: Path) -> int:
    """The step of the checkpoint that `latest` names; 0 without one."""
    path = output / "checkpoints" / "latest"
    return int(path.read_text().removeprefix("step-")) if path.exists() else 0


def losses(output: Path) -> list[float]:
    """Of each step."""
    artifact = open_artifact(output)
    assert artifact is not None
    return [value for _, value in json.loads(artifact.file("curves.json").read_text())["train_loss"]]


def takes_its_own(start: Start) -> bool:
    """Whether each step but the last, which the kill may have cut, took its global batch and nothing else."""
    complete = sorted(start.samples)[:-1]
    return complete == list(range(complete[0], complete[-1] + 1)) and all(
        start.samples[step] == list(range(step * BATCH, (step + 1) * BATCH)) for step in complete
    )


def ask_peer(output: Path, tokenizer: Artifact) -> str:
    """What DeepSpeed's load_checkpoint says to the newest checkpoint on one rank."""
    told, _ = start_ranks(1, ["--peer", str(output), str(tokenizer.root)]).communicate()
    return next(line for line in told.splitlines() if line.startswith("peer: "))[6:]


def be_peer(output: Path, tokenizer_root: Path) -> None:
    """Prints what DeepSpeed raises."""
    from gpt_core.model.config import DecoderConfig
    from gpt_core.model.decoder import Decoder
    from gpt_core.recipe_file import load_recipe
    from gpt_core.tokenizer.tokenizer import Tokenizer
    from gpt_core.training.objective import LanguageObjective
    from jobs.zero import ZeroEngine, join_ranks

    recipe = load_recipe(output / RECIPE)
    join_ranks(recipe.cluster.train)
    decoder = Decoder(DecoderConfig.from_recipe(recipe.model, Tokenizer.load(tokenizer_root).vocab_size))
    objective = LanguageObjective(decoder, recipe.pretrain.precision)
    engine = ZeroEngine(objective, recipe.pretrain, recipe.cluster.train, micro_batch=BATCH)
    try:
        engine._engine.load_checkpoint(str(output / "checkpoints" / f"step-{newest(output)}"), tag="zero")
        said = "loaded"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    print(f"peer: {said}", flush=True)
    os._exit(0)


def be_rank(notes: Path, arguments: list[str]) -> None:
    """jobs.pretrain on this rank, which notes its samples, and on rank 0 when it was where."""
    marks = {"launch": time.monotonic()}
    from gpt_core.data.batches import TrainingSamples
    from gpt_core.training.checkpoint import Checkpoints
    from jobs import pretrain
    from jobs.job import Job

    marks["imports"] = time.monotonic()
    rank = int(os.environ["RANK"])
    note = (notes / f"samples-{rank}").open("w", buffering=1)
    batch, take, steps = TrainingSamples.batch, TrainingSamples.take, [0]
    load_newest, report = Checkpoints.load_newest, Job.report

    def noting_batch(self: TrainingSamples, step: int, **where: Any) -> Any:
        steps.append(step)
        return batch(self, step, **where)

    def noting_take(self: TrainingSamples, numbers: Any, **how: Any) -> Any:
        note.write(json.dumps([steps[-1], numbers.tolist()]) + "\n")
        return take(self, numbers, **how)

    def noting_load(self: Checkpoints, engine: Any) -> Any:
        marks["data, engine"] = time.monotonic()
        try:
            return load_newest(self, engine)
        finally:
            marks["checkpoint"] = time.monotonic()

    def noting_report(self: Job, *what: Any, **measures: float) -> None:
        if rank == 0 and "first step" not in marks:
            marks["first step"] = time.monotonic()
            (notes / "marks.json").write_text(json.dumps(marks))
        report(self, *what, **measures)

    TrainingSamples.batch, TrainingSamples.take = noting_batch, noting_take  # type: ignore[method-assign]
    Checkpoints.load_newest = noting_load  # type: ignore[method-assign]
    Job.report = noting_report  # type: ignore[method-assign]
    pretrain.run_job("pretrain", pretrain.make, arguments, keeps=("checkpoints", pretrain.STEPS))


if __name__ == "__main__":
    if "--notes" in sys.argv:
        be_rank(Path(sys.argv[2]), sys.argv[3:])
    elif "--peer" in sys.argv:
        be_peer(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
