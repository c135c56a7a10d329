"""How sure a figure is: 95 % intervals by resampling the test set, or over seeds.

The bootstrap draws as many examples as there are, with replacement, RESAMPLES times, and takes the 2.5th and 97.5th
percentile of the headline (Efron and Tibshirani 1993, section 13.3). What is drawn depends on the seed and the number
of examples alone, so that two models are compared on the same resamples: their difference is paired.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt_core.tasks.scores import Floats, Values, headline_of_sums, headline_terms
from gpt_core.tasks.spec import Target

RESAMPLES = 1000
LEVEL = 0.95
CHUNK_BYTES = 2**26  # of the resamples' weights that stand at once


@dataclass(frozen=True)
class Interval:
    """Where the figure lies, with LEVEL."""

    low: float
    high: float


def resample_headline(target: Target, labels: Values, outputs: Values, *, seed: int) -> Floats:
    """(RESAMPLES,): the headline of each resample of the examples."""
    terms = headline_terms(target, labels, outputs)  # (n, k)
    random = np.random.default_rng(seed)
    n = len(terms)
    size = max(1, CHUNK_BYTES // (8 * n))
    sums = np.empty((RESAMPLES, terms.shape[1]))
    for start in range(0, RESAMPLES, size):
        part = range(start, min(start + size, RESAMPLES))
        weights = np.stack([np.bincount(random.integers(n, size=n), minlength=n) for _ in part])  # (R, n)
        sums[part.start : part.stop] = weights.astype(np.float64) @ terms
    return headline_of_sums(target, sums)


def percentile_interval(values: Floats) -> Interval:
    """Of a figure whose resamples have `values` (RESAMPLES,)."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Interval(low, high)


def t_interval(values: Sequence[float]) -> Interval:
    """Of the mean of two or more independent `values`, by Student's t."""
    from scipy.stats import t

    reach = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * spread(values) / math.sqrt(len(values))
    mean = math.fsum(values) / len(values)
    return Interval(mean - reach, mean + reach)


def spread(values: Sequence[float]) -> float:
    """The standard deviation of two or more values, with n - 1."""
    return float(np.std(values, ddof=1))
