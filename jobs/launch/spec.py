"""What is launched, and the durable note of a submission, so that whoever comes later finds it."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from gpt_core.artifact import write_json
from gpt_core.errors import ArtifactError

Engine = Literal["spark", "ray", "deepspeed", "python"]
TargetName = Literal["ray", "slurm", "kubernetes", "spark"]
HANDLE = "handle.json"  # in a stage's output; no manifest lists it
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
    """The note of the last submission of this output; None where there was none.

    Raises ArtifactError for one that no submission can have left: its words go to the cluster's own commands.
    """
    path = output / HANDLE
    try:
        handle = Handle(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise ArtifactError(f"{path}: is no note of a submission; delete it") from None
    named = all(re.fullmatch(r"[A-Za-z0-9][\w./:-]*", str(word)) for word in (handle.name, handle.native_id))
    if handle.target not in get_args(TargetName) or not named:
        raise ArtifactError(f"{path}: names no job of a cluster; delete it")
    return handle


def submission_id(output: Path) -> str:
    """The name of a stage's job on a cluster: the same for every attempt to make this output here.

    The stage and its fingerprint are the output's last two names. The path's digest keeps apart the workspaces that
    share a cluster: who attaches to a job waits for a manifest in the folder that this job writes. A DNS label.
    """
    place = hashlib.sha256(str(output).encode()).hexdigest()[:PLACE_DIGITS]
    return f"gptmill-{output.parent.name}-{output.name}-{place}"
