"""Learning rates over the steps of a run: linear warm-up, then cosine, linear or no decay."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Rises linearly to `peak` over `warmup_steps`, then falls to `final` x `peak` at the last of `steps`."""

    shape: Literal["cosine", "linear", "constant"]
    peak: float
    final: float
    warmup_steps: int
    steps: int

    def learning_rate(self, step: int) -> float:
        """The rate of `step`, from 0. The first warm-up step already moves; the last step has the final rate."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.shape == "constant":
            return self.peak
        progress = (step + 1 - self.warmup_steps) / max(1, self.steps - self.warmup_steps)  # in (0, 1]
        fall = 0.5 * (1 + math.cos(math.pi * progress)) if self.shape == "cosine" else 1 - progress
        return self.peak * (self.final + (1 - self.final) * fall)
