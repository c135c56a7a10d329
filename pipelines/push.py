"""Copies a recipe's shards to an object store, and shows how far it is."""

import time

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from gpt_core.artifact import open_artifact
from gpt_core.data.push import Pushed, push_output
from gpt_core.errors import InputError
from gpt_core.recipe import Recipe
from gpt_core.store_uri import store_uri_problem
from pipelines.display import PLAIN_LINE_SECONDS
from pipelines.plan import make_plan


def push_shards(recipe: Recipe, uri: str, *, console: Console) -> Pushed:
    """A whole copy of the resolved recipe's shards stands below `uri`.

    Raises InputError where the URI cannot be used or the shards are not made yet, and as push_output does.
    """
    problem = store_uri_problem(uri)
    if problem is not None:
        raise InputError(f"URI: {problem}")
    (planned,) = [planned for planned in make_plan(recipe) if planned.stage.name == "shards"]
    artifact = open_artifact(planned.output)
    if artifact is None:
        raise InputError(f"{recipe.name}: its shards are not made yet; run with --until shards")
    with _Bar(console) as bar:
        return push_output(artifact, uri, report=bar.show)


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
