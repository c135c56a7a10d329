"""Gopher quality: each threshold at its value and one past it, worked by hand."""

import pytest

from gpt_core.recipe import GopherQuality
from gpt_core.text.document import Rejection
from gpt_core.text.quality import judge_quality
from gpt_core.text.words import Splitter

OFF = {
    "min_words": 0,
    "max_words": 10**9,
    "min_mean_word_length": 0.0,
    "max_mean_word_length": 1e9,
    "max_symbol_word_ratio": 1e9,
    "max_bullet_lines": 1.0,
    "max_ellipsis_lines": 1.0,
    "min_alphabetic_words": 0.0,
    "min_stop_words": 0,
}


def judge(text: str, **limits: float) -> Rejection | None:
    return judge_quality(text, Splitter().split(text), GopherQuality.model_validate(OFF | limits))


@pytest.mark.parametrize(
    ("threshold", "limit", "at", "past", "detail"),
    [
        ("min_words", 3, "a, b - c!", "a, b -!", "2 words < 3"),
        ("max_words", 3, "a, b - c!", "a b c d", "4 words > 3"),
        ("min_mean_word_length", 3.0, "ab abcd", "ab abc", "mean word length 2.50 < 3"),
        ("max_mean_word_length", 3.0, "ab abcd ...", "abc abcd", "mean word length 3.50 > 3"),
        ("max_symbol_word_ratio", 0.5, "# a b", "## # a b", "# to words 1.500 > 0.5"),
        ("max_symbol_word_ratio", 0.5, "a b...", "a\u2026 b...", "ellipses to words 1.000 > 0.5"),
        ("max_bullet_lines", 0.5, "- a\n\nb", "- a\n* b\n\u2022 c\nd", "share of bullet lines 0.750 > 0.5"),
        ("max_ellipsis_lines", 0.5, "a...\n\nb", "a...\nb\u2026\nc", "share of ellipsis lines 0.667 > 0.5"),
        ("min_alphabetic_words", 0.8, "a b c d2, 5", "a b c 4 5", "share of words with a letter 0.600 < 0.8"),
        ("min_stop_words", 2, "The end of it", "the the end", "1 of the stop words < 2"),
    ],
)
def test_a_threshold_keeps_its_own_value_and_rejects_beyond(
    threshold: str, limit: float, at: str, past: str, detail: str
) -> None:
    assert judge(at, **{threshold: limit}) is None
    assert judge(past, **{threshold: limit}) == (f"gopher_quality.{threshold}", detail)


def test_the_published_defaults_keep_a_paragraph_of_prose() -> None:
    text = "It is a truth that the whale, of all the beasts that have lived with us, is to be called great. " * 3
    assert judge_quality(text, Splitter().split(text), GopherQuality()) is None


def test_a_text_without_words_has_too_few() -> None:
    assert judge("---", min_words=1) == ("gopher_quality.min_words", "0 words < 1")
    assert judge("---", min_alphabetic_words=0.5) is not None
