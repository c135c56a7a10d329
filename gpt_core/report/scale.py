"""Axes: numbers to places, and the round numbers worth a tick."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] on [start, stop], linearly or by logarithm. `ticks` are the round values in between."""

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of `value`."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return self.start + share * (self.stop - self.start)


def linear_scale(low: float, high: float, start: float, stop: float, *, ticks: int = 5, nice: bool = True) -> Scale:
    """About `ticks` ticks, each a multiple of 1, 2, 2.5 or 5 times a power of ten. `nice` widens to whole ticks."""
    if high <= low:
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    step = _round_step((high - low) / ticks)
    first, last = (
        (math.floor(low / step), math.ceil(high / step)) if nice else (math.ceil(low / step), math.floor(high / step))
    )
    if nice:
        low, high = first * step, last * step
    return Scale(low, high, start, stop, tuple(round(i * step, 12) for i in range(first, last + 1)))


def log_scale(low: float, high: float, start: float, stop: float, *, nice: bool = True) -> Scale:
    """Ticks at powers of ten, with 2 and 5 times them below two decades. `low` > 0. `nice` widens to whole ticks."""
    if high <= low:
        low, high = low / 2, high * 2
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = (1, 2, 5) if math.log10(high / low) < 2 else (1,)
    candidates = [factor * 10.0**decade for decade in decades for factor in every]
    if nice:
        low = max((value for value in candidates if value <= low), default=low)
        high = min((value for value in candidates if value >= high), default=high)
    return Scale(low, high, start, stop, tuple(v for v in candidates if low <= v <= high), log=True)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return float(min((factor * power for factor in (1, 2, 2.5, 5, 10)), key=lambda candidate: abs(candidate - step)))
