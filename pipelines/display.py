"""What a person sees while stages run: live bars on a terminal, plain lines elsewhere."""

import json
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

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
from rich.table import Column

from gpt_core.report.units import compact
from jobs.job import PROGRESS
from pipelines.events import PROGRESS_SECONDS, Events

PLAIN_LINE_SECONDS = 15.0
PIPED_WIDTH = 100_000  # a line of a tree or a table is a line of a file


class StageDisplay:
    """Shows one stage from start to end; `update` reads the job's progress.json and may be called often."""

    def __init__(self, console: Console, events: Events, *, stage: str, output: Path) -> None:
        self.console = console
        self.events = events
        self.stage = stage
        self.path = output / PROGRESS
        self.started = time.monotonic()
        self.unit = ""  # of what is counted now: a job may count one thing after another
        self.first = (0.0, 0.0)  # when its first progress was seen, and how far it was
        self.spoken = self.started
        self.told = self.started - PROGRESS_SECONDS  # the last event
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=12),  # with the figures of a training beside it, a line has 80 characters
            TextColumn("{task.fields[state]}", table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[left]}", style="progress.remaining"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task: TaskID = self.progress.add_task(stage, total=None, state="starting", left="")

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
        if report["unit"] != self.unit or done < self.first[1]:
            self.unit, self.first = report["unit"], (now, done)
        if now - self.told >= PROGRESS_SECONDS:
            self.told = now
            self.events.tell("progress", report, stage=self.stage)
        elapsed = now - self.first[0]
        rate = (done - self.first[1]) / elapsed if elapsed > 1 else 0.0
        left = report["measures"].get("seconds_left", (total - done) / rate if total and rate else None)
        clock = "" if left is None else str(timedelta(seconds=round(left)))
        self.progress.update(self.task, completed=done, total=total, state=_describe_briefly(report, rate), left=clock)
        if not self.console.is_terminal and now - self.spoken > PLAIN_LINE_SECONDS:
            self.spoken = now
            state = describe_progress(done, total, report["unit"], rate=rate, measures=report["measures"])
            told = f", {left:,.0f} s left" if left and done < total else ""
            self.console.print(f"  {self.stage}: {state}{told}", highlight=False, soft_wrap=True)


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
    """`1,024 of 4,096 tokens, 310 tokens/s, loss 3.2`. `mfu` is a share, `seconds_left` is told elsewhere."""
    parts = [f"{done:,.0f} of {total:,.0f} {unit}" if total else f"{done:,.0f} {unit}"]
    if rate > 0:
        parts.append(f"{rate:,.0f} {unit}/s")
    for name, value in measures.items():
        if name == "mfu":
            parts.append(f"MFU {value:.1%}")
        elif name != "seconds_left":
            parts.append(f"{name.replace('_', ' ')} {value:.4g}")
    return ", ".join(parts)


def _describe_briefly(report: dict[str, Any], rate: float) -> str:
    """What stands beside a bar: a training's figures, in 46 characters; of other stages how far they are."""
    short = {"validation_loss": "val", "skipped_steps": "skipped"}
    if "loss" not in report["measures"]:
        return describe_progress(report["done"], report["total"], report["unit"], rate=rate, measures={})
    speed = [f"{compact(rate)} {report['unit']}/s"] if rate > 0 else []
    shown = {short.get(name, name): value for name, value in report["measures"].items() if name != "seconds_left"}
    figures = [f"MFU {value:.1%}" if name == "mfu" else f"{name} {value:.4g}" for name, value in shown.items()]
    return ", ".join([*speed, *figures])
