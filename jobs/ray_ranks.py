"""One machine's ranks of a training: what Ray Train runs on each machine.

A rank is a process below Ray's worker, since it ends with its process, and CUDA and gloo start in it as they do under
torchrun. When the worker is gone, however that came, its ranks end within a second.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any, TypedDict

import ray
import ray.train
from ray.train.collective import broadcast_from_rank_zero

from gpt_core.errors import PreemptedError
from jobs.environment import training_environment
from jobs.job import RAY_RANK, RUNNER_PID

POLL_SECONDS = 0.5


class StopRequest:
    """An actor that knows whether the training was asked to stop, and tells whoever waits for it at once."""

    def __init__(self) -> None:
        self._made = asyncio.Event()
        self._heard = False

    async def make(self) -> bool:
        """The training is asked to stop. Whether it has begun."""
        self._made.set()
        return self._heard

    async def is_made(self) -> bool:
        """Whether the training was asked to stop."""
        return self._made.is_set()

    async def wait(self) -> None:
        """Returns when the training is asked to stop."""
        self._heard = True
        await self._made.wait()


class RanksOfAMachine(TypedDict):
    """What `run_ranks` is given."""

    command: Sequence[str]  # of a rank, behind the interpreter
    processes: int  # ranks
    stop: Any  # StopRequest's handle


class Start(TypedDict):
    """What the first machine tells the others."""

    host: str
    port: int
    stopped: bool


class RankFailedError(Exception):
    """A rank has ended with an error, or was killed."""


def run_ranks(ranks: RanksOfAMachine) -> int:
    """The ranks of this machine have ended: 0, or PreemptedError's exit code, where they were asked to stop.

    Raises RankFailedError where one failed; the others of this machine are gone by then.
    """
    machine = ray.train.get_context().get_world_rank()
    start: Start = broadcast_from_rank_zero(_start(ranks["stop"]) if machine == 0 else None)
    if start["stopped"]:  # while the ranks began, or before Ray started them again
        return PreemptedError.exit_code
    processes = [
        subprocess.Popen(
            [sys.executable, *ranks["command"]], env=_environment(ranks, start, local=local), stdin=subprocess.DEVNULL
        )
        for local in range(ranks["processes"])
    ]
    try:
        return _wait(processes, first=machine * len(processes), stop=ranks["stop"] if machine == 0 else None)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _start(stop: Any) -> Start:
    host = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.create_server((host, 0), family=family)) as free:
        return Start(host=host, port=free.getsockname()[1], stopped=ray.get(stop.is_made.remote()))


def _environment(ranks: RanksOfAMachine, start: Start, *, local: int) -> dict[str, str]:
    context, here = ray.train.get_context(), ranks["processes"]
    own = {
        RAY_RANK: "1",
        RUNNER_PID: os.getpid(),
        "RANK": context.get_world_rank() * here + local,
        "WORLD_SIZE": context.get_world_size() * here,
        "LOCAL_RANK": local,
        "LOCAL_WORLD_SIZE": here,
        "MASTER_ADDR": start["host"],
        "MASTER_PORT": start["port"],
    }
    return {**os.environ, **training_environment(), **{name: str(value) for name, value in own.items()}}


def _wait(processes: "Sequence[subprocess.Popen[bytes]]", *, first: int, stop: Any) -> int:
    """Their exit code once all have ended; `stop` is given on one machine, whose ranks tell the others'."""
    asked = [] if stop is None else [stop.wait.remote()]
    while True:
        codes = {rank: process.poll() for rank, process in enumerate(processes, start=first)}
        ended = {rank: code for rank, code in codes.items() if code is not None}
        for rank, code in ended.items():
            if code not in (0, PreemptedError.exit_code):
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                raise RankFailedError(f"rank {rank} on {socket.gethostname()} {how}")
        if len(ended) == len(processes):
            return max(ended.values())
        if not asked:
            time.sleep(POLL_SECONDS)
        elif ray.wait(asked, timeout=POLL_SECONDS)[0]:
            asked = []
            for process in processes:
                process.terminate()
