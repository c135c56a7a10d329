"""What is launched, and the durable note of a submission, so that whoever comes later finds it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from gpt_core.artifact import write_json

Engine = Literal["spark", "ray", "deepspeed", "python"]
TargetName = Literal["ray", "slurm", "kubernetes", "spark"]
HANDLE = "handle.json"  # in a stage's output; no manifest lists it
SLURM_LOGS = "slurm"  # likewise, a folder
PLACE_DIGITS = 6  # of the output path's SHA-256 in a submission id


@dataclass(frozen=True)
class LaunchSpec:
    """One job: the module that runs, its engine, where its inputs stand and where its output goes."""

    module: str
    engine: Engine
    inputs: Mapping[str, Path]
    output: Path


@dataclass(frozen=True)
class Handle:
    """A submission: enough to find it again from any machine that sees the workspace."""

    target: TargetName
    name: str  # submission_id, with -2, -3 ... for later attempts
    native_id: str  # what the cluster calls it: a Slurm job id, a pod's name
    submitted_at: str  # UTC

    def write(self, output: Path) -> None:
        """The note stands in `output`."""
        write_json(output / HANDLE, asdict(self))


def read_handle(output: Path) -> Handle | None:
    """The note of the last submission of this output; None where there was none."""
    try:
        return Handle(**json.loads((output / HANDLE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def submission_id(output: Path) -> str:
    """The name of a stage's job on a cluster: the same for every attempt to make this output here.

    The stage and its fingerprint are the output's last two names. The path's digest keeps apart the workspaces that
    share a cluster: who attaches to a job waits for a manifest in the folder that this job writes. A DNS label.
    """
    place = hashlib.sha256(str(output).encode()).hexdigest()[:PLACE_DIGITS]
    return f"gptmill-{output.parent.name}-{output.name}-{place}"
