"""What a person sees while stages run: live bars on a terminal, plain lines elsewhere."""

import json
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from jobs.job import PROGRESS

PLAIN_LINE_SECONDS = 15.0


class StageDisplay:
    """Shows one stage from start to end; `update` reads the job's progress.json and may be called often."""

    def __init__(self, console: Console, *, stage: str, output: Path) -> None:
        self.console = console
        self.stage = stage
        self.path = output / PROGRESS
        self.started = time.monotonic()
        self.first: tuple[float, float] | None = None  # when the first progress was seen, and how far it was
        self.spoken = self.started
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task: TaskID = self.progress.add_task(stage, total=None, state="starting")

    def __enter__(self) -> "StageDisplay":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def update(self) -> None:
        """Show the progress that the job last reported, if any."""
        try:
            report = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        now, done, total = time.monotonic(), report["done"], report["total"]
        self.first = self.first or (now, done)
        elapsed = now - self.first[0]
        rate = (done - self.first[1]) / elapsed if elapsed > 1 else 0.0
        state = describe_progress(done, total, report["unit"], rate=rate, measures=report["measures"])
        self.progress.update(self.task, completed=done, total=total, state=state)
        if not self.console.is_terminal and now - self.spoken > PLAIN_LINE_SECONDS:
            self.spoken = now
            left = f", {(total - done) / rate:,.0f} s left" if total and rate and done < total else ""
            self.console.print(f"  {self.stage}: {state}{left}", highlight=False, soft_wrap=True)


class ByteBar:
    """How many bytes are dealt with: a bar on a terminal; elsewhere a line now and then."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.spoken = time.monotonic()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task("", total=None)

    def __enter__(self) -> "ByteBar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, path: str, done: int, total: int) -> None:
        """`done` of `total` bytes are; `path` is at work. May be called from any thread, often."""
        self.progress.update(self.task, description=path, completed=done, total=total)
        if not self.console.is_terminal and time.monotonic() - self.spoken > PLAIN_LINE_SECONDS:
            self.spoken = time.monotonic()
            self.console.print(f"  {done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {path}", highlight=False, soft_wrap=True)


def describe_progress(done: float, total: float | None, unit: str, *, rate: float, measures: dict[str, float]) -> str:
    """`1,024 of 4,096 tokens, 310 tokens/s, loss 3.2`. `mfu` is a share, `seconds_left` is no measure."""
    parts = [f"{done:,.0f} of {total:,.0f} {unit}" if total else f"{done:,.0f} {unit}"]
    if rate > 0:
        parts.append(f"{rate:,.0f} {unit}/s")
    for name, value in measures.items():
        if name == "mfu":
            parts.append(f"MFU {value:.1%}")
        elif name != "seconds_left":
            parts.append(f"{name.replace('_', ' ')} {value:.4g}")
    return ", ".join(parts)
