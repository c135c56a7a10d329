"""Tokens and n-grams."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.text import words
from gpt_core.text.words import Splitter, ngram_hashes


@pytest.mark.parametrize(
    ("text", "lengths", "is_word"),
    [
        ("don't stop", [5, 4], [True, True]),
        ("it\u2019s 1,234.5km!", [4, 9, 1], [True, True, False]),
        ("well-known, (x).", [4, 1, 5, 1, 1, 1, 1, 1], [True, False, True, False, False, True, False, False]),
        ("end. Next", [3, 1, 4], [True, False, True]),
        ("a,b", [1, 1, 1], [True, False, True]),
        ("_ \u4f60\u597d", [1, 2], [True, True]),
        ("", [], []),
    ],
)
def test_a_text_is_split_into_words_and_single_signs(text: str, lengths: list[int], is_word: list[bool]) -> None:
    tokens = Splitter().split(text)
    assert tokens.lengths.tolist() == lengths
    assert tokens.is_word.tolist() == is_word


def test_words_are_compared_without_case_and_punctuation() -> None:
    splitter = Splitter()
    assert splitter.split('"The END," he said.').words.tolist() == splitter.split("the end he said").words.tolist()
    assert splitter.split("The").hashes.tolist() != splitter.split("the").hashes.tolist()


def test_letters_and_distinct_stop_words_are_counted() -> None:
    tokens = Splitter().split("The the 42 B2 of - with")
    assert tokens.has_letter.tolist() == [True, True, False, True, True, False, True]
    assert tokens.n_stop_words == 3
    assert Splitter().split("").n_stop_words == 0


def test_a_full_table_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a b c d e f g h", "h g f e d c b a", "i j a b"]
    expected = [Splitter().split(text).hashes.tolist() for text in texts]
    monkeypatch.setattr(words, "TABLE_ROWS", 4)
    splitter = Splitter()
    assert [splitter.split(text).hashes.tolist() for text in texts] == expected


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 12))
def test_ngrams_are_equal_when_their_entries_are(entries: list[int], n: int) -> None:
    codes = np.array([0x9E37, 0x1234567890ABCDEF, 3, 2**64 - 5], np.uint64)
    grams = ngram_hashes(codes[np.array(entries, np.int64)], n).tolist()
    spelt = [tuple(entries[i : i + n]) for i in range(len(entries) - n + 1)]
    assert len(grams) == len(spelt)
    assert len(set(zip(grams, spelt, strict=True))) == len(set(grams)) == len(set(spelt))
