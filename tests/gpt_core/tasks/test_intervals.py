import numpy as np
import pytest

from gpt_core.tasks import intervals
from gpt_core.tasks.intervals import Interval, percentile_interval, resample_headline, spread, t_interval
from gpt_core.tasks.scores import headline_value


def draw(n: int, share: float, seed: int) -> np.ndarray:
    """Logits of two classes; `share` of the examples come out as class 0."""
    return np.eye(2)[(np.random.default_rng(seed).random(n) > share).astype(int)]


def test_the_interval_of_an_accuracy_is_that_of_a_share() -> None:
    labels, outputs = np.zeros(400, dtype=int), draw(400, 0.8, seed=0)
    p = headline_value("class", labels, outputs)
    reach = 1.96 * np.sqrt(p * (1 - p) / 400)
    interval = percentile_interval(resample_headline("class", labels, outputs, seed=0))
    assert interval.low == pytest.approx(p - reach, abs=0.006)
    assert interval.high == pytest.approx(p + reach, abs=0.006)


def test_a_resample_is_the_headline_of_the_examples_drawn() -> None:
    random = np.random.default_rng(3)
    labels, outputs = random.normal(size=30), random.normal(size=30)
    drawn = np.random.default_rng(7).integers(30, size=30)
    first = resample_headline("number", labels, outputs, seed=7)[0]
    assert first == pytest.approx(headline_value("number", labels[drawn], outputs[drawn]))


def test_the_difference_of_two_models_is_taken_on_the_same_resamples() -> None:
    """Ours is right wherever theirs is, and on 40 of 400 more: unpaired, the interval would be 0.03 to 0.17."""
    labels = np.zeros(400, dtype=int)
    theirs = draw(400, 0.6, seed=0)
    ours = theirs.copy()
    ours[np.flatnonzero(theirs[:, 1])[:40]] = [1.0, 0.0]
    gain = resample_headline("class", labels, ours, seed=1) - resample_headline("class", labels, theirs, seed=1)
    interval = percentile_interval(gain)
    assert interval.low > 0.06
    assert interval.high < 0.14


def test_the_resamples_do_not_depend_on_how_many_stand_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, outputs = np.zeros(50, dtype=int), draw(50, 0.5, seed=2)
    whole = resample_headline("class", labels, outputs, seed=4)
    monkeypatch.setattr(intervals, "CHUNK_BYTES", 50 * 8 * 3)
    assert resample_headline("class", labels, outputs, seed=4).tolist() == whole.tolist()


def test_a_t_interval_is_that_of_the_table() -> None:
    """Three values: t with two degrees of freedom is 4.303."""
    interval = t_interval([1.0, 2.0, 3.0])
    assert spread([1.0, 2.0, 3.0]) == 1.0
    assert interval == Interval(
        pytest.approx(2 - 4.3027 / 3**0.5, abs=1e-4), pytest.approx(2 + 4.3027 / 3**0.5, abs=1e-4)
    )
