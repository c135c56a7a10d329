"""A request to stop a stage: anybody who can write to the workspace makes it, from any machine; its runner obeys.

`cancel.json` in the stage's output: {"user", "host", "at"}, who asks, from where, when (UTC). The runner that makes
the stage, and every other that waits to make it, stops; the one that holds the lease also stops the job, on a cluster
too, and then renames the file to `cancelled.json`: the answer. A request counts for runs that were under way when it
was made; a later run goes on as if there were none. Which came first the file server's clock says.
"""

import getpass
import json
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gpt_core.artifact import utc_now, write_json
from jobs.job import CANCEL

CANCELLED = "cancelled.json"


@dataclass(frozen=True)
class CancelRequest:
    """Who asks."""

    user: str
    host: str
    at: str  # UTC

    def __str__(self) -> str:
        return f"cancelled by {self.user} on {self.host} at {self.at}"


def request_cancel(output: Path) -> CancelRequest:
    """The runners that make or await the stage in `output` will stop."""
    request = CancelRequest(getpass.getuser(), socket.gethostname(), utc_now())
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / CANCEL, asdict(request))
    return request


def read_cancel(output: Path, *, since: float) -> CancelRequest | None:
    """The request that was made, or obeyed, after `since`, in seconds of lease.server_time."""
    for name in (CANCEL, CANCELLED):
        with suppress(OSError, ValueError):  # there is none; it is being written
            if (output / name).stat().st_mtime >= since:
                return CancelRequest(**json.loads((output / name).read_text(encoding="utf-8")))
    return None


def answer_cancel(output: Path) -> None:
    """No request waits in `output`; who asked sees that it was obeyed."""
    with suppress(FileNotFoundError):
        (output / CANCEL).replace(output / CANCELLED)


def drop_cancel(output: Path, *, before: float) -> None:
    """Requests older than `before`, in seconds of lease.server_time, are gone: no run of their time is left."""
    for name in (CANCEL, CANCELLED):
        with suppress(FileNotFoundError):
            if (output / name).stat().st_mtime < before:
                (output / name).unlink()
