"""How stages are, what they log, and that they stop: seen and asked from another process than the one that makes them.

The runner's side of a cancellation is in tests/pipelines/test_cancel.py.
"""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_workspace import make_outputs, write_project
from process_cluster import ProcessCluster
from rich.console import Console
from tiny_stage import UNTIL_GO, TinyStage, plan_stage
from typer.testing import CliRunner

from gpt_core.artifact import MANIFEST, write_atomically, write_json
from gpt_core.errors import InputError, PreemptedError, RecipeError, StageError, TransientError
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import load_recipe
from jobs.launch.follow import attach_or_submit
from pipelines.cancel_request import answer_cancel, read_cancel
from pipelines.cli import app
from pipelines.lease import Lease
from pipelines.plan import PlannedStage, make_plan, resolve_paths
from pipelines.status import StageState, stage_state
from pipelines.stop import stop_stage

HERE = f"process {os.getpid()} on {socket.gethostname()}"


class Run:
    """A recipe whose first stage is prepared as by a runner, and a cluster for its jobs."""

    def __init__(self, folder: Path) -> None:
        self.path = write_project(folder)
        self.recipe: Recipe = resolve_paths(load_recipe(self.path))
        self.clean: PlannedStage = make_plan(self.recipe)[0]
        self.output = self.clean.output
        write_atomically(self.output / "recipe.json", self.recipe.model_dump_json())
        self.cluster = ProcessCluster(folder / "cluster")

    def submit(self, script: str) -> None:
        attach_or_submit(self.cluster, "slurm", ["sh", "-c", script], self.output)

    def state(self) -> StageState:
        return stage_state(make_plan(self.recipe)[0])

    def call(self, *arguments: str) -> str:
        done = CliRunner().invoke(app, [arguments[0], str(self.path), *arguments[1:]], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    def fail(self, *arguments: str) -> tuple[BaseException | None, str]:
        done = CliRunner().invoke(app, [arguments[0], str(self.path), *arguments[1:]])
        return done.exception, done.stdout


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    made = Run(tmp_path)
    monkeypatch.setattr("pipelines.status.open_target", lambda *_: made.cluster)
    yield made
    made.cluster.close()


def wait_until(true: Any) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---------------------------------------------------------------------------------------------------- status


def test_every_state_of_a_stage_is_told_apart(run: Run) -> None:
    assert run.state().told == "not made: never made"
    with Lease(run.output):
        assert run.state().state == "running"
        assert run.state().told.startswith(f"running: starting ({HERE} since ")
        report = {"done": 5, "total": 10, "unit": "documents", "measures": {}}
        write_json(run.output / "progress.json", report)
        assert "5 of 10 documents, 0 s ago" in run.state().told
    (run.output / "log.txt").touch()
    assert run.state().told.startswith("failed: whoever made it is gone")
    write_json(run.output / "error.json", {"kind": "transient", "message": "a node was lost\nand more"})
    assert run.state().told == "failed (transient): a node was lost"
    write_json(run.output / "cancelled.json", {"user": "ada", "host": "laptop", "at": "then"})
    assert run.state().told == "cancelled by ada on laptop at then"
    make_outputs(run.path)
    assert run.state().told.startswith("made 20")


def test_a_submitted_job_is_told_with_what_the_cluster_says_of_it(run: Run) -> None:
    run.submit("sleep 60")
    (name,) = run.cluster.jobs
    job = f"slurm job {name} (job/{name})"
    assert run.state().told == f"submitted, and no runner follows it: starting ({job}, running)"
    with Lease(run.output):  # which did not submit it: an older job is not its own
        time.sleep(1)
    write_json(run.output / "error.json", {"kind": "transient", "message": "the cluster has not answered for 60 s"})
    assert run.state().state == "submitted"
    run.cluster.cut()
    assert run.state().state == "failed"
    (run.output / "error.json").unlink()
    assert run.state().told.endswith(f"({job}, its state cannot be asked: nobody answers)")
    assert run.state().state == "submitted"
    run.cluster.mend()
    run.cluster.kill(name)
    wait_until(lambda: not run.state().living)
    assert run.state().told == f"failed, and no runner was there to tell why: {job}, failed"


def test_a_job_that_a_runner_follows_is_told_with_both(run: Run) -> None:
    with Lease(run.output):
        run.submit("sleep 60")
        state = run.state()
        assert state.state == "running"
        assert f"{HERE} since " in state.told
        assert state.told.endswith(", running)")


def test_the_states_are_there_for_programs(run: Run) -> None:
    run.submit("sleep 60")
    rows = json.loads(run.call("status", "--json"))
    assert [row["stage"] for row in rows] == [planned.stage.name for planned in make_plan(run.recipe)]
    assert (rows[0]["state"], rows[0]["output"]) == ("submitted", str(run.output))
    (name,) = run.cluster.jobs
    assert rows[0]["job"] == {
        "target": "slurm",
        "name": name,
        "native_id": f"job/{name}",
        "submitted_at": rows[0]["job"]["submitted_at"],
        "state": "running",
        "message": "",
    }
    assert [row["job"] for row in rows[1:]] == [None] * 6


# ------------------------------------------------------------------------------------------------------ logs


def test_the_log_is_that_of_the_stage_that_runs_else_of_the_last_that_ran(run: Run) -> None:
    error, _ = run.fail("logs")
    assert isinstance(error, InputError)
    assert "no stage of this recipe has a log yet" in str(error)
    plan = make_plan(run.recipe)
    for age, planned in ((100, plan[1]), (200, plan[0])):
        write_atomically(planned.output / "log.txt", f"of {planned.stage.name}\n")
        os.utime(planned.output / "log.txt", (time.time() - age,) * 2)
    assert run.call("logs") == "of dedup\n"
    with Lease(run.output):
        assert run.call("logs") == "of clean\n"
    assert run.call("logs", "dedup") == "of dedup\n"
    error, _ = run.fail("logs", "tokenizer")
    assert str(error) == "tokenizer: has no log: not made: never made"
    error, _ = run.fail("logs", "nothing")
    assert isinstance(error, RecipeError)


def play(run: Run, ending: Any) -> threading.Thread:
    """A runner that holds the lease, writes a log, begins it anew as for another attempt, and ends so."""

    def make() -> None:
        log = run.output / "log.txt"
        with Lease(run.output):
            begun.set()
            with log.open("w") as stream:
                for number in range(3):
                    print(f"first {number}", file=stream, flush=True)
                time.sleep(0.8)
            with log.open("w") as stream:
                print("second, which is longer than all of the first: \u00e9" + "." * 50, file=stream, flush=True)
                time.sleep(0.8)
                print("end", file=stream)
            ending()

    begun = threading.Event()
    runner = threading.Thread(target=make)
    runner.start()
    begun.wait()
    return runner


def test_a_log_is_followed_over_a_new_attempt_until_the_stage_is_made(run: Run) -> None:
    runner = play(run, lambda: make_outputs(run.path))
    told = run.call("logs", "-f", "clean").splitlines()
    runner.join()
    assert [line[:7] for line in told] == ["first 0", "first 1", "first 2", "second,", "end"]


def test_following_a_stage_that_fails_ends_with_its_error(run: Run) -> None:
    error = {"kind": "stage", "message": "out of disk"}
    runner = play(run, lambda: write_json(run.output / "error.json", error))
    raised, told = run.fail("logs", "-f")
    runner.join()
    assert isinstance(raised, StageError)
    assert raised.exit_code == 3
    assert str(raised) == "clean: failed (stage): out of disk"
    assert told.endswith("end\n")


def test_a_stage_that_was_stopped_on_demand_is_not_said_to_have_failed(run: Run) -> None:
    write_json(run.output / "error.json", {"kind": "preempted", "message": "stopped behind step 3"})
    raised, _ = run.fail("logs", "-f", "clean")
    assert isinstance(raised, PreemptedError)
    assert raised.exit_code == 5


def test_a_stage_that_nobody_makes_is_not_waited_for(run: Run) -> None:
    raised, _ = run.fail("logs", "-f", "dedup")
    assert isinstance(raised, InputError)
    assert "dedup: not made: never made; nobody makes it" in str(raised)


def test_the_log_of_a_job_that_no_runner_follows_comes_from_the_cluster(run: Run) -> None:
    write_atomically(run.output / "log.txt", "what its runner saw before it was killed\n")
    run.submit("echo begun; until [ -e go ]; do sleep 0.05; done; echo ended; exit 1")
    wait_until(lambda: (log := run.cluster.folder / run.cluster.jobs[0] / "log").exists() and log.read_text())
    assert run.call("logs") == "begun\n"
    run.cluster.passed.clear()
    threading.Timer(0.5, (run.output / "go").touch).start()
    raised, told = run.fail("logs", "-f")
    assert told == "begun\nended\n"
    assert isinstance(raised, StageError)
    assert "failed, and no runner was there to tell why" in str(raised)


# ---------------------------------------------------------------------------------------------------- cancel


def test_a_runner_is_asked_to_stop_and_waited_for(run: Run) -> None:
    held = threading.Event()

    def obey() -> None:
        with Lease(run.output):
            held.set()
            wait_until(lambda: read_cancel(run.output, since=0))
            answer_cancel(run.output)

    runner = threading.Thread(target=obey)
    runner.start()
    held.wait()
    told = run.call("cancel")
    runner.join()
    assert told.splitlines() == [
        f"clean      asked {HERE} to stop",
        "clean      is stopped; run again to go on",
    ]
    assert run.state().state == "cancelled"
    assert not (run.output / "cancel.json").exists()


def test_a_stage_that_is_made_in_the_meantime_stays_made(run: Run) -> None:
    held = threading.Event()

    def make() -> None:
        with Lease(run.output):
            held.set()
            wait_until(lambda: (run.output / "cancel.json").exists())
            request = (run.output / "cancel.json").read_text()
            (run.output / "cancel.json").unlink()
            make_outputs(run.path)
            (run.output / "cancel.json").write_text(request)

    runner = threading.Thread(target=make)
    runner.start()
    held.wait()
    assert run.call("cancel", "clean").splitlines()[1] == "clean      was made before it could be stopped"
    runner.join()
    assert run.state().state == "made"
    assert not (run.output / "cancel.json").exists()


def test_a_job_that_no_runner_follows_is_cancelled_on_its_cluster(run: Run) -> None:
    run.submit("sleep 60")
    (run.output / "environment.json").write_text('{"MLFLOW_TRACKING_PASSWORD": "secret"}')
    (job,) = run.cluster.jobs
    assert "clean      is stopped; run again to go on" in run.call("cancel").splitlines()
    assert run.cluster.process(job) is None
    assert run.state().told.startswith("cancelled by ")
    assert not (run.output / "environment.json").exists()
    assert run.call("cancel") == "nothing runs\n"


def test_the_job_of_a_runner_that_died_before_it_obeyed_is_cancelled(run: Run) -> None:
    run.submit("sleep 60")
    held, dead = threading.Event(), threading.Event()

    def die() -> None:
        with Lease(run.output):
            held.set()
            wait_until(lambda: (run.output / "cancel.json").exists())
        dead.set()

    runner = threading.Thread(target=die)
    runner.start()
    held.wait()
    run.call("cancel", "clean")
    runner.join()
    (job,) = run.cluster.jobs
    assert run.cluster.process(job) is None
    assert not (run.output / "cancel.json").exists()


def test_where_nothing_runs_that_is_said(run: Run) -> None:
    assert run.call("cancel") == "nothing runs\n"
    assert run.call("cancel", "dedup") == "nothing runs of dedup\n"
    assert not (run.output / MANIFEST).exists()


def test_a_cluster_that_does_not_answer_is_no_success(run: Run) -> None:
    run.submit("sleep 60")
    run.cluster.cut()
    raised, _ = run.fail("cancel")
    assert isinstance(raised, TransientError)
    assert "may go on: the cluster does not answer (nobody answers); run again" in str(raised)


# ------------------------------------------------------------------------------- with real runners in other processes


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "failed (stage): tokenizer: the job was killed by signal 9: often"),
        ("os._exit(0)", "failed (stage): tokenizer: the job ended without a manifest; its log is "),
        ('raise InputError("the file x is gone")', "failed (user): the file x is gone"),
    ],
)
def test_why_a_stage_failed_is_told_even_where_its_job_could_not(tmp_path: Path, body: str, told: str) -> None:
    stage = TinyStage(tmp_path, body)
    stage.start().communicate()
    planned, _ = plan_stage(tmp_path)
    assert stage_state(planned).told.startswith(told)


def test_a_stage_of_another_process_is_watched_and_stopped(tmp_path: Path) -> None:
    stage = TinyStage(tmp_path, UNTIL_GO)
    runner = stage.start()
    stage.wait_for(lambda: stage.attempts)
    planned, _ = plan_stage(tmp_path)
    assert stage_state(planned).told.startswith(f"running: starting (process {runner.pid} on {socket.gethostname()}")
    assert stop_stage(planned, Console(quiet=True))
    assert runner.wait() == 5
    assert stage_state(planned).state == "cancelled"
    handle = {"target": "slurm", "name": "old", "native_id": "1", "submitted_at": "2020-01-01"}
    write_json(stage.output / "handle.json", handle)
    (tmp_path / "go").touch()
    stage.end(stage.start(), 0)
    assert not (stage.output / "handle.json").exists()  # the stage was made here


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    stage = TinyStage(tmp_path, UNTIL_GO)
    runner = stage.start()
    stage.wait_for(lambda: stage.attempts)
    runner.send_signal(signal.SIGINT)
    runner.communicate()
    planned, _ = plan_stage(tmp_path)
    assert stage_state(planned).told.startswith("failed (interrupted): ")
