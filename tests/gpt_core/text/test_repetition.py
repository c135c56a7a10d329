"""Gopher repetition: worked values, and the definition word for word as the oracle."""

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.recipe import Clean, GopherRepetition
from gpt_core.text.rules import Rules

OFF = {
    "max_duplicate_lines": 1.0,
    "max_duplicate_line_characters": 1.0,
    "max_duplicate_paragraphs": 1.0,
    "max_duplicate_paragraph_characters": 1.0,
    "max_top_ngram_characters": (1.0, 1.0, 1.0),
    "max_duplicate_ngram_characters": (1.0,) * 6,
}


def judge(text: str, **limits: object) -> tuple[str | None, str | None] | None:
    return _judge(text, GopherRepetition.model_validate(OFF | limits))


def _judge(text: str, limits: GopherRepetition) -> tuple[str | None, str | None] | None:
    found = Rules(Clean(preset="none", gopher_repetition=limits)).judge(pa.array([text]))
    return None if found.reasons == [None] else (found.reasons[0], found.details[0])


@pytest.mark.parametrize(
    ("threshold", "text", "measure", "value"),
    [
        ("max_duplicate_lines", "a\nb\na\n\nc", "duplicate_lines", 1 / 4),
        ("max_duplicate_line_characters", "abcd\nabcd\nx", "duplicate_line_characters", 4 / 11),
        ("max_duplicate_paragraphs", "a\nb\n\na\nb\n\n\na\nb\n\nc", "duplicate_paragraphs", 2 / 4),
        ("max_duplicate_paragraph_characters", "ab\n\nab\n\nc", "duplicate_paragraph_characters", 2 / 9),
    ],
)
def test_lines_and_paragraphs_count_each_occurrence_after_the_first(
    threshold: str, text: str, measure: str, value: float
) -> None:
    assert judge(text, **{threshold: value}) is None
    assert judge(text, **{threshold: value - 1e-9}) == (
        f"gopher_repetition.{measure}",
        f"share of {measure.replace('_', ' ')} {value:.3f} > {value - 1e-9:g}",
    )


def test_the_top_ngram_counts_its_characters_and_spaces_in_every_occurrence() -> None:
    text = "the cat, the cat and the dog"  # "the cat" twice: 2 x 7 of 28 characters
    assert judge(text, max_top_ngram_characters=(0.5, 1.0, 1.0)) is None
    assert judge(text, max_top_ngram_characters=(0.49, 1.0, 1.0)) == (
        "gopher_repetition.top_2gram_characters",
        "share of top 2gram characters 0.500 > 0.49",
    )


def test_an_ngram_that_occurs_once_repeats_nothing() -> None:
    assert judge("three words only", max_top_ngram_characters=(0.0, 0.0, 0.0)) is None
    literally = judge("three words only", max_top_ngram_characters=(0.6, 1.0, 1.0), count_single_ngrams=True)
    assert literally == ("gopher_repetition.top_2gram_characters", "share of top 2gram characters 0.688 > 0.6")


def test_a_repeated_ngram_counts_once_and_is_stepped_over() -> None:
    text = "a b c d e a b c d e f"  # the second "a b c d e": 5 of 21 characters; "b c d e f" is new
    limits = (5 / 21, 1.0, 1.0, 1.0, 1.0, 1.0)
    assert judge(text, max_duplicate_ngram_characters=limits) is None
    assert judge(text, max_duplicate_ngram_characters=(0.23, *limits[1:])) == (
        "gopher_repetition.duplicate_5gram_characters",
        "share of duplicate 5gram characters 0.238 > 0.23",
    )


def test_the_published_defaults_reject_a_refrain_and_keep_a_sentence() -> None:
    assert _judge("la la land " * 20, GopherRepetition()) is not None
    plain = "No two of these words in this short sentence stand beside each other more than once."
    assert _judge(plain, GopherRepetition()) is None


def top_characters(tokens: list[str], n: int) -> int:
    """Counter.most_common takes the first of those that occur most often."""
    [(gram, count)] = Counter(" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)).most_common(1)
    return len(gram) * count if count > 1 else 0


def duplicate_characters(tokens: list[str], n: int) -> int:
    read: set[tuple[str, ...]] = set()
    total = i = 0
    while i <= len(tokens) - n:
        gram = tuple(tokens[i : i + n])
        if gram in read:
            total, i = total + len("".join(gram)), i + n
        else:
            read.add(gram)
            i += 1
    return total


REPETITIVE = st.lists(st.sampled_from(["a", "bb", "cccc"]), min_size=1, max_size=60)


@given(REPETITIVE, st.sampled_from([2, 3, 4]), st.floats(0, 1))
def test_top_ngrams_are_judged_as_defined(tokens: list[str], n: int, limit: float) -> None:
    text = " ".join(tokens)
    limits = [1.0, 1.0, 1.0]
    limits[n - 2] = limit
    value = min(1.0, top_characters(tokens, n) / len(text)) if len(tokens) >= n else 0.0
    assert (judge(text, max_top_ngram_characters=tuple(limits)) is not None) == (value > limit)


@given(REPETITIVE, st.integers(5, 10), st.floats(0, 1))
def test_duplicate_ngrams_are_judged_as_defined(tokens: list[str], n: int, limit: float) -> None:
    text = " ".join(tokens)
    limits = [1.0] * 6
    limits[n - 5] = limit
    found = judge(text, max_duplicate_ngram_characters=tuple(limits))
    assert (found is not None) == (duplicate_characters(tokens, n) / len(text) > limit)
