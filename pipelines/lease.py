"""One runner a stage: a lease with a heartbeat in the stage's output folder.

The file names its owner. An owner among the processes that we see has lost the lease once it has ended; any other, of
another machine or container, once its heartbeat, the file's time of change, is older than STALE_SECONDS by the clock of
the file server: the machines' own may differ.

Who takes the lease of one that is gone puts its file aside and looks again at what it holds: where the owner was faster
after all, it gets the file back. An owner that wakes and finds another's name, or none, has lost the lease for good.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import TracebackType
from typing import Any
from uuid import uuid4

import psutil

from gpt_core.artifact import utc_now
from gpt_core.errors import BusyError

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
ASIDE_SECONDS = 0.5
CLOCK_STEP_SECONDS = 60.0  # a machine's clock may be put right by so much while a runner lives
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PROCESS_NAMESPACE = Path("/proc/self/ns/pid")
LEASE = ".lease"

Owner = Mapping[str, Any]  # host, pid, since (UTC), processes (what the pid is unique in), id


class Lease:
    """Held inside its `with` block, as long as `require` is content.

    While another runner holds it, `pause` is called with its owner, again and again; without `pause`, BusyError names
    the owner.
    """

    def __init__(self, output: Path, *, pause: Callable[[Owner], None] | None = None) -> None:
        self.path = output / LEASE
        self.pause = pause
        self.owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": utc_now(),
            "processes": _process_space(),
            "id": uuid4().hex,
        }
        self.lost = False
        self.ended = threading.Event()
        self.heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Lease":
        while not self._take():
            found, alive = _look(self.path)
            if not alive:
                self._put_aside(found)
            elif self.pause is None:
                raise busy(self.path.parent, found)
            else:
                self.pause(found)
        self.heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self.heart.join()
        if _read(self.path) == self.owner:
            self.path.unlink(missing_ok=True)

    def require(self) -> None:
        """The heart has found the lease lost: raises BusyError that names who has it. Cheap."""
        if self.lost:
            now = _read(self.path)
            who = f"{_name(now)} has it now" if now else "who took it has ended"
            raise BusyError(
                f"{self.path.parent}: this runner was away for more than {STALE_SECONDS:.0f} s and has lost the stage; "
                f"{who}; run again"
            )

    def confirm(self) -> None:
        """The lease is held at this moment. Raises BusyError as `require` does."""
        self.lost = self.lost or not self._is_held()
        self.require()

    def _take(self) -> bool:
        """The file names this runner; False where it names another. It appears whole, or not at all."""
        if self.path.exists():
            return False
        draft = _beside(self.path) / f".lease-{uuid4().hex}"
        draft.write_text(json.dumps(self.owner), encoding="utf-8")
        try:
            os.link(draft, self.path)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def _is_held(self) -> bool:
        """The file names this runner. Who mistakes it for a dead one's puts it aside for a moment and back."""
        if _read(self.path) == self.owner:
            return True
        time.sleep(ASIDE_SECONDS)
        return _read(self.path) == self.owner

    def _beat(self) -> None:
        while not self.ended.wait(BEAT_SECONDS):
            with suppress(OSError):  # a file server that is away has no other's name for us either
                self.lost = not self._is_held()
                if self.lost:
                    return
                os.utime(self.path)

    def _put_aside(self, judged: Owner) -> None:
        """The lease `judged`, whose owner is gone, is no obstacle. One that was taken or renewed since stays."""
        aside = _beside(self.path) / f".lease-{uuid4().hex}"
        try:
            before = self.path.stat().st_mtime_ns
            self.path.rename(aside)
        except FileNotFoundError:  # another was faster
            return
        if _read(aside) != judged or aside.stat().st_mtime_ns != before:
            with suppress(FileExistsError):
                os.link(aside, self.path)
        aside.unlink()


def busy(output: Path, owner: Owner) -> BusyError:
    """What to raise where `owner` holds the stage in `output`."""
    return BusyError(
        f"{output}: {_name(owner)} has been making this stage since {owner['since']}; wait for it (`gptmill run "
        "--wait` does), or stop it and run again"
    )


def lease_owner(output: Path) -> dict[str, Any] | None:
    """Host, pid and start of the living runner that holds the stage in `output`, or None."""
    owner, alive = _look(output / LEASE)
    return dict(owner) if alive else None


def server_time(folder: Path) -> float:
    """The time now, in seconds, as the file server of `folder` tells it: what its files' times compare to.

    Who may only read there has this machine's clock alone.
    """
    try:
        with NamedTemporaryFile(dir=folder, prefix=".clock-") as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:
        return time.time()


def _look(path: Path) -> tuple[Owner, bool]:
    """(owner, whether it is alive); nobody is not."""
    try:
        changed = path.stat().st_mtime
        owner = _read(path)
        if owner.get("processes") == _process_space():
            return owner, _runs(owner)
        return owner, bool(owner) and server_time(_beside(path)) - changed < STALE_SECONDS
    except FileNotFoundError:
        return {}, False


def _read(path: Path) -> Owner:
    """What the lease says; nothing where there is none, or where a crash of the machine left it empty."""
    try:
        owner: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return owner


def _runs(owner: Owner) -> bool:
    """Whether the owner's process is there; a later one that got its number is not."""
    try:
        process = psutil.Process(owner["pid"])
        ended, begun = process.status() == psutil.STATUS_ZOMBIE, process.create_time()
    except psutil.NoSuchProcess:
        return False
    return not ended and begun < datetime.fromisoformat(owner["since"]).timestamp() + CLOCK_STEP_SECONDS


def _process_space() -> str:
    """What process ids are unique in: this boot of this machine, and a container's own."""
    try:
        return f"{BOOT_ID.read_text(encoding='ascii').strip()} {PROCESS_NAMESPACE.stat().st_ino}"
    except OSError:  # not Linux
        return socket.gethostname()


def _beside(path: Path) -> Path:
    """Where drafts stand: a job that begins empties the output folder."""
    return path.parent.parent


def _name(owner: Owner) -> str:
    return f"process {owner['pid']} on {owner['host']}"
