"""Two runners never make one stage; a dead one's lease is no obstacle, and who lost it learns so."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt_core.errors import BusyError
from pipelines import lease
from pipelines.lease import CLOCK_STEP_SECONDS, LEASE, STALE_SECONDS, Lease, lease_owner

ELSEWHERE = "another boot 4026531836"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "clean" / "it").mkdir(parents=True)
    return tmp_path / "clean" / "it"


def our_processes() -> str:
    """What our leases say of where our process ids count."""
    return str(Lease(Path("x/y")).owner["processes"])


def leave_lease(output: Path, *, processes: str, pid: int, host: str = "there", age_seconds: float = 0.0) -> None:
    path = output / LEASE
    since = "2020-01-01T00:00:00+00:00"
    path.write_text(json.dumps({"host": host, "pid": pid, "since": since, "processes": processes, "id": "theirs"}))
    moment = time.time() - age_seconds
    os.utime(path, (moment, moment))


def ended_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_held_stage_is_refused_and_its_owner_named(output: Path) -> None:
    with Lease(output), pytest.raises(BusyError, match=f"process {os.getpid()} on {socket.gethostname()} has been"):
        Lease(output).__enter__()


def test_a_lease_is_given_back_and_leaves_nothing(output: Path) -> None:
    with Lease(output):
        owner = lease_owner(output)
        assert owner is not None
        assert owner["pid"] == os.getpid()
        assert [path.name for path in output.iterdir()] == [LEASE]
    assert list(output.parent.rglob("*")) == [output]
    with Lease(output):
        pass


def test_the_lease_of_a_dead_process_of_this_machine_is_taken_at_once(output: Path) -> None:
    leave_lease(output, processes=our_processes(), pid=ended_pid())
    assert lease_owner(output) is None
    with Lease(output):
        pass


def test_a_later_process_of_the_same_number_is_not_the_owner(output: Path) -> None:
    leave_lease(output, processes=our_processes(), pid=os.getpid())  # since 2020
    assert lease_owner(output) is None
    late = {**Lease(output).owner, "since": "2020-01-01T00:00:00+00:00"}
    assert not lease._runs(late)
    assert lease._runs(Lease(output).owner), (
        f"a clock corrected by less than {CLOCK_STEP_SECONDS} s is no other process"
    )


def test_a_suspended_process_of_this_machine_keeps_its_lease(output: Path) -> None:
    with Lease(output):
        moment = time.time() - 2 * STALE_SECONDS
        os.utime(output / LEASE, (moment, moment))
        assert lease_owner(output) is not None


def test_another_machine_keeps_its_lease_while_the_heart_beats(output: Path) -> None:
    leave_lease(output, processes=ELSEWHERE, pid=1, age_seconds=STALE_SECONDS / 2)
    message = r"process 1 on there has been making this stage since 2020.*; wait for it \(`gptmill run --wait` does\)"
    with pytest.raises(BusyError, match=message):
        Lease(output).__enter__()


def test_another_machine_loses_its_lease_when_the_heart_stops(output: Path) -> None:
    leave_lease(output, processes=ELSEWHERE, pid=os.getpid(), host=socket.gethostname(), age_seconds=2 * STALE_SECONDS)
    with Lease(output):
        pass


@pytest.mark.parametrize("ahead_seconds", [3600, -3600])
def test_the_file_servers_clock_judges_a_heart_not_this_machines(
    output: Path, ahead_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_lease(output, processes=ELSEWHERE, pid=1)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + ahead_seconds)
    assert lease_owner(output) is not None
    os.utime(output / LEASE, (now - 2 * STALE_SECONDS,) * 2)
    assert lease_owner(output) is None


def test_a_machine_that_crashed_may_leave_an_empty_lease(output: Path) -> None:
    (output / LEASE).touch()
    assert lease_owner(output) is None
    with Lease(output):
        pass


@pytest.mark.parametrize("taken_by", ["another", "nobody"])
def test_a_lease_that_another_took_is_lost_and_left_alone(
    output: Path, taken_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease, "ASIDE_SECONDS", 0.05)
    with Lease(output) as held:
        held.require()
        (output / LEASE).unlink()
        if taken_by == "another":
            leave_lease(output, processes=ELSEWHERE, pid=7)
        held.heart.join(timeout=30)
        who = "process 7 on there has it now" if taken_by == "another" else "who took it has ended"
        with pytest.raises(BusyError, match=f"has lost the stage; {who}"):
            held.require()
        with pytest.raises(BusyError, match="has lost the stage"):
            held.confirm()
    assert (output / LEASE).exists() == (taken_by == "another")


def test_a_lease_that_was_renewed_while_it_was_judged_is_given_back(output: Path) -> None:
    taker = Lease(output)
    leave_lease(output, processes=ELSEWHERE, pid=7)
    judged = lease._read(output / LEASE)
    taker._put_aside({**judged, "id": "an earlier one"})
    assert lease._read(output / LEASE) == judged
    taker._put_aside(judged)
    assert not (output / LEASE).exists()
    assert list(output.parent.rglob("*")) == [output]
