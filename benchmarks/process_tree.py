"""What a command and all processes that it starts cost."""

import contextlib
import ctypes
import functools
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL_SECONDS = 0.2
_BECOME_REAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)


@dataclass(frozen=True)
class Cost:
    """Seconds, by the clock and of all CPUs."""

    wall_seconds: float
    cpu_seconds: float

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.wall_seconds - other.wall_seconds, self.cpu_seconds - other.cpu_seconds)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.wall_seconds + other.wall_seconds, self.cpu_seconds + other.cpu_seconds)


def run_measured(command: Sequence[str], *, cwd: Path) -> Cost:
    """The cost of the command's whole process tree; ends the benchmark with the command's last words if it failed.

    Processes that outlive their parents (Spark's JVM) are inherited and waited for. What a process costs whose parent
    ignores that it ended (Spark's Python workers) the system tells nobody: it is read while the process lives, and
    missed are the last POLL_SECONDS at most. Linux only.
    """
    ctypes.CDLL(None).prctl(_BECOME_REAPER, 1, 0, 0, 0)
    before, started = _cpu_seconds(), time.perf_counter()
    untold: dict[int, float] = {}  # process -> its CPU-seconds
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(command, cwd=cwd, stdout=words, stderr=subprocess.STDOUT)
        while process.poll() is None:
            _look(untold)
            time.sleep(POLL_SECONDS)
        wall = time.perf_counter() - started
        words.seek(0)
        if process.returncode:
            told = words.read().decode(errors="replace")[-4000:]
            sys.exit(f"error: {' '.join(command)} ended with {process.returncode}\n{told}")
    for pid in _wait_for_orphans():
        untold.pop(pid, None)
    return Cost(wall, _cpu_seconds() - before + sum(untold.values()))


def _look(untold: dict[int, float]) -> None:
    """`untold` has what all descendants whose parents ignore their end have cost until now."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            if _ignores_children(process.ppid()):
                used = process.cpu_times()
                untold[process.pid] = used.user + used.system


@functools.cache
def _ignores_children(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(ignored, 16) >> (signal.SIGCHLD - 1) & 1)


def _wait_for_orphans() -> Iterator[int]:
    while True:
        try:
            yield os.wait()[0]
        except ChildProcessError:
            return


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
