"""Processes that submit to the tests' Ray cluster and follow their jobs there, and what its Jobs API tells of these."""

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests
from ray_cluster import RayCluster

from jobs.launch.spec import submission_id

ROOT = Path(__file__).parents[1]
STEP_SECONDS = 240
STARTED: list["subprocess.Popen[str]"] = []


def spawn(command: Sequence[str], environment: dict[str, str]) -> "subprocess.Popen[str]":
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "GPTMILL_"))}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        env={**ours, "PYTHONPATH": str(ROOT), **environment},
    )
    STARTED.append(process)
    return process


def end(process: "subprocess.Popen[str]", code: int = 0) -> str:
    """What the process said."""
    said, _ = process.communicate(timeout=STEP_SECONDS)
    assert process.returncode == code, said
    return said


def end_all() -> None:
    """No process that was started is left."""
    while STARTED:
        process = STARTED.pop()
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


def jobs_of(cluster: RayCluster, name: str) -> list[dict[str, Any]]:
    """The Jobs API's list of the attempts at the job `name`, the first one first."""
    headers = {"Authorization": f"Bearer {cluster.token}"}
    answer = requests.get(f"{cluster.jobs_address}/api/jobs/", headers=headers, timeout=30).json()
    found = [job for job in answer if (job["submission_id"] or "").startswith(name)]
    return sorted(found, key=lambda job: job["submission_id"])


def statuses(cluster: RayCluster, output: Path) -> list[tuple[str, str]]:
    """Of every attempt: what its id adds to the stage's, and its status."""
    name = submission_id(output)
    return [(job["submission_id"].removeprefix(name), job["status"]) for job in jobs_of(cluster, name)]
