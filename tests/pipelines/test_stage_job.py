"""What the runner does about a stage that fails, hangs, is cancelled, or is somebody else's: with real processes."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tiny_stage import UNTIL_GO, TinyStage

from gpt_core.artifact import open_artifact
from jobs.job import CANCEL, LOG
from pipelines.cancel_request import CANCELLED, request_cancel
from pipelines.lease import LEASE, STALE_SECONDS

MakeStage = Callable[..., TinyStage]
KEPT = """
def stop(*_): raise PreemptedError("kept step 3")
signal.signal(signal.SIGTERM, stop)
"""


@pytest.fixture
def stage_of(tmp_path: Path) -> Iterator[MakeStage]:
    made: list[TinyStage] = []

    def make(body: str = "", stop_command: list[str] | None = None, **limits: object) -> TinyStage:
        made.append(TinyStage(tmp_path, body, limits, stop_command))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


def names(events: list[dict[str, object]]) -> list[object]:
    return [event["event"] for event in events if event["event"] != "progress"]


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_what_may_pass_by_itself_is_tried_again_after_a_doubled_wait(stage_of: MakeStage) -> None:
    stage = stage_of('if attempt < 3: raise TransientError("lost a machine")', retries=2, backoff_seconds=0.1)
    events, told = stage.end(stage.start(), 0)
    assert names(events) == ["start", "retry", "start", "retry", "start", "made", "done"]
    assert [(e["attempt"], e["seconds"], e["error"]) for e in events if e["event"] == "retry"] == [
        (2, 0.1, "tokenizer: lost a machine"),
        (3, 0.2, "tokenizer: lost a machine"),
    ]
    assert "tokenizer  tokenizer: lost a machine; tried again in 0.2 s, 2 of 2\n" in told
    log = (stage.output / LOG).read_text()
    assert [f"this is attempt {n}\n" in log for n in (1, 2, 3)] == [True, True, True]


def test_it_is_not_tried_for_ever(stage_of: MakeStage) -> None:
    stage = stage_of('raise TransientError("lost a machine")', retries=1, backoff_seconds=0.1)
    events, told = stage.end(stage.start(), 3)
    assert told.endswith("error: tokenizer: lost a machine; tried 2 times, as cluster.limits.retries says\n")
    assert (events[-2]["event"], events[-2]["kind"], events[-1]["exit_code"]) == ("failed", "transient", 3)
    assert len(stage.attempts) == 2


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ('raise InputError("the file x is gone")', 2, "error: tokenizer: the file x is gone\n"),
        ('raise StageError("it diverged")', 3, "error: tokenizer: it diverged\n"),
        ('raise PreemptedError("kept step 3")', 5, "error: tokenizer: kept step 3\n"),
        ("1 / 0", 3, "error: tokenizer: the job exited 1; the whole log is "),
        ("os._exit(0)", 3, "error: tokenizer: the job ended without a manifest; its log is "),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            3,
            "error: tokenizer: the job was killed by signal 9: often the system's memory is too small; the whole log",
        ),
    ],
)
def test_nothing_else_is_tried_again_and_its_exit_code_says_what_it_was(
    stage_of: MakeStage, body: str, code: int, words: str
) -> None:
    stage = stage_of(body, backoff_seconds=0.1)
    events, told = stage.end(stage.start(), code)
    assert words in told
    assert names(events) == ["start", "failed", "done"]
    assert len(stage.attempts) == 1


def test_at_its_time_limit_a_stage_is_stopped_and_names_the_field(stage_of: MakeStage) -> None:
    stage = stage_of("time.sleep(60)", minutes={"tokenizer": 0.02})
    _, told = stage.end(stage.start(), 3)
    assert told.endswith("error: tokenizer: stopped after 0.02 minutes, as cluster.limits.minutes.tokenizer says\n")
    assert len(stage.attempts) <= 1  # a slow machine has not begun by then


def test_a_request_to_cancel_stops_the_job_on_its_cluster_too_and_all_who_wait_for_it(
    stage_of: MakeStage, tmp_path: Path
) -> None:
    on_cluster = """
import contextlib, os, sys
with contextlib.suppress(ProcessLookupError):
    os.kill(int(open(sys.argv[1]).read()), 15)
open(sys.argv[2], 'a').write('stopped ')
"""
    notes = [str(tmp_path / name) for name in ("attempts", "stopped")]
    stage = stage_of(f"{KEPT}\n{UNTIL_GO}", stop_command=[sys.executable, "-c", on_cluster, *notes])
    runner = stage.start()
    stage.wait_for(lambda: stage.attempts)
    waiting = stage.start("--wait")
    assert waiting.stdout is not None
    assert '"event": "wait"' in waiting.stdout.readline()
    request_cancel(stage.output)
    who = f"tokenizer: cancelled by {getpass.getuser()} on {socket.gethostname()} at "
    events, told = stage.end(runner, 5)
    assert who in told
    assert told.endswith("+00:00; kept step 3\n")
    assert (events[-2]["kind"], events[-1]["exit_code"]) == ("preempted", 5)
    assert who in stage.end(waiting, 5)[1]
    assert (tmp_path / "stopped").read_text().startswith("stopped ")  # once more where the waiting one had the lease
    assert [is_gone(pid) for pid in stage.attempts] == [True]
    assert [(stage.output / name).exists() for name in (CANCEL, CANCELLED, LEASE)] == [False, True, False]

    (tmp_path / "go").touch()
    stage.end(stage.start(), 0)  # the request was to those who were there
    assert not (stage.output / CANCELLED).exists()


def test_a_job_that_cannot_be_cancelled_on_its_cluster_is_told(stage_of: MakeStage) -> None:
    refuses = [sys.executable, "-c", "import sys; sys.exit('no answer')"]
    stage = stage_of(UNTIL_GO, stop_command=refuses)
    runner = stage.start()
    stage.wait_for(lambda: stage.attempts)
    request_cancel(stage.output)
    _, told = stage.end(runner, 3)
    assert told.endswith("; tokenizer: its job on the cluster may go on: no answer\n")


def test_of_eight_runners_at_once_one_makes_the_stage_and_the_others_leave(stage_of: MakeStage) -> None:
    stage = stage_of("time.sleep(1)")
    runners = [stage.start() for _ in range(8)]
    told = [runner.communicate(timeout=120) for runner in runners]
    codes = sorted(runner.returncode for runner in runners)
    assert (codes[0], set(codes) <= {0, 4}) == (0, True), told
    assert len(stage.attempts) == 1
    left = [err for runner, (_, err) in zip(runners, told, strict=True) if runner.returncode == 4]
    assert all("has been making this stage since " in err for err in left)


def test_of_eight_who_wait_one_makes_the_stage_and_all_end_well(stage_of: MakeStage) -> None:
    stage = stage_of("time.sleep(1)")
    runners = [stage.start("--wait") for _ in range(8)]
    ends = [names(stage.end(runner, 0)[0])[-2:] for runner in runners]
    assert sorted(map(str, ends)) == [str(["made", "done"]), *7 * [str(["skip", "done"])]]
    assert len(stage.attempts) == 1


def test_who_waits_goes_on_itself_where_the_other_dies(stage_of: MakeStage, tmp_path: Path) -> None:
    stage = stage_of(f"if attempt == 1:\n    {UNTIL_GO}")
    first = stage.start()
    stage.wait_for(lambda: stage.attempts)
    second = stage.start("--wait")
    assert second.stdout is not None
    assert '"event": "wait"' in second.stdout.readline()
    first.kill()
    assert names(stage.end(second, 0)[0]) == ["start", "made", "done"]
    assert len(stage.attempts) == 2


def in_a_container() -> tuple[str, ...]:
    """What starts a command with process ids of its own, as on another machine: it sees none of ours."""
    command = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("another machine needs root, or whoever may unshare --pid")
    return command


def age(lease: Path) -> None:
    """The heart has not beaten for longer than a living runner's does."""
    moment = time.time() - 2 * STALE_SECONDS
    os.utime(lease, (moment, moment))


def test_a_runner_that_was_suspended_and_lost_its_lease_stops_its_job_and_says_who_has_it(
    stage_of: MakeStage, tmp_path: Path
) -> None:
    elsewhere = in_a_container()
    stage = stage_of(UNTIL_GO)
    suspended = stage.start()
    stage.wait_for(lambda: stage.attempts)
    suspended.send_signal(signal.SIGSTOP)
    age(stage.output / LEASE)
    other = stage.start("--wait", within=elsewhere)
    assert other.stdout is not None
    assert '"event": "start"' in other.stdout.readline()
    suspended.send_signal(signal.SIGCONT)
    events, told = stage.end(suspended, 4)
    assert "has lost the stage; process " in told
    assert f"on {socket.gethostname()} has it now; run again\n" in told
    assert events[-2]["kind"] == "busy"
    assert is_gone(stage.attempts[0])
    (tmp_path / "go").touch()
    stage.end(other, 0)
    assert open_artifact(stage.output) is not None
    assert not (stage.output / LEASE).exists()
