"""From a stage to the native command that makes it: a process here, torchrun, DeepSpeed's launcher, a job of Ray's."""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpt_core.recipe import Cluster, TrainCluster
from jobs.job import RECIPE

Engine = Literal["spark", "ray", "deepspeed", "python"]
PLACE_DIGITS = 6  # of the output path's SHA-256 in a submission id


@dataclass(frozen=True)
class LaunchSpec:
    """One job: the module that runs, its engine, where its inputs stand and where its output goes."""

    module: str
    engine: Engine
    inputs: Mapping[str, Path]
    output: Path


def native_command(spec: LaunchSpec, cluster: Cluster) -> list[str]:
    """The command that makes the output and ends with the job's outcome.

    A process on this machine; DeepSpeed's jobs run a process a rank, under torchrun or with `cluster.train.hostfile`
    under DeepSpeed's launcher; with `cluster.ray.jobs_address` Ray's jobs are submitted, and the command follows them.
    Where several machines train, each starts the very same command, and finds all its paths in a shared file system.
    """
    arguments = ["--recipe", str(spec.output / RECIPE), "--output", str(spec.output)]
    if spec.inputs:
        arguments += ["--inputs", *(f"{name}={path}" for name, path in spec.inputs.items())]
    launcher = _launcher(cluster.train, submission_id(spec.output)) if spec.engine == "deepspeed" else ["-m"]
    command = [sys.executable, *launcher, spec.module, *arguments]
    submission = _submission(spec, cluster)
    return [*submission, "--output", str(spec.output), "--", *command] if submission else command


def _launcher(train: TrainCluster, name: str) -> list[str]:
    """What starts the ranks of this machine, or with a hostfile of all, up to the job's module."""
    ranks = ["--nproc-per-node", str(train.processes)]
    restarts = ["--max-restarts", str(train.max_restarts)]
    if train.hostfile is not None:
        places = ["--hostfile", train.hostfile, "--num_nodes", str(train.nodes), "--num_gpus", str(train.processes)]
        alone = ["--no_ssh_check", "--master_addr", "127.0.0.1"] if train.nodes == 1 else []
        quiet = ["--log_level", "warning"]  # its log would tell all of MLFLOW_*, passwords too
        return ["-m", "deepspeed.launcher.runner", *places, *alone, *quiet, "--no_local_rank", "--module"]
    if train.nodes > 1 and train.rendezvous is not None:
        nodes = f"{train.min_nodes}:{train.nodes}" if train.min_nodes is not None else str(train.nodes)
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", train.rendezvous, "--rdzv-id", name]
        return ["-m", "jobs.node", "--nnodes", nodes, *ranks, *meeting, *restarts, "-m"]
    if train.max_restarts:
        return ["-m", "jobs.node", "--standalone", *ranks, *restarts, "-m"]
    return ["-m", "torch.distributed.run", "--standalone", *ranks, "-m"]


def stop_command(spec: LaunchSpec, cluster: Cluster) -> list[str] | None:
    """The command that stops the job where interrupting `native_command` leaves it running; None elsewhere."""
    submission = _submission(spec, cluster)
    return [*submission, "--stop"] if submission else None


def submission_id(output: Path) -> str:
    """The name of a stage's job in a cluster's Jobs API: the same for every attempt to make this output here.

    The stage and its fingerprint are the output's last two names. The path's digest keeps apart the workspaces that
    share a cluster: who attaches to a job waits for a manifest in the folder that this job writes.
    """
    place = hashlib.sha256(str(output).encode()).hexdigest()[:PLACE_DIGITS]
    return f"gptmill-{output.parent.name}-{output.name}-{place}"


def _submission(spec: LaunchSpec, cluster: Cluster) -> list[str]:
    if spec.engine != "ray" or cluster.ray.jobs_address is None:
        return []
    name = submission_id(spec.output)
    return [sys.executable, "-m", "jobs.ray_submission", "--address", cluster.ray.jobs_address, "--id", name]
