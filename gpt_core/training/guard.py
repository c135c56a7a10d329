"""Which steps are taken: those with finite figures and, with a spike factor, none far above the recent ones.

The figures are the same on all ranks, and so are the verdicts; the state goes into checkpoints, so that a resumed run
skips what the uninterrupted one skipped.
"""

import logging
import math
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Self

from gpt_core.errors import StageError
from gpt_core.fingerprint import Json
from gpt_core.recipe import Optimization

WINDOW = 64  # taken steps that a spike is measured against; before so many have been taken there is none

logger = logging.getLogger("gptmill")


class Guard:
    """The losses and gradient norms of the last WINDOW steps taken, and how many in a row were skipped since."""

    def __init__(self, *, spike_factor: float | None = None, max_skipped_steps: int = 4) -> None:
        self.spike_factor, self.max_skipped_steps = spike_factor, max_skipped_steps
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._norms: deque[float] = deque(maxlen=WINDOW)
        self._skipped_in_a_row = 0

    @classmethod
    def of_settings(cls, settings: Optimization, state: Json = None) -> Self:
        """The recipe's guard, gone on from `state`, what a former guard's `state` gave."""
        guard = cls(spike_factor=settings.spike_factor, max_skipped_steps=settings.max_skipped_steps)
        if isinstance(state, dict):
            guard._losses.extend(_floats(state["losses"]))
            guard._norms.extend(_floats(state["norms"]))
            guard._skipped_in_a_row = int(_floats([state["skipped_in_a_row"]])[0])
        return guard

    def state(self) -> dict[str, Json]:
        """All that `of_settings` needs to go on from here."""
        losses: list[Json] = [*self._losses]
        norms: list[Json] = [*self._norms]
        return {"losses": losses, "norms": norms, "skipped_in_a_row": self._skipped_in_a_row}

    def norm_limit(self, loss: float) -> float:
        """The greatest gradient norm with which a step of this loss may be taken; -inf: with none."""
        limit = self._limit(self._norms)
        return limit if math.isfinite(loss) and loss <= self._limit(self._losses) else -math.inf

    def judge(self, step: int, *, loss: float, norm: float) -> bool:
        """Whether the step was taken; notes its figures. `step` counts from 1.

        Raises StageError where more than `max_skipped_steps` in a row were not.
        """
        taken = math.isfinite(norm) and norm <= self.norm_limit(loss)
        if taken:
            self._losses.append(loss)
            self._norms.append(norm)
            self._skipped_in_a_row = 0
            return True
        self._skipped_in_a_row += 1
        reason = f"step {step}: the loss is {loss:g} and the gradient norm {norm:g}"
        if math.isfinite(loss) and math.isfinite(norm):
            reason += f", their medians are {median(self._losses):g} and {median(self._norms):g}"
        if self._skipped_in_a_row > self.max_skipped_steps:
            raise StageError(
                f"{reason}, step {self._skipped_in_a_row} of its kind in a row; lower the learning rate or warm up"
            )
        logger.warning("%s; it is skipped", reason)
        return False

    def _limit(self, figures: Sequence[float]) -> float:
        if self.spike_factor is None or len(figures) < WINDOW:
            return math.inf
        return self.spike_factor * median(figures)


def _floats(values: Json) -> list[float]:
    assert isinstance(values, list), values
    return [float(value) for value in values if isinstance(value, int | float)]
