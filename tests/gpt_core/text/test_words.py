"""Tokens and n-grams."""

import re
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.text.characters import character_tables
from gpt_core.text.words import HAS_LETTER, IS_WORD, Scratch, hash_ngrams, hash_words, split_words

# The definition for scripts with spaces and without marks, as a regular expression.
TOKEN = re.compile(r"\w+(?:['\u2019]\w+|(?<=\d)[.,]\d\w*)*|([^\w\s])\1*")


class Tokens(NamedTuple):
    lengths: list[int]
    is_word: list[bool]
    has_letter: list[bool]
    hashes: list[int]


def split(text: str) -> Tokens:
    data = np.frombuffer(text.encode(), np.uint8)
    room = Scratch()
    room.grow(len(data))
    count = split_words(data, 0, len(data), *character_tables(), room.hashes, room.folded, room.lengths, room.kinds)
    kinds = room.kinds[:count]
    return Tokens(
        room.lengths[:count].tolist(),
        ((kinds & IS_WORD) != 0).tolist(),
        ((kinds & HAS_LETTER) != 0).tolist(),
        room.hashes[:count].tolist(),
    )


@pytest.mark.parametrize(
    ("text", "lengths", "is_word"),
    [
        ("don't stop", [5, 4], [True, True]),
        ("it\u2019s 1,234.5km!", [4, 9, 1], [True, True, False]),
        ("well-known, (x).", [4, 1, 5, 1, 1, 1, 1, 1], [True, False, True, False, False, True, False, False]),
        ("end. Next", [3, 1, 4], [True, False, True]),
        ("so-- what...?", [2, 2, 4, 3, 1], [True, False, True, False, False]),
        ("Mr. J. Smith said.", [3, 2, 5, 4, 1], [True, True, True, True, False]),
        ("a,b", [1, 1, 1], [True, False, True]),
        ("_ \u4f60\u597d", [1, 1, 1], [True, True, True]),
        ("\u0e01\u0e34\u0e19", [2, 1], [True, True]),  # a Thai vowel sign stands with its letter
        ("\u0939\u093f\u0928\u094d\u0926\u0940", [6], [True]),  # Hindi: one word, its signs in
        ("", [], []),
    ],
)
def test_a_text_is_split_into_words_and_single_signs(text: str, lengths: list[int], is_word: list[bool]) -> None:
    tokens = split(text)
    assert tokens.lengths == lengths
    assert tokens.is_word == is_word


@given(st.text(st.characters(max_codepoint=0x24F, exclude_characters="."), max_size=60))
def test_latin_tokens_are_those_of_the_definition(text: str) -> None:
    assert split(text).lengths == [len(match.group()) for match in TOKEN.finditer(text)]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_no_visible_character_is_lost(text: str) -> None:
    assert sum(split(text).lengths) == sum(not character.isspace() for character in text)


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert hash_words('"The END," he said.').tolist() == hash_words("the end he said").tolist()
    assert split("The").hashes != split("the").hashes


def test_words_with_letters_are_told() -> None:
    assert split("The 42 B2 of -").has_letter == [True, False, True, True, False]


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 12))
def test_ngrams_are_equal_when_their_entries_are(entries: list[int], n: int) -> None:
    codes = np.array([0x9E37, 0x1234567890ABCDEF, 3, 2**64 - 5], np.uint64)
    hashes, room = codes[np.array(entries, np.int64)], np.empty(30, np.uint64)
    grams = room[: hash_ngrams(hashes, len(hashes), n, room)].tolist()
    spelt = [tuple(entries[i : i + n]) for i in range(len(entries) - n + 1)]
    assert len(grams) == len(spelt)
    assert len(set(zip(grams, spelt, strict=True))) == len(set(grams)) == len(set(spelt))
