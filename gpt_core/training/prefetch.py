"""The batch of the next step, made on a thread while this one is computed."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

Batch = TypeVar("Batch")


class Prefetch(Generic[Batch]):
    """`prefetch(step)` is `make(step)`, which was begun when the step before was asked for, `make(first)` at once.

    `make` runs on one thread, in the order of the steps, for steps below `stop` alone and never more than one ahead;
    what it raises is raised where its step is asked for. `waited_seconds` adds up how long the caller stood still. Use
    it as a context.
    """

    def __init__(self, make: Callable[[int], Batch], *, first: int, stop: int) -> None:
        self.waited_seconds = 0.0
        self._make = make
        self._stop = stop
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[Batch]] | None = None
        self._begin(first)

    def __call__(self, step: int) -> Batch:
        """The batch of `step`."""
        started = time.perf_counter()
        if self._ahead is None or self._ahead[0] != step:
            self._begin(step)
        assert self._ahead is not None, f"{step=} is beyond the last"
        batch = self._ahead[1].result()
        self.waited_seconds += time.perf_counter() - started
        self._begin(step + 1)
        return batch

    def _begin(self, step: int) -> None:
        self._ahead = (step, self._thread.submit(self._make, step)) if step < self._stop else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
