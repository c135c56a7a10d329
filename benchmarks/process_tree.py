"""What a command and all processes that it starts cost."""

import ctypes
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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

    Processes that outlive their parents (Spark's JVM) are inherited and waited for, so none is missed. Linux only.
    """
    ctypes.CDLL(None).prctl(_BECOME_REAPER, 1, 0, 0, 0)
    before, started = _cpu_seconds(), time.perf_counter()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"error: {' '.join(command)} ended with {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}")
    _wait_for_orphans()
    return Cost(wall, _cpu_seconds() - before)


def _wait_for_orphans() -> None:
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
