"""One runner a stage: a lease with a heartbeat in the stage's output folder.

The file names its owner. An owner of this machine that no longer runs has lost the lease at once; one of another
machine has lost it when its heartbeat, the file's time of change, is older than STALE_SECONDS.
"""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from gpt_core.artifact import utc_now
from gpt_core.errors import UserError

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0


class Lease:
    """Held inside its `with` block. Raises UserError that names the owner if another runner holds it."""

    def __init__(self, output: Path) -> None:
        self.path = output / ".lease"
        self.ended = threading.Event()
        self.heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Lease":
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": utc_now()}
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        draft.write_text(json.dumps(owner), encoding="utf-8")
        try:
            while True:
                with suppress(FileExistsError):
                    os.link(draft, self.path)  # appears whole, or not at all
                    break
                self._clear_if_dead()
        finally:
            draft.unlink()
        self.heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self.heart.join()
        self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self.ended.wait(BEAT_SECONDS):
            os.utime(self.path)

    def _clear_if_dead(self) -> None:
        """Remove the lease of an owner that is gone; raise UserError if it is alive."""
        owner = lease_owner(self.path.parent)
        if owner is not None:
            raise UserError(
                f"{self.path.parent}: process {owner['pid']} on {owner['host']} has been making this stage since "
                f"{owner['since']}; wait for it, or stop it and run again"
            )
        self.path.unlink(missing_ok=True)


def lease_owner(output: Path) -> dict[str, Any] | None:
    """Host, pid and start of the living runner that holds the stage in `output`, or None."""
    path = output / ".lease"
    try:
        age_seconds = time.time() - path.stat().st_mtime
        owner: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # there is none
        return None
    here = owner["host"] == socket.gethostname()
    alive = psutil.pid_exists(owner["pid"]) if here else age_seconds < STALE_SECONDS
    return owner if alive else None
