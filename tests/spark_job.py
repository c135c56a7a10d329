"""Runs one of the Spark jobs as the runner does: a process of its own on a prepared output folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from gpt_core.artifact import Artifact, open_artifact
from gpt_core.fingerprint import Json


def prepare(output: Path, recipe: dict[str, Json], *, partitions: int = 3, master: str = "local[2]") -> None:
    """`output` holds what the runner puts there before it starts a job."""
    output.mkdir(parents=True)
    spark: Json = {
        "master": master,
        "driver_memory": "512m",
        "executor_memory": "512m",
        "partitions": partitions,
    }
    (output / "recipe.json").write_text(json.dumps({"name": "test", **recipe, "cluster": {"spark": spark}}))
    (output / "identity.json").write_text('{"made": "by hand"}')


def run_job(module: str, output: Path, **inputs: Path) -> subprocess.CompletedProcess[str]:
    """The ended process of the job."""
    job = start_job(module, output, **inputs)
    stdout, stderr = job.communicate()
    return subprocess.CompletedProcess(job.args, job.returncode, stdout, stderr)


def start_job(module: str, output: Path, **inputs: Path) -> subprocess.Popen[str]:
    """The running process of the job."""
    given = [f"{name}={path}" for name, path in inputs.items()]
    arguments = ["--recipe", str(output / "recipe.json"), "--output", str(output), "--inputs", *given]
    command = [sys.executable, "-m", module, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=output.parent, env=environment
    )


def made(output: Path) -> Artifact:
    """The whole, verified output."""
    artifact = open_artifact(output)
    assert artifact is not None
    artifact.verify()
    return artifact


def table(artifact: Artifact, name: str) -> list[dict[str, object]]:
    """All rows of a table, in the order of its files."""
    return [row for path in artifact.files(name) for row in pq.read_table(path).to_pylist()]
