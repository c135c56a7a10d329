"""SIGKILL in the middle of each stage, of the runner or of the job; then the same command again.

It ends with the same output as an uninterrupted run, and nothing half-written was ever taken for whole.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from gpt_core.artifact import Artifact
from tiny_project import Project

pytestmark = pytest.mark.pipeline

PATIENCE_SECONDS = 90
UPSTREAM = {
    "clean": [],
    "dedup": ["clean"],
    "tokenizer": ["clean", "dedup"],
    "shards": ["clean", "dedup", "tokenizer"],
    "pretrain": ["clean", "dedup", "tokenizer", "shards"],
    "finetune": ["clean", "dedup", "tokenizer", "shards", "pretrain"],
    "evaluate": ["clean", "dedup", "tokenizer", "shards", "pretrain", "finetune"],
}


def content(artifact: Artifact) -> object:
    """What an output says, without what may differ from run to run: names of Parquet files, order of rows."""
    if artifact.manifest.stage in ("clean", "dedup"):
        folders = {entry.path.split("/")[0] for entry in artifact.manifest.files if entry.path.endswith(".parquet")}
        rows = {
            folder: sorted(map(repr, pq.read_table(artifact.files(folder)).to_pylist())) for folder in sorted(folders)
        }
        return rows, artifact.manifest.counts
    timed = ("curves.json", "steps.jsonl")  # hold tokens per second
    return {entry.path: entry.sha256 for entry in artifact.manifest.files if entry.path not in timed}


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.02)


def kill_jobs_of(runner_pid: int) -> None:
    """SIGKILL to every Python process below the runner: the job, or torchrun and its ranks."""
    for process in psutil.Process(runner_pid).children(recursive=True):
        if "python" in process.name():
            process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize(
    ("stage", "victim"),
    [*((stage, "runner") for stage in UPSTREAM), ("dedup", "job"), ("shards", "job"), ("pretrain", "job")],
)
def test_killed_in_the_middle_it_ends_the_same(
    project: Project, whole: Path, tmp_path: Path, stage: str, victim: str
) -> None:
    for name in UPSTREAM[stage]:
        shutil.copytree(whole / name, tmp_path / name)
    output = project.plan(tmp_path)[stage].output
    process = project.start(tmp_path, "--until", stage)
    begun = output / ("checkpoints/latest" if stage == "pretrain" else ".attempt")
    wait_until(lambda: begun.exists() or process.poll() is not None)
    if victim == "runner":
        os.kill(process.pid, signal.SIGKILL)
    else:
        kill_jobs_of(process.pid)
    process.communicate()
    assert process.returncode != 0
    assert not (output / "manifest.json").exists()

    project.run(tmp_path, "--until", stage)
    artifact = project.artifact(tmp_path, stage)
    artifact.verify()
    assert content(artifact) == content(project.artifact(whole, stage))


def test_sigterm_while_it_trains_keeps_all_steps_and_asks_to_be_started_again(
    project: Project, whole: Path, tmp_path: Path
) -> None:
    for name in UPSTREAM["pretrain"]:
        shutil.copytree(whole / name, tmp_path / name)
    output = project.plan(tmp_path)["pretrain"].output
    process = project.start(tmp_path, "--until", "pretrain", "--set", "cluster.train.checkpoint_every_steps=1000")
    wait_until(lambda: (output / "progress.json").exists() or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate()
    assert process.returncode == 5, told
    assert "pretrain: SIGTERM stopped it behind step" in told
    assert (output / "checkpoints" / "latest").exists()
    assert not (output / "manifest.json").exists()

    project.run(tmp_path, "--until", "pretrain")
    assert "resumed behind step" in (output / "log.txt").read_text()
    assert content(project.artifact(tmp_path, "pretrain")) == content(project.artifact(whole, "pretrain"))
