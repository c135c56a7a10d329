"""Claim: the demo makes the same bytes wherever its stages are submitted.

    make bench NAME=targets
    python benchmarks/targets.py --only slurm --set pretrain.tokens=400000 --set finetune.seeds=1

First everything here, two ranks under torchrun. Then for each target a workspace of its own with that run's stages
before, in which `gptmill run` makes the target's own stages on a real cluster on this machine: Spark standalone with
two workers and a secret; Ray with three nodes and a token, through its Jobs API; torchrun on two machines, which are
network namespaces; DeepSpeed's launcher with a hostfile; Slurm; Ray Train. Told are the seconds of each stage, the
cluster's start not counted, and whether every file has the checksum of the first run's (`curves.json` and
`steps.jsonl` hold seconds: left out).

There is no peer: `ours` is the number of targets that made the same, `ratio` 1 where all did. Needs root for
namespaces, and Debian's slurm-wlm and munge; a target that cannot be had here is told as left out.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import pytest
from ray_cluster import ray_cluster
from slurm_cluster import slurm_cluster
from spark_cluster import spark_cluster

from gpt_core.artifact import open_artifact
from network_nodes import two_nodes

ROOT = Path(__file__).parents[1]
STAGES = ("clean", "dedup", "tokenizer", "shards", "pretrain", "finetune", "evaluate")
TOLD_SECONDS = {"curves.json", "steps.jsonl"}
PORT = 29417
TWO_NODES = [f"cluster.train.{each}" for each in ("nodes=2", "processes=1", "threads_per_process=1")]  # two cores


@dataclass(frozen=True)
class Place:
    """Where `gptmill run` runs, and with what."""

    settings: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()  # of the runner's command
    joiner: Sequence[str] | None = None  # of `gptmill join`'s, where another machine has a part


@dataclass(frozen=True)
class Target:
    """A kind of cluster, and the stages that it makes."""

    name: str
    stages: Sequence[str]
    start: Callable[[Path], AbstractContextManager[Place]]


@contextmanager
def standalone(folder: Path) -> Iterator[Place]:
    """Spark's own cluster, with a secret."""
    with spark_cluster(folder, workers=2) as cluster:
        yield Place([f"cluster.spark.master={cluster.url}", "cluster.spark.executor_memory=900m"], cluster.environment)


@contextmanager
def ray_jobs(_: Path) -> Iterator[Place]:
    """Ray's Jobs API, with a token."""
    with ray_cluster(nodes=3) as cluster:
        yield Place([f"cluster.ray.jobs_address={cluster.jobs_address}"], cluster.environment)


@contextmanager
def ray_train(_: Path) -> Iterator[Place]:
    """The same, whose jobs train."""
    with ray_cluster(nodes=3) as cluster:
        settings = [f"cluster.ray.jobs_address={cluster.jobs_address}", "cluster.train.launcher=ray"]
        yield Place([*settings, *TWO_NODES], cluster.environment)


@contextmanager
def namespaces(_: Path) -> Iterator[Place]:
    """Two machines with an address each."""
    with two_nodes() as (first, second):
        meeting = f"cluster.train.rendezvous={second.address}:{PORT}"
        yield Place([meeting, *TWO_NODES], prefix=second.command([]), joiner=first.command([]))


@contextmanager
def hostfile(folder: Path) -> Iterator[Place]:
    """DeepSpeed's launcher on this machine."""
    (folder / "hosts").write_text("localhost slots=2\n")
    yield Place([f"cluster.train.hostfile={folder / 'hosts'}"])


@contextmanager
def slurm(folder: Path) -> Iterator[Place]:
    """A controller and a node."""
    with slurm_cluster(folder) as cluster:
        launchers = ["cluster.process.launcher=slurm", "cluster.train.launcher=slurm"]
        yield Place(launchers, cluster.environment)


TRAINING = ("pretrain", "finetune")
TARGETS = (
    Target("spark standalone, 2 workers", ("clean", "dedup"), standalone),
    Target("ray jobs, 3 nodes", ("shards",), ray_jobs),
    Target("torchrun, 2 namespaces", TRAINING, namespaces),
    Target("deepspeed hostfile", TRAINING, hostfile),
    Target("slurm", ("tokenizer", *TRAINING, "evaluate"), slurm),
    Target("ray train, 2 nodes", TRAINING, ray_train),
)


def main() -> None:
    """Print a line for each target, then the claim as one line of JSON."""
    parser = argparse.ArgumentParser(description="The demo on every target.")
    parser.add_argument("--only", help="targets whose name has this word")
    parser.add_argument("--set", action="append", default=[], help="a field of the recipe, for all runs")
    parser.add_argument("--here", type=Path, help="workspace of a run here with the same recipe; default: made now")
    arguments = parser.parse_args()
    chosen = [target for target in TARGETS if (arguments.only or "") in target.name]
    tried = same = 0
    with tempfile.TemporaryDirectory(prefix="gptmill-") as name:
        here = arguments.here or Path(name) / "here"
        run(Place([]), here, arguments.set, until="evaluate")
        tell("here", here, STAGES, "")
        for number, target in enumerate(chosen):
            try:
                same += try_target(target, Path(name) / str(number), here, arguments.set)
                tried += 1
            except pytest.skip.Exception as skipped:
                print(f"{target.name:<28} left out: {skipped}", flush=True)
    all_same = same == tried > 0
    claim = {
        "claim": "targets on which the demo makes the same bytes as here",
        "ours": same,
        "peer": None,
        "ratio": float(all_same),
        "unit": f"of {tried} targets",
        "same_work": all_same,
    }
    print(json.dumps(claim))


def try_target(target: Target, folder: Path, here: Path, settings: Sequence[str]) -> bool:
    """Whether the target's stages have the bytes of those `here`."""
    workspace = folder / "workspace"
    workspace.mkdir(parents=True)
    for stage in STAGES[: STAGES.index(target.stages[-1])]:
        if stage not in target.stages:
            shutil.copytree(here / stage, workspace / stage)
    (folder / "cluster").mkdir()
    with target.start(folder / "cluster") as place:
        run(place, workspace, settings, until=target.stages[-1])
    differing = [stage for stage in target.stages if checksums(workspace, stage) != checksums(here, stage)]
    tell(target.name, workspace, target.stages, f"other bytes: {', '.join(differing)}" if differing else "equal")
    return not differing


def run(place: Place, workspace: Path, settings: Sequence[str], *, until: str) -> None:
    """`gptmill run` has made the demo in `workspace`, and other machines had their part."""
    overrides = [f"workspace={workspace}", *settings, *place.settings]
    options = [word for override in overrides for word in ("--set", override)]

    def command(verb: str, *more: str) -> list[str]:
        return [sys.executable, "-m", "pipelines", verb, str(ROOT / "recipes/demo.yaml"), *more, *options]

    environment = {**os.environ, "PYTHONPATH": str(ROOT), **place.environment}
    joining = None
    if place.joiner is not None:
        joining = subprocess.Popen([*place.joiner, *command("join")], cwd=ROOT, env=environment)
    done = subprocess.run([*place.prefix, *command("run", "--until", until)], cwd=ROOT, env=environment, check=False)
    if joining is not None:
        joining.wait() if done.returncode == 0 else joining.kill()
    if done.returncode:
        sys.exit(f"error: `gptmill run` ended with {done.returncode}")


def checksums(workspace: Path, stage: str) -> dict[str, str]:
    """Of every file that the stage's manifest lists, but those that tell of its making."""
    artifact = open_artifact(workspace / "runs/demo" / stage)
    assert artifact is not None, stage
    return {entry.path: entry.sha256 for entry in artifact.manifest.files if Path(entry.path).name not in TOLD_SECONDS}


def tell(name: str, workspace: Path, stages: Sequence[str], verdict: str) -> None:
    """One line: the seconds of each stage."""
    parts = []
    for stage in stages:
        artifact = open_artifact(workspace / "runs/demo" / stage)
        assert artifact is not None, stage
        parts.append(f"{stage} {artifact.manifest.wall_seconds:.0f} s")
    print(f"{name:<28} {', '.join(parts)}; {verdict}", flush=True)


if __name__ == "__main__":
    main()
