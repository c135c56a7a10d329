import math

import numpy as np
import pytest

from gpt_core.tasks.baselines import NEVER, say_bag_of_words, say_majority, words_of

SEA, LAND = ("a whale at sea",), ("a horse in a field",)


def test_the_majority_has_the_odds_of_the_training_rows() -> None:
    said = say_majority("class", np.array([2, 2, 0, 2]), [("x",), ("y",)], n_labels=4)
    assert said is not None
    assert said.argmax(axis=1).tolist() == [2, 2]
    assert said[0, [0, 2]].tolist() == pytest.approx([math.log(1 / 4), math.log(3 / 4)])
    assert max(said[0, [1, 3]]) <= NEVER / 2


def test_the_majority_of_equals_is_the_first() -> None:
    said = say_majority("class", np.array([1, 1, 0, 0]), [("x",)], n_labels=2)
    assert said is not None
    assert said.argmax() == 0


def test_the_majority_of_classes_is_a_set() -> None:
    """Each label by itself is on two of five rows; the most frequent set has both."""
    labels = np.array([[1, 1, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=np.float32)
    said = say_majority("classes", labels, [("x",)], n_labels=3)
    assert said is not None
    assert (said > 0).tolist() == [[True, True, False]]


def test_the_majority_of_numbers_is_their_mean_and_of_choices_the_longest() -> None:
    said = say_majority("number", np.array([1.0, 2.0, 6.0], dtype=np.float32), [("x",)], n_labels=0)
    assert said is not None
    assert said.tolist() == [3.0]
    said = say_majority("choice", np.array([0]), [("c", "ab", "abc"), ("c", "a", "b", "abcd")], n_labels=0)
    assert said is not None
    assert said.tolist() == [[2.0, 3.0, -np.inf], [1.0, 1.0, 4.0]]


def test_naive_bayes_is_the_posterior_worked_by_hand() -> None:
    """Words of class 0: a a b; of class 1: b. P(a|0) = 3/5, P(b|0) = 2/5, P(a|1) = 1/3, P(b|1) = 2/3."""
    said = say_bag_of_words("class", [("A a",), ("b",), ("b",)], np.array([0, 0, 1]), [("a b new",)], n_labels=3)
    assert said is not None
    zero, one = 2 / 3 * 3 / 5 * 2 / 5, 1 / 3 * 1 / 3 * 2 / 3
    assert np.exp(said[0, :2]).tolist() == pytest.approx([zero / (zero + one), one / (zero + one)])
    assert said[0, 2] == NEVER  # no training row has it


def test_each_of_the_classes_is_found_by_its_words() -> None:
    train = [SEA, LAND, ("a whale and a horse",)] * 4
    labels = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 1]] * 4, dtype=np.float32)
    said = say_bag_of_words("classes", train, labels, [("the whale",), ("the horse",)], n_labels=4)
    assert said is not None
    assert said[0, 0] > said[1, 0]
    assert said[1, 1] > said[0, 1]
    assert said[:, 2:].tolist() == [[NEVER, -NEVER]] * 2  # on no training row, on every one


def test_a_number_is_read_off_the_words_that_two_texts_share() -> None:
    train = [("a cat", "the cat"), ("a cat", "the dog"), ("a dog", "the dog"), ("a dog", "the cat")]
    said = say_bag_of_words("number", train, np.array([1.0, 0.0, 1.0, 0.0]), [train[0], train[1]], n_labels=0)
    assert said is not None
    assert said[0] > 0.55 > 0.45 > said[1]  # marked apart alone, the four would look alike


def test_the_choice_is_the_one_nearest_to_the_context() -> None:
    rows = [("a whale swims", "the horse", "the whale"), ("in the field", "whale", "field", "sea")]
    said = say_bag_of_words("choice", rows, np.array([1, 1]), rows, n_labels=0)
    assert said is not None
    assert said.argmax(axis=1).tolist() == [1, 1]
    assert said[0, 2] == -np.inf


def test_words_are_lower_case_and_signs_are_words() -> None:
    assert words_of(("Don't STOP, 42!",)) == ["don", "'", "t", "stop", ",", "42", "!"]
    assert words_of(("a b", "b")) == ["0 a", "0 b", "1 b", "both b"]


def test_a_completion_has_no_baseline() -> None:
    texts = [("prompt", "completion")]
    assert say_majority("text", np.zeros(1), texts, n_labels=0) is None
    assert say_bag_of_words("text", texts, np.zeros(1), texts, n_labels=0) is None
