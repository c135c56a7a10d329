import numpy as np
import pytest

from gpt_core.tasks.comparison import Comparison, compare, describe, name_figures
from gpt_core.tasks.intervals import Interval, percentile_interval, resample_headline, t_interval
from gpt_core.tasks.spec import Target, TaskSpec

LABELS = np.array([0, 1] * 50)
SEEDED = {"pretrained": [3, 4, 8], "scratch": [10, 18, 17]}  # wrong of 100, for each of three seeds


def spec_of(target: Target) -> TaskSpec:
    labels = ("no", "yes") if target == "class" else ()
    return TaskSpec("classification", target, labels, ("text",), "label", 32, None)


def wrong_on(count: int) -> np.ndarray:
    """Logits that are wrong on the first `count` examples."""
    said = LABELS.copy()
    said[:count] = 1 - said[:count]
    return 2.0 * np.eye(2)[said]


def compare_seeds(*, baseline: bool = True) -> Comparison:
    outputs = {name: [wrong_on(count) for count in counts] for name, counts in SEEDED.items()}
    outputs["majority"] = [np.tile([1.0, 0.0], (100, 1))]
    if not baseline:
        del outputs["scratch"]
    return compare(spec_of("class"), LABELS, outputs, kept=1, seed=0)  # type: ignore[arg-type]


def test_a_standing_is_the_mean_over_seeds_with_its_deviation() -> None:
    made = compare_seeds()
    ours = made.standings["pretrained"]
    assert ours.figures["accuracy"] == pytest.approx(0.95)
    assert ours.spreads["accuracy"] == pytest.approx(np.std([0.97, 0.96, 0.92], ddof=1))
    assert [figures["accuracy"] for figures in ours.seeds] == [0.97, 0.96, 0.92]
    assert made.standings["majority"].spreads == {}
    assert made.kept.figures["accuracy"] == 0.96


def test_the_interval_of_a_mean_is_that_of_the_mean_of_its_resamples() -> None:
    drawn = [resample_headline("class", LABELS, wrong_on(count), seed=0) for count in SEEDED["pretrained"]]
    assert compare_seeds().standings["pretrained"].interval == percentile_interval(np.mean(drawn, axis=0))


def test_over_seeds_the_lift_is_paired_by_seed() -> None:
    lift = compare_seeds().lift
    assert lift is not None
    assert lift.value == pytest.approx(0.1)
    wanted = t_interval([0.07, 0.14, 0.09])
    assert (lift.interval.low, lift.interval.high) == pytest.approx((wanted.low, wanted.high))
    assert lift.how == "Student's t over 3 seeds, paired"


def test_with_one_seed_the_lift_is_paired_by_example() -> None:
    """Scratch is wrong wherever we are and on ten more: each resample is a binomial of ten in a hundred."""
    outputs = {"pretrained": [wrong_on(10)], "scratch": [wrong_on(20)]}
    lift = compare(spec_of("class"), LABELS, outputs, kept=0, seed=0).lift  # type: ignore[arg-type]
    assert lift is not None
    assert lift.value == pytest.approx(0.1)
    assert lift.interval == Interval(pytest.approx(0.05, abs=0.011), pytest.approx(0.16, abs=0.011))
    assert lift.how == "1,000 resamples of the test set, paired"


def test_a_lower_loss_is_a_lift() -> None:
    ours, theirs = (np.array([[loss * 10, 10.0]] * 8) for loss in (2.0, 2.5))
    made = compare(spec_of("text"), np.zeros(8), {"pretrained": [ours], "scratch": [theirs]}, kept=0, seed=0)
    assert made.lift is not None
    assert (made.lift.value, made.lift.interval) == (0.5, Interval(0.5, 0.5))
    assert describe(made)["less_is_better"] is True


def test_the_figures_have_the_names_that_others_read() -> None:
    figures = name_figures(compare_seeds())
    names = ("accuracy", "accuracy_low", "accuracy_high")
    more = ("macro_f1", "matthews", "calibration_error", "accuracy_spread")
    assert set(figures) == {
        *(f"{prefix}_{name}" for prefix in ("test", "scratch_test") for name in (*names, *more)),
        *(f"majority_{name}" for name in names),
        *("lift", "lift_low", "lift_high"),
    }


def test_without_a_model_from_scratch_there_is_no_lift() -> None:
    made = compare_seeds(baseline=False)
    assert made.lift is None
    assert describe(made)["lift"] is None
    assert not any(name.startswith(("scratch", "lift")) for name in name_figures(made))


def test_the_description_is_of_the_kept_model() -> None:
    told = describe(compare_seeds())
    assert told["confusion"] == [[48, 2], [2, 48]]
    assert told["per_label"]["yes"]["support"] == 50  # type: ignore[index,call-overload]
    assert told["models"]["majority"]["how"] == "the most frequent label"  # type: ignore[index,call-overload]
