"""Sequences of every task written out by hand, over a tokenizer of bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.recipe import Finetune
from gpt_core.recipe import Tokenizer as Settings
from gpt_core.tasks.labelled import Label, Row
from gpt_core.tasks.sequences import Examples, encode_rows, fit_pair
from gpt_core.tasks.spec import IGNORED, TaskSpec
from gpt_core.tokenizer.train import train_tokenizer

TOKENIZER = train_tokenizer([["a"]], Settings(vocab_size=300))  # no pair repeats: every token is a byte
A, B, C, D, E = (TOKENIZER.encode(letter)[0] for letter in "abcde")
END = TOKENIZER.end_of_text_id
START, DELIMITER, EXTRACT, PAD = range(257, 261)


def encode(task: str, *rows: tuple[tuple[str, ...], Label], max_tokens: int = 16, **fields: object) -> Examples:
    settings = Finetune.model_validate({"task": task, "train": "t", "test": "t", **fields})
    spec = TaskSpec.of_recipe(settings, ("x", "y"), max_tokens=max_tokens, vocab_size=TOKENIZER.vocab_size)
    return encode_rows([Row(f"f:{n}", texts, label) for n, (texts, label) in enumerate(rows, 1)], TOKENIZER, spec)


def test_the_tokenizer_is_one_of_bytes_and_the_marks_stand_behind_it() -> None:
    assert TOKENIZER.vocab_size == START == END + 1


def test_a_text_stands_between_start_and_extract() -> None:
    found = encode("classification", (("abc",), "y"), (("d",), "x"))
    assert found.sequences == (((START, A, B, C, EXTRACT),), ((START, D, EXTRACT),))
    assert found.labels.tolist() == [1, 0]
    assert found.labels.dtype == np.int64
    assert found.where == ("f:1", "f:2")
    assert found.lengths.tolist() == [5, 3]
    assert found.n_targets.tolist() == [4, 2]


def test_a_text_is_cut_at_its_end_and_its_marks_are_not() -> None:
    assert encode("classification", (("abcde",), "x"), max_tokens=5).sequences == (((START, A, B, C, EXTRACT),),)


def test_a_premise_stands_before_its_hypothesis() -> None:
    found = encode("entailment", (("ab", "c"), "x"))
    assert found.sequences == (((START, A, B, DELIMITER, C, EXTRACT),),)


def test_similar_texts_stand_in_both_orders() -> None:
    found = encode("similarity", (("ab", "c"), 2.5), labels="number")
    assert found.sequences == (((START, A, B, DELIMITER, C, EXTRACT), (START, C, DELIMITER, A, B, EXTRACT)),)
    assert found.labels.tolist() == [2.5]
    assert found.labels.dtype == np.float32
    assert found.n_targets.tolist() == [10]


@pytest.mark.parametrize("max_tokens", range(4, 12))
def test_exchanged_texts_give_the_same_two_sequences_however_they_are_cut(max_tokens: int) -> None:
    for pair in (("abcde", "dc"), ("abcd", "dcba"), ("abc", "edcba")):
        (one,), (other,) = (
            encode("similarity", (texts, 1.0), labels="number", max_tokens=max_tokens).sequences
            for texts in (pair, pair[::-1])
        )
        assert one == other[::-1]


def test_a_context_stands_before_each_choice() -> None:
    found = encode("multiple_choice", (("ab", "c", "de"), 1), (("a", "b", "c", "d"), 2))
    assert found.sequences == (
        ((START, A, B, DELIMITER, C, EXTRACT), (START, A, B, DELIMITER, D, E, EXTRACT)),
        tuple((START, A, DELIMITER, choice, EXTRACT) for choice in (B, C, D)),
    )
    assert found.labels.tolist() == [1, 2]
    assert found.lengths.tolist() == [7, 5]


def test_a_completion_stands_between_ends_of_text_and_is_learned_alone() -> None:
    found = encode("completion", (("ab", "cd"), None), (("a", "b"), None))
    assert found.sequences == (((END, A, B, C, D, END),), ((END, A, B, END),))
    assert found.loss_from.tolist() == [3, 2]
    assert found.n_targets.tolist() == [3, 2]  # c, d and the end; b and the end
    assert found.labels.tolist() == [0, 0]


def test_of_a_completion_the_front_of_the_prompt_goes_first_then_its_own_end() -> None:
    found = [encode("completion", (("abc", "de"), None), max_tokens=size) for size in (6, 4)]
    assert [(it.sequences[0][0], it.loss_from[0]) for it in found] == [
        ((END, B, C, D, E, END), 3),
        ((END, D, E, END), 1),
    ]
    long = encode("completion", (("a", "bcde"), None), max_tokens=5)
    assert (long.sequences[0][0], long.loss_from[0]) == ((END, B, C, D, END), 1)


def test_a_prompt_alone_can_be_gone_on_from() -> None:
    found = encode("completion", (("abcde",), None), max_tokens=4)
    assert found.sequences == (((END, C, D, E),),)
    assert found.n_targets.tolist() == [0]


def test_several_classes_are_ones_in_their_places() -> None:
    found = encode("classification", (("a",), ("y",)), (("b",), ()), (("c",), ("y", "x")), labels="classes")
    assert found.labels.tolist() == [[0, 1], [0, 0], [1, 1]]
    assert found.labels.dtype == np.float32


def test_a_row_without_a_label_can_be_asked_about() -> None:
    assert encode("classification", (("a",), None)).labels.tolist() == [IGNORED]
    assert encode("multiple_choice", (("a", "b", "c"), None)).labels.tolist() == [IGNORED]
    assert np.isnan(encode("classification", (("a",), None), labels="number").labels).all()
    assert np.isnan(encode("classification", (("a",), None), labels="classes").labels).all()


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 30))
def test_of_two_texts_the_longer_is_cut_first(first: int, second: int, room: int) -> None:
    kept, others = first, second
    while kept + others > room:  # a token at a time; of equals that which was no longer at first
        if kept > others or (kept == others and first <= second):
            kept -= 1
        else:
            others -= 1
    assert fit_pair(first, second, room=room) == (kept, others)
