import math
import warnings

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import ConstantInputWarning, pearsonr, spearmanr
from sklearn.metrics import f1_score

from gpt_core.errors import StageError
from gpt_core.tasks.scores import HEADLINE, Scores, headline, headline_of_sums, headline_terms, score
from gpt_core.tasks.spec import Target, TaskSpec

TRUTH = np.array([0, 0, 0, 0, 1, 1, 2, 2])
GUESS = [0, 0, 1, 2, 1, 0, 2, 2]


def spec_of(target: Target, *labels: str) -> TaskSpec:
    return TaskSpec("classification", target, labels, ("text",), "label", 32, None)


def certain(guess: list[int], n_labels: int = 3) -> np.ndarray:
    return 20.0 * np.eye(n_labels, dtype=np.float32)[guess]


def score_classes(truth: list[list[int]], guess: list[list[int]]) -> Scores:
    logits = 4.0 * np.array(guess, dtype=np.float32) - 2.0
    return score(spec_of("classes", *"abc"[: len(truth[0])]), np.array(truth, dtype=np.float32), logits)


def test_the_scores_of_a_class_worked_by_hand() -> None:
    made = score(spec_of("class", "a", "b", "c"), TRUTH, certain(GUESS))
    assert made.confusion == ((2, 1, 1), (1, 1, 0), (0, 0, 2))
    assert [label.precision for label in made.labels] == pytest.approx([2 / 3, 1 / 2, 2 / 3])
    assert [label.recall for label in made.labels] == pytest.approx([1 / 2, 1 / 2, 1.0])
    assert [label.support for label in made.labels] == [4, 2, 2]
    assert made.figures["accuracy"] == 5 / 8
    assert made.figures["macro_f1"] == pytest.approx((4 / 7 + 1 / 2 + 4 / 5) / 3)
    # c s - t p over the roots of s^2 - p^2 and s^2 - t^2: 5 right of 8; truths 4, 2, 2; guesses 3, 2, 3
    assert made.figures["matthews"] == pytest.approx((5 * 8 - 22) / math.sqrt((64 - 22) * (64 - 24)))


def test_a_label_that_is_never_predicted_scores_zero_and_one_that_never_occurs_lowers_no_mean() -> None:
    made = score(spec_of("class", "a", "b", "c"), np.array([0, 1]), certain([0, 0]))
    assert (made.labels[1].precision, made.labels[1].recall, made.labels[1].f1) == (0, 0, 0)
    assert made.figures["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_the_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    """Three examples with 0.75 for what they say, of which one is right; one with 0.95, which is."""
    odds = np.log([[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.05, 0.95]])
    made = score(spec_of("class", "a", "b"), np.array([0, 1, 0, 1]), odds)
    low, high = made.calibration
    assert (low.examples, low.low, low.high) == (3, 11 / 15, 12 / 15)
    assert (low.confidence, low.accuracy) == (pytest.approx(0.75), 1 / 3)
    assert (high.examples, high.accuracy) == (1, 1.0)
    assert made.figures["calibration_error"] == pytest.approx((3 * (0.75 - 1 / 3) + 0.05) / 4)


def test_a_probability_on_a_border_is_in_the_bin_below() -> None:
    made = score(spec_of("class", "a", "b"), np.array([0]), np.zeros((1, 2)) + np.log(0.5))
    assert [(part.low, part.high) for part in made.calibration] == [(7 / 15, 8 / 15)]
    sure = score(spec_of("class", "a", "b"), np.array([0]), np.array([[900.0, 0.0]]))
    assert [part.high for part in sure.calibration] == [1.0]


def test_the_scores_of_classes_worked_by_hand() -> None:
    made = score_classes([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]], [[1, 0, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0]])
    assert made.figures["macro_f1"] == pytest.approx((2 * 2 / 5 + 2 * 1 / 3) / 2)  # the third label is not there
    assert made.figures["micro_f1"] == pytest.approx(2 * 3 / (4 + 4))
    assert made.figures["exact_match"] == 2 / 4
    # a: the three that are said, two of them right, tie at rank 3; b: one right at rank 1, the other with all of 4
    assert made.figures["mean_average_precision"] == pytest.approx((2 / 3 + (1 / 2 * 1 + 1 / 2 * 2 / 4)) / 2)
    assert [label.support for label in made.labels] == [2, 2, 0]


def test_classes_without_any_label_score_zero_and_match_exactly() -> None:
    figures = score_classes([[0, 0]], [[0, 0]]).figures
    assert figures == {"macro_f1": 0.0, "micro_f1": 0.0, "exact_match": 1.0, "mean_average_precision": 0.0}


def test_the_correlations_of_numbers_are_scipys() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(1e4, 1.0, 50).astype(np.float32)  # far from 0: squares would lose the digits
    said = (truth + random.normal(0, 1.0, 50)).astype(np.float32)
    made = score(spec_of("number"), truth, said).figures
    assert made["pearson"] == pytest.approx(pearsonr(truth.astype(float), said.astype(float)).statistic)
    assert made["spearman"] == pytest.approx(spearmanr(truth, said).statistic)
    assert made["mean_squared_error"] == pytest.approx(np.mean((truth.astype(float) - said) ** 2))


def test_what_does_not_vary_has_no_correlation() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConstantInputWarning)
        figures = score(spec_of("number"), np.array([1.0, 2.0, 4.0]), np.full(3, 0.1, dtype=np.float32)).figures
    assert (figures["pearson"], figures["spearman"]) == (0.0, 0.0)


def test_a_choice_that_is_not_there_is_never_taken() -> None:
    logits = np.array([[-3.0, -2.0, -np.inf], [1.0, 0.0, 2.0], [-5.0, -np.inf, -np.inf]])
    assert score(spec_of("choice"), np.array([1, 0, 0]), logits).figures == {"accuracy": 2 / 3}


def test_the_loss_of_text_is_per_token_not_per_example() -> None:
    figures = score(spec_of("text"), np.zeros(2), np.array([[10.0, 4], [2.0, 2]])).figures
    assert figures == {"loss": 2.0, "perplexity": pytest.approx(math.exp(2))}


@pytest.mark.parametrize("target", HEADLINE)
def test_the_headline_is_the_first_figure_and_less_is_better_of_a_loss_alone(target: Target) -> None:
    outputs = {"number": np.ones(2), "text": np.ones((2, 2))}.get(target, np.eye(2))
    labels = np.eye(2) if target == "classes" else np.array([0, 1])
    made = score(spec_of(target, "a", "b"), labels, outputs)
    name, sign = headline(target)
    assert next(iter(made.figures)) == name
    assert sign == (-1 if name == "loss" else 1)


def test_the_sums_of_the_terms_give_what_scikit_learn_gives_on_any_part() -> None:
    random = np.random.default_rng(1)
    truth, logits = random.integers(2, size=(40, 5)), random.normal(size=(40, 5))
    for _ in range(20):
        rows = random.integers(40, size=random.integers(1, 12))
        sums = headline_terms("classes", truth, logits)[rows].sum(axis=0)
        there = truth[rows].any(axis=0) | (logits[rows] > 0).any(axis=0)
        each = f1_score(truth[rows], logits[rows] > 0, average=None, zero_division=0)
        assert headline_of_sums("classes", sums) == pytest.approx(each[there].mean())


@pytest.mark.parametrize(("target", "bad"), [("class", np.nan), ("class", -np.inf), ("choice", np.inf)])
def test_outputs_that_are_not_finite_are_counted_and_refused(target: Target, bad: float) -> None:
    outputs = np.zeros((3, 2))
    outputs[1] = bad
    with pytest.raises(StageError, match=r"for 1 of 3 examples are not finite numbers; lower finetune.learning_rate"):
        score(spec_of(target, "a", "b"), np.zeros(3, dtype=int), outputs)


def test_nothing_has_no_score() -> None:
    with pytest.raises(ValueError, match="no example"):
        score(spec_of("class", "a", "b"), np.zeros(0, dtype=int), softmax(np.zeros((0, 2)), axis=1))
