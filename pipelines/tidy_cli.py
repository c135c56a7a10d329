"""`gptmill gc`: shows what of a workspace nobody needs, and removes it."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gpt_core.errors import InputError
from gpt_core.report.units import size
from gpt_core.store_uri import without_secrets
from pipelines.display import PIPED_WIDTH
from pipelines.tidy import DAY_SECONDS, FAILED, Item, find_rubbish, remove
from pipelines.workspace import open_workspace


def collect(workspace: Path, *, yes: bool, keep_days: float | None) -> None:
    """What can go is shown, and gone once a person, or `yes`, said so. Raises InputError where nobody can be asked."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    root = open_workspace(workspace)
    found = find_rubbish(root, keep_days=keep_days)
    for note in found.notes:
        console.print(without_secrets(note), soft_wrap=True, markup=False)
    if not found.items:
        console.print("nothing to remove")
        return
    console.print(rubbish_table(found.items, root))
    _require_consent(yes)
    still = {item.path for item in find_rubbish(root, keep_days=keep_days).items}  # it may have taken long to answer
    freed_bytes, stayed = 0, dict[Path, str]()
    for item in found.items:
        problem = remove(item, root) if item.path in still else "is needed by now"
        if problem is None:
            freed_bytes += item.size_bytes
        else:
            stayed[item.path] = problem
    for path, problem in stayed.items():
        console.print(f"{path.relative_to(root)}: {problem}", soft_wrap=True, markup=False)
    console.print(f"removed {len(found.items) - len(stayed)} of {len(found.items)}, {size(freed_bytes)}")
    if any(problem.startswith(FAILED) for problem in stayed.values()):
        raise typer.Exit(2)


def rubbish_table(items: Sequence[Item], workspace: Path) -> Table:
    """A line for each, the largest first, and how much they are together."""
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("path", overflow="fold")
    table.add_column("why", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    now = time.time()
    for item in sorted(items, key=lambda item: (-item.size_bytes, item.path)):
        path = escape(str(item.path.relative_to(workspace)))
        table.add_row(path, escape(item.why), size(item.size_bytes), _age(now - item.changed))
    table.add_section()
    table.add_row(f"{len(items)} in all", "", size(sum(item.size_bytes for item in items)), "")
    return table


def _age(seconds: float) -> str:
    """3 d, 5 h."""
    return f"{seconds / DAY_SECONDS:,.0f} d" if seconds >= DAY_SECONDS else f"{seconds / 3600:.0f} h"


def at_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty()


def _require_consent(yes: bool) -> None:
    if yes:
        return
    if not at_terminal():
        raise InputError("nothing is removed: this is no terminal to ask at; give --yes")
    if not typer.confirm("remove all of these?"):
        raise typer.Exit(0)
