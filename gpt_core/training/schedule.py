"""Learning rates over the steps of a run: linear warm-up, then one of four shapes."""

import math
from dataclasses import dataclass
from typing import Literal, Self

from gpt_core.recipe import Recipe

WSD_DECAY = 5  # the schedule's last fifth decays, where the recipe does not say how many tokens


@dataclass(frozen=True)
class Schedule:
    """Rises linearly to `peak` over `warmup_steps`, then falls to `final` x `peak` at the last of `steps`.

    `cosine` and `linear` fall from the warm-up on, `wsd` over the last `decay_steps`, linearly (Hu et al. 2024,
    section 4), `constant` never.
    """

    shape: Literal["cosine", "linear", "wsd", "constant"]
    peak: float
    final: float
    warmup_steps: int
    steps: int
    decay_steps: int = 0  # of wsd

    @classmethod
    def of_pretraining(cls, recipe: Recipe) -> Self:
        """The schedule of the recipe's pre-training; its tokens as whole steps, rounded up."""
        settings = recipe.pretrain
        decay_tokens = settings.decay_tokens or settings.tokens // WSD_DECAY
        return cls(
            shape=settings.schedule,
            peak=settings.learning_rate,
            final=settings.final_learning_rate,
            warmup_steps=math.ceil(settings.warmup_tokens / recipe.step_tokens),
            steps=recipe.pretrain_steps,
            decay_steps=math.ceil(decay_tokens / recipe.step_tokens),
        )

    def share(self, step: int) -> float:
        """The share of the peak at `step`, from 0. The first warm-up step already moves; the last step has `final`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.shape == "constant":
            return 1.0
        start = max(self.warmup_steps, self.steps - self.decay_steps) if self.shape == "wsd" else self.warmup_steps
        progress = max(0, step + 1 - start) / max(1, self.steps - start)  # in [0, 1]
        fall = 0.5 * (1 + math.cos(math.pi * progress)) if self.shape == "cosine" else 1 - progress
        return self.final + (1 - self.final) * fall

    def learning_rate(self, step: int) -> float:
        """The rate of `step`, from 0."""
        return self.peak * self.share(step)
