"""Training jobs on ranks that are forked from one process which has everything imported: a start takes a second.

As a script it is that process: a line of JSON a start on stdin, the exit codes of its ranks as a line on stdout. Ranks
can be told to die by SIGKILL, or to get a SIGTERM, at a chosen place of the program; every rank of a pre-training notes
which samples it takes.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_core.artifact import Artifact
from gpt_core.recipe import Recipe
from jobs.job import IDENTITY, RECIPE

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Blow:
    """`signal` to `rank` at the `nth` time (from 1) it comes to `place`: step, file, manifest, pointer, clearing."""

    rank: int
    place: str
    nth: int
    signal: str = "SIGKILL"


class ForkedRanks:
    """Starts of jobs.pretrain and jobs.finetune, one after the other."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        self._server.communicate()

    def run(
        self,
        output: Path,
        recipe: Recipe,
        inputs: Mapping[str, Artifact],
        *,
        stage: str = "pretrain",
        blow: Blow | None = None,
    ) -> list[int]:
        """The ranks' exit codes, negative for a signal. Their outcries are in log.txt, their samples beside it."""
        output.mkdir(parents=True, exist_ok=True)
        (output / RECIPE).write_text(recipe.model_dump_json(), encoding="utf-8")
        (output / IDENTITY).write_text(json.dumps({"stage": stage}), encoding="utf-8")
        paths = [f"{name}={artifact.root}" for name, artifact in inputs.items()]
        notes = _samples_of(output)
        samples = notes / str(len(list(notes.iterdir())) if notes.exists() else 0)
        samples.mkdir(parents=True)
        start = {
            "stage": stage,
            "samples": str(samples),
            "world_size": recipe.cluster.train.processes,
            "arguments": ["--recipe", str(output / RECIPE), "--output", str(output), "--inputs", *paths],
            "blow": vars(blow) if blow else None,
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(start) + "\n")
        self._server.stdin.flush()
        codes: list[int] = json.loads(self._server.stdout.readline())
        return codes


def told(output: Path) -> str:
    return (output / "log.txt").read_text()


def read_samples(output: Path) -> list[dict[int, list[int]]]:
    """Of each start: step -> the numbers of the samples that its ranks took, sorted."""
    starts: list[dict[int, list[int]]] = []
    for folder in sorted(_samples_of(output).iterdir(), key=lambda path: int(path.name)):
        steps: dict[int, list[int]] = {}
        for path in folder.iterdir():
            for line in path.read_text().splitlines():
                step, numbers = json.loads(line)
                steps[step] = sorted(steps.get(step, []) + numbers)
        starts.append(steps)
    return starts


def _samples_of(output: Path) -> Path:
    return output.parent / f"{output.name}-samples"


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # for what the libraries say
    from jobs import finetune, pretrain  # before DeepSpeed, which they prepare

    import torch._dynamo  # isort: skip  # this and Muon are what an engine would import
    from deepspeed.runtime.zero.muon import original_muon  # isort: skip

    assert torch._dynamo
    assert original_muon
    for line in sys.stdin:
        start = json.loads(line)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        job = {"pretrain": pretrain, "finetune": finetune}[start["stage"]]
        children = [_fork(rank, start, port, job) for rank in range(start["world_size"])]
        codes = {}
        while len(codes) < len(children):
            child, status = os.wait()
            codes[child] = os.waitstatus_to_exitcode(status)
        answers.write(json.dumps([codes[child] for child in children]) + "\n")


def _fork(rank: int, start: dict[str, Any], port: int, job: Any) -> int:
    child = os.fork()
    if child:
        return child
    try:
        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": start["world_size"], "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in world.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", TORCHELASTIC_RUN_ID="forked")
        output = Path(start["arguments"][start["arguments"].index("--output") + 1])
        log = os.open(output / "log.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _note_samples(Path(start["samples"]) / str(rank))
        if start["blow"] is not None and start["blow"]["rank"] == rank:
            _arm(Blow(**start["blow"]))
        job.run_job(start["stage"], job.make, start["arguments"], keeps=job.KEPT)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)


def _note_samples(path: Path) -> None:
    from gpt_core.data.batches import TrainingSamples

    note = path.open("w", buffering=1)
    batch, take, steps = TrainingSamples.batch, TrainingSamples.take, [0]

    def noting_batch(self: TrainingSamples, step: int, **where: Any) -> Any:
        steps.append(step)
        return batch(self, step, **where)

    def noting_take(self: TrainingSamples, numbers: Any, **how: Any) -> Any:
        note.write(json.dumps([steps[-1], numbers.tolist()]) + "\n")
        return take(self, numbers, **how)

    TrainingSamples.batch, TrainingSamples.take = noting_batch, noting_take  # type: ignore[method-assign]


def _arm(blow: Blow) -> None:
    """The blow falls where it shall; what is written just then is written half."""
    from gpt_core.training import checkpoint, checkpoint_files, loop

    left = [blow.nth]

    def fall() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), getattr(signal, blow.signal))

    def before(function: Callable[..., Any], applies: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
        def struck(*arguments: Any, **named: Any) -> Any:
            if applies(*arguments):
                fall()
            return function(*arguments, **named)

        return struck

    def half(file: Any, data: Any) -> int:
        if left[0] == 1:
            write(file, memoryview(data).cast("B")[: len(data) // 2])
        fall()
        return write(file, data)

    write = checkpoint_files._HashedFile.write
    if blow.place == "step":
        loop._mix = before(loop._mix)  # called as a step begins, on the thread that trains
    elif blow.place == "file":
        checkpoint_files._HashedFile.write = half  # type: ignore[method-assign]
    elif blow.place == "manifest":
        checkpoint.write_json = before(checkpoint.write_json)  # type: ignore[attr-defined]
    elif blow.place == "pointer":
        checkpoint.write_atomically = before(checkpoint.write_atomically)  # type: ignore[attr-defined]
    elif blow.place == "clearing":
        checkpoint.shutil.rmtree = before(checkpoint.shutil.rmtree, _holds_something)  # type: ignore[attr-defined]


def _holds_something(folder: str | Path, **_: Any) -> bool:
    return Path(folder).name.startswith("step-") and Path(folder).exists() and any(Path(folder).iterdir())


if __name__ == "__main__":
    _serve()
