"""Runs one of the Spark jobs as the runner does: a process of its own on a prepared output folder."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pyarrow.parquet as pq

from gpt_core.artifact import Artifact, open_artifact
from gpt_core.fingerprint import Json


def prepare(
    output: Path,
    recipe: dict[str, Json],
    *,
    partitions: int = 3,
    master: str = "local[2]",
    archive: Path | None = None,
) -> None:
    """`output` holds what the runner puts there before it starts a job."""
    output.mkdir(parents=True)
    spark: Json = {
        "master": master,
        "driver_memory": "512m",
        "executor_memory": "512m",
        "partitions": partitions,
    }
    cluster: Json = {"spark": spark, "archive": None if archive is None else str(archive)}
    (output / "recipe.json").write_text(json.dumps({"name": "test", **recipe, "cluster": cluster}))
    (output / "identity.json").write_text('{"made": "by hand"}')


def run_job(
    module: str, output: Path, environment: Mapping[str, str] = MappingProxyType({}), **inputs: Path
) -> subprocess.CompletedProcess[str]:
    """The ended process of the job."""
    job = start_job(module, output, environment, **inputs)
    stdout, stderr = job.communicate()
    return subprocess.CompletedProcess(job.args, job.returncode, stdout, stderr)


def start_job(
    module: str, output: Path, environment: Mapping[str, str] = MappingProxyType({}), **inputs: Path
) -> subprocess.Popen[str]:
    """The running process of the job, with `environment` beside the test's own."""
    given = [f"{name}={path}" for name, path in inputs.items()]
    arguments = ["--recipe", str(output / "recipe.json"), "--output", str(output), "--inputs", *given]
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=output.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
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
