"""SIGTERM as a wish: a training notes it, and all its ranks leave behind a checkpoint of the same step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gpt_core.errors import PreemptedError
from gpt_core.training.checkpoint import Checkpoints
from gpt_core.training.engine import Engine
from gpt_core.training.loop import StepFigures


@contextmanager
def note_sigterm() -> Iterator[Callable[[], bool]]:
    """Inside, a SIGTERM ends nothing; the function given says whether one has come."""
    come = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: come.set())
    try:
        yield come.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class Keeper:
    """Keeps the steps of a training, as one rank sees it; `stop_requested` is what `note_sigterm` gives."""

    checkpoints: Checkpoints
    engine: Engine
    stop_requested: Callable[[], bool]

    def signals(self) -> tuple[bool, bool]:
        """What `train` is to ask in each step."""
        return self.stop_requested(), self.checkpoints.written

    def keep(self, figures: StepFigures, save: Callable[[], None], *, due: bool) -> None:
        """`save` has made a checkpoint of this step where one is due; one that was written in the background is whole.

        Every rank must call, in each step. Raises PreemptedError, on all ranks alike, behind a checkpoint of this
        step, where a rank was asked to stop.
        """
        stopped, written = figures.signals
        if due or stopped:
            save()
        elif written == self.engine.world_size:
            self.checkpoints.complete(self.engine)
        if stopped:
            self.checkpoints.complete(self.engine)
            raise PreemptedError(f"SIGTERM stopped it behind step {figures.step}; {self.checkpoints.way_on()}")
