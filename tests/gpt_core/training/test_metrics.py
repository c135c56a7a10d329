import pytest

from gpt_core.training.metrics import count_confusion, majority_label, score_classification

TRUTH = [0, 0, 0, 0, 1, 1, 2, 2]
GUESS = [0, 0, 1, 2, 1, 0, 2, 2]


def test_a_score_worked_by_hand() -> None:
    score = score_classification(TRUTH, GUESS, n_labels=3)
    assert score.confusion == ((2, 1, 1), (1, 1, 0), (0, 0, 2))
    assert score.accuracy == 5 / 8
    assert [label.precision for label in score.labels] == pytest.approx([2 / 3, 1 / 2, 2 / 3])
    assert [label.recall for label in score.labels] == pytest.approx([1 / 2, 1 / 2, 1.0])
    assert [label.f1 for label in score.labels] == pytest.approx([4 / 7, 1 / 2, 4 / 5])
    assert [label.support for label in score.labels] == [4, 2, 2]
    assert score.macro_f1 == pytest.approx((4 / 7 + 1 / 2 + 4 / 5) / 3)


def test_rows_of_the_confusion_are_the_truth() -> None:
    assert count_confusion([0], [1], n_labels=2).tolist() == [[0, 1], [0, 0]]


def test_a_label_that_is_never_predicted_scores_zero() -> None:
    score = score_classification([0, 1], [0, 0], n_labels=2)
    assert (score.labels[1].precision, score.labels[1].recall, score.labels[1].f1) == (0, 0, 0)
    assert score.macro_f1 == pytest.approx((2 / 3 + 0) / 2)


def test_a_label_that_neither_occurs_nor_is_predicted_does_not_lower_the_mean() -> None:
    assert score_classification([0, 1], [0, 1], n_labels=3).macro_f1 == 1.0


def test_the_majority_is_the_most_frequent_label_and_the_least_of_equals() -> None:
    assert majority_label([2, 1, 1, 0]) == 1
    assert majority_label([2, 2, 1, 1]) == 1


@pytest.mark.parametrize(("truth", "guess"), [([], []), ([0, 3], [0, 0]), ([0, 0], [0, -1])])
def test_numbers_that_are_no_labels_are_refused(truth: list[int], guess: list[int]) -> None:
    with pytest.raises(ValueError, match="label numbers must be given and be 0 to 2"):
        score_classification(truth, guess, n_labels=3)


def test_sequences_of_unlike_length_are_refused() -> None:
    with pytest.raises(ValueError):
        score_classification([0, 1], [0], n_labels=2)
