"""From a stage to the native command that makes it. Local processes so far; clusters come beside them here."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpt_core.recipe import Cluster
from jobs.job import RECIPE

Engine = Literal["spark", "ray", "deepspeed", "python"]


@dataclass(frozen=True)
class LaunchSpec:
    """One job: the module that runs, its engine, where its inputs stand and where its output goes."""

    module: str
    engine: Engine
    inputs: Mapping[str, Path]
    output: Path


def local_command(spec: LaunchSpec, cluster: Cluster) -> list[str]:
    """The command that runs the job on this machine; DeepSpeed's jobs run under torchrun, a process a rank."""
    arguments = ["--recipe", str(spec.output / RECIPE), "--output", str(spec.output)]
    if spec.inputs:
        arguments += ["--inputs", *(f"{name}={path}" for name, path in spec.inputs.items())]
    if spec.engine == "deepspeed":
        ranks = str(cluster.train.processes)
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
        return [sys.executable, *torchrun, "-m", spec.module, *arguments]
    return [sys.executable, "-m", spec.module, *arguments]
