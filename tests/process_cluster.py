"""A cluster of one machine: its jobs are real processes that go on when whoever submitted them is gone.

As much of jobs/launch/target.py's protocol as a cluster has to do, for tests of those who ask one.
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from jobs.launch.target import AlreadySubmittedError, Attempt

KEEPS_ITS_CODE = 'trap : TERM; "$@"; echo $? > "$0.code"'


class ProcessCluster:
    """Jobs by their names; a job's log and its exit code stand in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: dict[str, subprocess.Popen[bytes]] = {}
        self.cancelled: set[str] = set()
        self.passed = 0
        self.away = False

    def latest(self, name: str) -> Attempt | None:
        names = [each for each in self.jobs if each == name or each.startswith(f"{name}-")]
        return self._attempt(names[-1]) if names else None

    def submit(self, attempt: str, command: Sequence[str], output: Path) -> str:
        if attempt in self.jobs:
            raise AlreadySubmittedError(attempt)
        with (self.folder / f"{attempt}.log").open("wb") as log:
            shell = ["sh", "-c", KEEPS_ITS_CODE, str(self.folder / attempt), *command]
            self.jobs[attempt] = subprocess.Popen(
                shell, cwd=output, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        return str(self.jobs[attempt].pid)

    def look(self, native_id: str) -> Attempt:
        return self._attempt(next(name for name, job in self.jobs.items() if str(job.pid) == native_id))

    def pass_on(self, native_id: str, output: Path) -> None:  # noqa: ARG002
        text = (self.folder / f"{self.look(native_id).name}.log").read_text()
        print(text[self.passed :], end="", flush=True)
        self.passed = len(text)

    def cancel(self, native_id: str) -> None:
        self.cancelled.add(native_id)
        os.killpg(int(native_id), signal.SIGTERM)

    def close(self) -> None:
        """No job runs."""
        for job in self.jobs.values():
            with suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
            job.wait()

    def _attempt(self, name: str) -> Attempt:
        if self.away:
            raise ConnectionRefusedError("connection refused")
        job = self.jobs[name]
        native_id = str(job.pid)
        if job.poll() is None:
            return Attempt(name, native_id, "running")
        if native_id in self.cancelled:
            return Attempt(name, native_id, "stopped")
        told = self.folder / f"{name}.code"  # none where the job was killed
        code = int(told.read_text()) if told.exists() else job.returncode
        return Attempt(name, native_id, "failed" if code else "succeeded")
