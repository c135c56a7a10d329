"""From a stage to the native command that makes it: a process here, torchrun, DeepSpeed's launcher, a cluster's job."""

import sys

from gpt_core.recipe import Cluster, TrainCluster
from jobs.job import RECIPE
from jobs.launch.spec import LaunchSpec, TargetName, submission_id


def native_command(spec: LaunchSpec, cluster: Cluster) -> list[str]:
    """The command that makes the output and ends with the job's outcome.

    A process on this machine; DeepSpeed's jobs run a process a rank, under torchrun or with `cluster.train.hostfile`
    under DeepSpeed's launcher. Where the recipe names a cluster, the job is submitted there, and the command follows
    it. Where several machines train under torchrun, each starts the very same command, and finds all its paths in a
    shared file system.
    """
    target = target_of(spec, cluster)
    command = job_command(spec, cluster)
    return command if target is None else [*_follower(target, spec), "--", *command]


def stop_command(spec: LaunchSpec, cluster: Cluster) -> list[str] | None:
    """The command that stops the job where interrupting `native_command` leaves it running; None elsewhere."""
    target = target_of(spec, cluster)
    return None if target is None else [*_follower(target, spec), "--cancel"]


def target_of(spec: LaunchSpec, cluster: Cluster) -> TargetName | None:
    """The cluster that the stage is submitted to; None for a process here."""
    if spec.engine == "spark":
        away = cluster.spark.master == "yarn" or cluster.spark.master.startswith("k8s://")
        return "spark" if away and cluster.spark.deploy_mode == "cluster" else None
    if spec.engine == "ray":
        if cluster.ray.launcher == "kubernetes":
            return "kubernetes"
        return "ray" if cluster.ray.jobs_address is not None else None
    if spec.engine == "python":
        return None if cluster.process.launcher == "process" else cluster.process.launcher
    return None if cluster.train.launcher == "torchrun" else cluster.train.launcher


def job_command(spec: LaunchSpec, cluster: Cluster) -> list[str]:
    """What runs where the stage is made: here, or on the cluster it is submitted to."""
    arguments = ["--recipe", str(spec.output / RECIPE), "--output", str(spec.output)]
    if spec.inputs:
        arguments += ["--inputs", *(f"{name}={path}" for name, path in spec.inputs.items())]
    launcher = _launcher(cluster.train, submission_id(spec.output)) if spec.engine == "deepspeed" else ["-m"]
    return [sys.executable, *launcher, spec.module, *arguments]


def _follower(target: TargetName, spec: LaunchSpec) -> list[str]:
    return [sys.executable, "-m", "jobs.launch.follow", "--target", target, "--output", str(spec.output)]


def _launcher(train: TrainCluster, name: str) -> list[str]:
    """What starts the ranks of this machine, or with a hostfile of all, up to the job's module."""
    ranks = ["--nproc-per-node", str(train.processes)]
    restarts = ["--max-restarts", str(train.max_restarts)]
    if train.hostfile is not None:
        places = ["--hostfile", train.hostfile, "--num_nodes", str(train.nodes), "--num_gpus", str(train.processes)]
        alone = ["--no_ssh_check", "--master_addr", "127.0.0.1"] if train.nodes == 1 else []
        quiet = ["--log_level", "warning"]  # its log would tell all of MLFLOW_*, passwords too
        return ["-m", "deepspeed.launcher.runner", *places, *alone, *quiet, "--no_local_rank", "--module"]
    if train.nodes > 1 and train.launcher == "slurm":
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "slurm", "--rdzv-id", name]
        return ["-m", "jobs.node", *ranks, *meeting, *restarts, "-m"]
    if train.nodes > 1 and train.rendezvous is not None:
        nodes = f"{train.min_nodes}:{train.nodes}" if train.min_nodes is not None else str(train.nodes)
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", train.rendezvous, "--rdzv-id", name]
        return ["-m", "jobs.node", "--nnodes", nodes, *ranks, *meeting, *restarts, "-m"]
    if train.max_restarts:
        return ["-m", "jobs.node", "--standalone", *ranks, *restarts, "-m"]
    return ["-m", "torch.distributed.run", "--standalone", *ranks, "-m"]
