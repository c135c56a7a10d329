"""SIGTERM as a wish: what runs notes it and leaves at a place of its own choosing."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def note_sigterm() -> Iterator[Callable[[], bool]]:
    """Inside, a SIGTERM ends nothing; the function given says whether one has come."""
    come = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: come.set())
    try:
        yield come.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
