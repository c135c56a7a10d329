"""Training metrics on their way to a tracking server: a bounded queue and one thread that sends batches.

The training loop pays a queue's put for a step and never waits for the network. While the server is away batches
are tried again with growing pauses; when the queue is full, or the time for closing is over, points are left out, and
a warning says how many: the output's files have them, from which the runner sends them at the end. The thread is a
daemon; `close()` sends what is left, at the latest when Python exits.
"""

import atexit
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from gpt_core.store_uri import without_secrets

BATCH_POINTS = 500  # MLflow takes 1,000 a request
CAPACITY_POINTS = 20_000  # about 2 MB: an hour without a server at 5 points a second
GATHER_SECONDS = 1.0  # points of a second share a request
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.5, 30.0
CLOSE_SECONDS = 30.0

logger = logging.getLogger("gptmill")


class Point(NamedTuple):
    """One value of one metric; the time is Unix milliseconds."""

    key: str
    value: float
    timestamp_ms: int
    step: int


class Note(NamedTuple):
    """A tag of the run, or a text file among its artifacts."""

    kind: Literal["tag", "file"]
    name: str
    text: str


Item = Point | Note


class RefusedError(Exception):
    """The server answers and will never take this batch: it is dropped, not tried again."""


class MetricQueue:
    """Callable as `queue(step, {"train_loss": 3.2})`; points and notes reach `send` in order, in batches, on a thread.

    `send` raises RefusedError for a batch that is hopeless and anything else for one worth another try: all of it is
    then sent again.
    """

    def __init__(
        self,
        send: Callable[[list[Item]], None],
        *,
        capacity_points: int = CAPACITY_POINTS,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        self.unsent_points = 0
        self._send = send
        self._points: queue.Queue[Item] = queue.Queue(capacity_points)
        self._first_pause_seconds = first_pause_seconds
        self._close_seconds = close_seconds
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._warned = False
        self._accepted = self._settled = 0
        self._thread = threading.Thread(target=self._work, name="metrics", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def __call__(self, step: int, values: Mapping[str, float], *, unix_ms: int | None = None) -> None:
        """The values of `step` are on their way. Never blocks and never raises on account of the server."""
        when = int(time.time() * 1000) if unix_ms is None else unix_ms
        for key, value in values.items():
            self._put(Point(key, float(value), when, step))

    def tag(self, name: str, text: str) -> None:
        """The tag is on its way, as points are."""
        self._put(Note("tag", name, text))

    def text(self, path: str, text: str) -> None:
        """The text file is on its way, as points are."""
        self._put(Note("file", path, text))

    def _put(self, item: Item) -> None:
        try:
            self._points.put_nowait(item)
            self._accepted += 1
        except queue.Full:
            self._leave_out(1, "the server is too slow or away, and the queue is full")

    def close(self) -> None:
        """What could be sent is sent; waits `close_seconds` and one request at most. Later calls do nothing."""
        if self._closing.is_set():
            return
        self._deadline = time.monotonic() + self._close_seconds
        self._closing.set()
        atexit.unregister(self.close)
        self._thread.join(self._close_seconds + 1.0)
        unsent = self.unsent_points + (self._accepted - self._settled)  # the rest hangs in a request
        if unsent:
            logger.warning(
                "MLflow: %d points of the metrics were not sent; the runner sends them when the stage ends", unsent
            )

    def _work(self) -> None:
        while batch := self._next_batch():
            self._deliver(batch)
            self._settled += len(batch)

    def _next_batch(self) -> list[Item]:
        """At least one point, up to BATCH_POINTS; empty when the queue is closing and drained."""
        batch: list[Item] = []
        while len(batch) < BATCH_POINTS:
            try:
                batch.append(self._points.get_nowait())
            except queue.Empty:
                if batch or self._closing.is_set():
                    break
                self._closing.wait(GATHER_SECONDS)
        return batch

    def _deliver(self, batch: list[Item]) -> None:
        """`batch` is sent, or counted as unsent: refused, or still failing when the time for closing is over."""
        pause = self._first_pause_seconds
        while True:
            try:
                return self._send(batch)
            except RefusedError as error:
                return self._leave_out(len(batch), str(error))
            except Exception as error:  # whatever a client raises while its server is away
                if time.monotonic() + pause > self._deadline:
                    return self._leave_out(len(batch), reason_of(error))
                if not self._warned:
                    logger.warning("MLflow: metrics cannot be sent, trying on: %s", reason_of(error))
                    self._warned = True
            if self._closing.wait(pause):
                pause = self._first_pause_seconds
                time.sleep(pause)
            else:
                pause = min(2 * pause, LAST_PAUSE_SECONDS)

    def _leave_out(self, n_points: int, why: str) -> None:
        if not self.unsent_points:
            logger.warning("MLflow: metrics are being left out: %s", why)
        self.unsent_points += n_points


def reason_of(error: Exception) -> str:
    """The system's word for a failed connection, a server's answer, or the first line of what `error` says.

    300 characters at most, without secrets.
    """
    said = str(error).strip()
    failed = re.search(r"(?:\[Errno -?\d+\] |Error\(\d+, ')([^\"'()]+)", said)
    if failed:
        return failed[1].rstrip(": ").lower()
    broken = re.search(r"too many (5\d\d) error responses", said)
    if broken:
        return f"{broken[1]} of the server, whose log says why"
    answered = re.search(r"failed with error code (\d+) != \d+\. Response body: '(.*)'$", said, re.DOTALL)
    cause = re.search(r"\(Caused by (.+)\)$", said, re.DOTALL)  # behind a URL that would take all the room
    lines = (f"{answered[1]} {answered[2]}" if answered else cause[1] if cause else said).splitlines()
    return without_secrets(lines[0] if lines else type(error).__name__)[:300]
