"""Two runners never make one stage; a dead one's lease is no obstacle."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt_core.errors import UserError
from pipelines.lease import STALE_SECONDS, Lease, lease_owner


def leave_lease(output: Path, *, host: str, pid: int, age_seconds: float = 0.0) -> None:
    path = output / ".lease"
    path.write_text(json.dumps({"host": host, "pid": pid, "since": "then"}))
    moment = time.time() - age_seconds
    os.utime(path, (moment, moment))


def ended_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_held_stage_is_refused_and_its_owner_named(tmp_path: Path) -> None:
    with Lease(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} on {socket.gethostname()}"):
        Lease(tmp_path).__enter__()


def test_a_lease_is_given_back(tmp_path: Path) -> None:
    with Lease(tmp_path):
        owner = lease_owner(tmp_path)
        assert owner is not None
        assert owner["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []
    with Lease(tmp_path):
        pass


def test_the_lease_of_a_dead_process_of_this_machine_is_taken_at_once(tmp_path: Path) -> None:
    leave_lease(tmp_path, host=socket.gethostname(), pid=ended_pid())
    assert lease_owner(tmp_path) is None
    with Lease(tmp_path):
        pass


def test_another_machine_keeps_its_lease_while_the_heart_beats(tmp_path: Path) -> None:
    leave_lease(tmp_path, host="elsewhere", pid=1, age_seconds=STALE_SECONDS / 2)
    with pytest.raises(UserError, match="process 1 on elsewhere has been making this stage since then; wait for it"):
        Lease(tmp_path).__enter__()


def test_another_machine_loses_its_lease_when_the_heart_stops(tmp_path: Path) -> None:
    leave_lease(tmp_path, host="elsewhere", pid=1, age_seconds=STALE_SECONDS * 2)
    with Lease(tmp_path):
        pass
