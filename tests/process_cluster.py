"""A cluster of one machine: its jobs are real processes that go on when whoever submitted them is gone.

All of jobs/launch/target.py's protocol, for tests of those who ask a cluster. It keeps everything in a folder, so that
any process may ask it.
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from jobs.launch.target import AlreadySubmittedError, Attempt

RUN = """
trap : TERM
"$@" >"$0/log" 2>&1
echo $? >"$0/code"
"""


class ProcessCluster:
    """A folder a job, with its log, process id and exit code. Its id of the job NAME is job/NAME."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.passed: dict[str, int] = {}  # characters of a job's log

    @property
    def jobs(self) -> list[str]:
        """The names of all attempts, the last one behind."""
        found = (path.name for path in self.folder.iterdir() if path.is_dir())
        return sorted(found, key=lambda name: (len(name), name))

    def cut(self) -> None:
        """From now on it does not answer."""
        (self.folder / "cut").touch()

    def mend(self) -> None:
        """It answers again."""
        (self.folder / "cut").unlink()

    def latest(self, name: str) -> Attempt | None:
        found = [job for job in self.jobs if job == name or job.startswith(f"{name}-")]
        return self.look(f"job/{found[-1]}") if found else None

    def submit(self, attempt: str, command: Sequence[str], output: Path) -> str:
        job = self.folder / attempt
        try:
            job.mkdir()
        except FileExistsError:
            raise AlreadySubmittedError(attempt) from None
        process = subprocess.Popen(["sh", "-c", RUN, str(job), *command], cwd=output, start_new_session=True)
        (job / "pid").write_text(str(process.pid))
        return f"job/{attempt}"

    def look(self, native_id: str) -> Attempt:
        if (self.folder / "cut").exists():
            raise ConnectionError("nobody answers")
        name = _name(native_id)
        job = self.folder / name
        if not job.exists():
            return Attempt(name, native_id, "lost")
        if not (job / "pid").exists() or self.process(name) is not None:
            return Attempt(name, native_id, "running")
        if (job / "stopped").exists():
            return Attempt(name, native_id, "stopped")
        code = (job / "code").read_text().strip() if (job / "code").exists() else None  # none where it was killed
        message = f"exit code {code}" if code not in (None, "0") else ""
        return Attempt(name, native_id, "succeeded" if code == "0" else "failed", message)

    def pass_on(self, native_id: str, output: Path) -> None:  # noqa: ARG002
        self.look(native_id)
        log = self.folder / _name(native_id) / "log"
        text = log.read_text() if log.exists() else ""
        print(text[self.passed.get(native_id, 0) :], end="", flush=True)
        self.passed[native_id] = len(text)

    def cancel(self, native_id: str) -> None:
        (self.folder / _name(native_id) / "stopped").touch()
        self.kill(_name(native_id), signal.SIGTERM)

    def process(self, job: str) -> psutil.Process | None:
        """The job's, while it runs."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(int((self.folder / job / "pid").read_text()))
            if process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def kill(self, job: str, signum: int = signal.SIGKILL) -> None:
        """The job and its children get the signal."""
        os.killpg(int((self.folder / job / "pid").read_text()), signum)

    def close(self) -> None:
        """No job runs."""
        for job in self.jobs:
            with suppress(ProcessLookupError):
                self.kill(job)


def _name(native_id: str) -> str:
    return native_id.removeprefix("job/")
