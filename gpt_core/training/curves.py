"""Figures over the steps of a run: in memory, and in a file that grows with the run and outlives its process.

steps.jsonl: a JSON object a line, in the order of the steps; a step may have several. `step` counts the steps done,
`unix_ms` is when, every number beside them is a figure, and `sample` is a prompt and what the model then wrote. A
checkpoint holds none of it: a resumed run keeps the lines up to its step and writes on behind them.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

from gpt_core.fingerprint import Json

STEPS = "steps.jsonl"
SAMPLE = "sample"
MAX_POINTS = 500

logger = logging.getLogger("gptmill")


class Entry(NamedTuple):
    """A line of steps.jsonl."""

    step: int
    unix_ms: int
    figures: dict[str, float]
    sample: dict[str, str] | None  # `prompt` and `text`


class Curves:
    """Named series of (step, value)."""

    def __init__(self) -> None:
        self.series: dict[str, list[list[float]]] = {}

    @classmethod
    def read(cls, path: Path) -> "Curves":
        """All figures of a steps.jsonl."""
        curves = cls()
        for entry in read_steps(path):
            curves.add(entry.step, entry.figures)
        return curves

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """The values of `step` stand at the end of their series."""
        for name, value in values.items():
            self.series.setdefault(name, []).append([step, value])

    def last(self, name: str) -> float:
        """The last value of a series."""
        return self.series[name][-1][1]

    def newest(self, name: str) -> float | None:
        """The last value of a series that may have none yet."""
        return self.last(name) if name in self.series else None

    def mean_of_last(self, name: str, count: int) -> float:
        """The mean of the last `count` values of a series: less noise than the last alone."""
        values = [value for _, value in self.series[name][-count:]]
        return sum(values) / len(values)

    def thinned(self) -> dict[str, Json]:
        """At most MAX_POINTS points a series, evenly chosen, the last among them."""
        return {name: _thin(points) for name, points in self.series.items()}


class StepLog:
    """steps.jsonl, to be written on behind step `done`: what stood there of later steps, or half a line, is gone."""

    def __init__(self, path: Path, *, done: int) -> None:
        self.path = path
        kept, last = _measure_prefix(path, done)
        if last < done:
            logger.warning("%s: the figures of steps %d to %d are not there", path, last + 1, done)
        self._file: IO[bytes] = path.open("ab")
        self._file.truncate(kept)

    def add(self, step: int, figures: Mapping[str, float], *, sample: Mapping[str, str] | None = None) -> None:
        """A line stands in the file; it outlives the process from now on, the machine from `sync` on."""
        line: dict[str, Json] = {"step": step, "unix_ms": int(time.time() * 1000), **figures}
        if sample is not None:
            line[SAMPLE] = dict(sample)
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Every line is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """The file is closed."""
        self._file.close()


class Recording:
    """The log of a training's steps, as every rank sees it: rank 0 has it, the others None."""

    def __init__(self, log: StepLog | None) -> None:
        self._log = log

    def sync(self) -> None:
        """What was recorded is on the disk: a checkpoint may follow that a resumed run goes on from."""
        if self._log is not None:
            self._log.sync()

    def close(self) -> None:
        """Nothing more comes."""
        if self._log is not None:
            self.sync()
            self._log.close()


def read_steps(path: Path) -> Iterator[Entry]:
    """The lines of a steps.jsonl; none where there is no file."""
    if path.exists():
        with path.open("rb") as file:
            yield from map(_parse, file)


def _measure_prefix(path: Path, done: int) -> tuple[int, int]:
    """(bytes of the lines up to step `done`, the last of their steps, or 0)."""
    size = last = 0
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                try:
                    step = _parse(line).step
                except (ValueError, KeyError):  # the machine went down in the middle of it
                    break
                if step > done or not line.endswith(b"\n"):
                    break
                size, last = size + len(line), step
    return size, last


def _parse(line: bytes) -> Entry:
    fields = json.loads(line)
    step, unix_ms, sample = fields.pop("step"), fields.pop("unix_ms"), fields.pop(SAMPLE, None)
    return Entry(step, unix_ms, fields, sample)


def _thin(points: list[list[float]]) -> Json:
    stride = -(-len(points) // MAX_POINTS)
    return [list(point) for point in points[::-1][::stride][::-1]]
