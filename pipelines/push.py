"""Copies a recipe's shards to an object store, and shows how far it is."""

import time

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from gpt_core.artifact import Artifact
from gpt_core.data.push import Pushed, push_output
from pipelines.display import PLAIN_LINE_SECONDS


def push_shards(shards: Artifact, uri: str, *, console: Console) -> Pushed:
    """A whole copy of the shards stands below `uri`. Raises as push_output."""
    with _Bar(console) as bar:
        return push_output(shards, uri, report=bar.show)


class _Bar:
    """A bar on a terminal; elsewhere a line now and then."""

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

    def __enter__(self) -> "_Bar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, path: str, done: int, total: int) -> None:
        """`done` of `total` bytes stand there; `path` is on its way. May be called from any thread, often."""
        self.progress.update(self.task, description=path, completed=done, total=total)
        if not self.console.is_terminal and time.monotonic() - self.spoken > PLAIN_LINE_SECONDS:
            self.spoken = time.monotonic()
            self.console.print(f"  {done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {path}", highlight=False, soft_wrap=True)
