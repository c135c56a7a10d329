"""One job a stage, whoever follows it, and however often: a cluster whose jobs are processes of this machine."""

import io
import json
import multiprocessing
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from process_cluster import ProcessCluster

from gpt_core.artifact import MANIFEST
from gpt_core.errors import StageError, TransientError
from jobs.job import ERROR
from jobs.launch import follow as follower
from jobs.launch.follow import attach_or_submit, cancel_job, follow, outcome
from jobs.launch.spec import read_handle, submission_id
from jobs.launch.target import Attempt, Target


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "PATIENCE_SECONDS", 0.4)
    monkeypatch.setattr(follower, "POLL_SECONDS", 0.02)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    place = tmp_path / "shards" / "0123456789ab"
    place.mkdir(parents=True)
    return place


@pytest.fixture
def cluster(tmp_path: Path) -> ProcessCluster:
    return ProcessCluster(tmp_path / "cluster")


def run(target: Target, output: Path, *command: str) -> int:
    """What `main` does with a target."""
    return outcome(follow(target, attach_or_submit(target, "slurm", command, output), output), output)


def start(cluster: ProcessCluster, output: Path, *command: str) -> multiprocessing.process.BaseProcess:
    """A process that does the same."""

    def enter() -> None:
        sys.exit(run(cluster, output, *command))

    process = multiprocessing.get_context("fork").Process(target=enter)
    process.start()
    return process


def making(output: Path, *, when: Path | None = None) -> list[str]:
    """A job that tells that it runs, waits for the file `when`, and is whole in the end."""
    wait = f'until [ -e "{when}" ]; do sleep 0.02; done; ' if when else ""
    return ["sh", "-c", f'echo begun; echo . >>"{output}/ran"; {wait}echo done; echo "{{}}" >"{output}/{MANIFEST}"']


def title(name: str) -> str:
    """What the job of that name is called."""
    return f"{name} (job/{name})"


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def test_of_eight_that_come_at_once_one_submits_and_all_end_well(
    cluster: ProcessCluster, output: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gate = output / "gate"
    eight = [start(cluster, output, *making(output, when=gate)) for _ in range(8)]
    wait_for(output / "ran")
    gate.touch()
    for one in eight:
        one.join()
    assert [one.exitcode for one in eight] == [0] * 8
    assert (output / "ran").read_text() == ".\n"
    said, name = capfd.readouterr().out, submission_id(output)
    assert said.count(f"submitted the slurm job {title(name)}\n") == 1
    assert said.count(f"attached to the slurm job {title(name)}, ") == 7


def test_who_comes_when_the_job_has_just_ended_well_takes_what_it_made(cluster: ProcessCluster, output: Path) -> None:
    command = making(output)
    assert run(cluster, output, *command) == 0
    assert run(cluster, output, *command) == 0
    assert (output / "ran").read_text() == ".\n"


def test_killed_behind_its_submission_it_leaves_a_handle_and_the_next_one_attaches(
    cluster: ProcessCluster, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = output / "gate"
    first = start(cluster, output, *making(output, when=gate))
    wait_for(output / "handle.json")
    first.kill()
    first.join()
    handle = read_handle(output)
    assert handle is not None
    name = submission_id(output)
    assert (handle.target, handle.name, handle.native_id) == ("slurm", name, f"job/{name}")
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(run, cluster, output, "never", "run")
        gate.touch()
        assert second.result() == 0
    assert (output / "ran").read_text() == ".\n"
    told = capsys.readouterr().out
    assert told.startswith(f"attached to the slurm job {title(name)}, ")
    assert told.endswith("\nbegun\ndone\n")


def test_success_without_a_manifest_is_a_failure_and_makes_way(cluster: ProcessCluster, output: Path) -> None:
    name = submission_id(output)
    with pytest.raises(
        StageError, match=re.escape(f"the job {title(name)} ended well, but without a manifest: it has failed")
    ):
        run(cluster, output, "true")
    with pytest.raises(StageError, match=re.escape(f"the job {title(f'{name}-2')} failed: exit code 7")):
        run(cluster, output, "sh", "-c", "exit 7")
    assert run(cluster, output, *making(output)) == 0
    assert read_handle(output).name == f"{name}-3"  # type: ignore[union-attr]


def test_a_job_that_told_its_error_gives_the_exit_code_of_that_error(cluster: ProcessCluster, output: Path) -> None:
    told = {"user": 2, "preempted": 5, "stage": 3, "transient": 3}
    for kind in told:
        error = json.dumps({"kind": kind, "message": "it"})
        assert run(cluster, output, "sh", "-c", f"echo '{error}' >{output / ERROR}; exit 1") == told[kind]


def test_a_cancelled_job_ends_and_is_told_from_a_failed_one(
    cluster: ProcessCluster, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = submission_id(output)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(run, cluster, output, *making(output, when=output / "never"))
        wait_for(output / "ran")
        cancel_job(cluster, name)
        with pytest.raises(
            StageError, match=re.escape(f"the job {title(name)} was stopped; run again to start it anew")
        ):
            following.result()
    cancel_job(cluster, name)
    said = capsys.readouterr().out
    assert f"cancelled the job {title(name)}\n" in said
    assert said.endswith(f"no job {name} runs\n")
    assert not (output / MANIFEST).exists()


def test_a_job_that_the_cluster_forgot_is_lost_and_may_be_tried_again(cluster: ProcessCluster, output: Path) -> None:
    with pytest.raises(TransientError, match="the cluster knows the job it-2 no more; run again"):
        outcome(follow(cluster, Attempt("it-2", "it-2", "running"), output), output)


def test_a_short_silence_is_sat_out_and_the_log_goes_on_where_it_stopped(
    cluster: ProcessCluster, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "PATIENCE_SECONDS", 20)
    gate, said = output / "gate", io.StringIO()
    with ThreadPoolExecutor(1) as pool, redirect_stdout(said):
        following = pool.submit(run, cluster, output, *making(output, when=gate))
        deadline = time.monotonic() + 20
        while "begun" not in said.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        cluster.cut()
        gate.touch()
        wait_for(cluster.folder / submission_id(output) / "code")
        cluster.mend()
        assert following.result() == 0
    assert said.getvalue().endswith("begun\ndone\n")


def test_a_long_silence_is_told_and_leaves_the_job_alone(cluster: ProcessCluster, output: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(run, cluster, output, *making(output, when=output / "gate"))
        wait_for(output / "ran")
        cluster.cut()
        with pytest.raises(TransientError, match=r"not answered for 0 s \(nobody answers\).* may go on: run again"):
            following.result()
        with pytest.raises(TransientError, match=r"the cluster does not answer \(nobody answers\); run again"):
            run(cluster, output, "never", "run")
        cluster.mend()
        (output / "gate").touch()
        assert run(cluster, output, "never", "run") == 0
    assert (output / "ran").read_text() == ".\n"


class LateBreak(ProcessCluster):
    """Its log's connection breaks once, after more than anybody's patience."""

    broken = False

    def pass_on(self, native_id: str, output: Path) -> None:
        if not self.broken:
            self.broken = True
            time.sleep(1)
            raise ConnectionError("it broke")
        super().pass_on(native_id, output)


def test_a_connection_that_breaks_after_hours_is_taken_up_again(
    cluster: ProcessCluster, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(LateBreak(cluster.folder), output, *making(output)) == 0
    assert capsys.readouterr().out.endswith("begun\ndone\n")
