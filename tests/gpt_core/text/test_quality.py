"""Gopher quality: each threshold at its value and one past it, worked by hand."""

import pyarrow as pa
import pytest

from gpt_core.recipe import Clean, GopherQuality
from gpt_core.text.rules import Rules

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


def judge(text: str, **limits: object) -> tuple[str | None, str | None] | None:
    return _judge(text, GopherQuality.model_validate(OFF | limits))


def _judge(text: str, limits: GopherQuality) -> tuple[str | None, str | None] | None:
    found = Rules(Clean(preset="none", gopher_quality=limits)).judge(pa.array([text]))
    return None if found.reasons == [None] else (found.reasons[0], found.details[0])


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
        ("min_stop_words", 2, "The end of it", "the the end", "1 stop words < 2"),
    ],
)
def test_a_threshold_keeps_its_own_value_and_rejects_beyond(
    threshold: str, limit: float, at: str, past: str, detail: str
) -> None:
    assert judge(at, **{threshold: limit}) is None
    assert judge(past, **{threshold: limit}) == (f"gopher_quality.{threshold}", detail)


def test_the_published_defaults_keep_a_paragraph_of_prose() -> None:
    text = "It is a truth that the whale, of all the beasts that have lived with us, is to be called great. " * 3
    assert _judge(text, GopherQuality()) is None


def test_a_text_without_words_has_too_few() -> None:
    assert judge("---", min_words=1) == ("gopher_quality.min_words", "0 words < 1")
    assert judge("---", min_alphabetic_words=0.5) is not None


def test_words_of_scripts_without_spaces_have_no_mean_length() -> None:
    chinese = "\u9cb8\u9c7c\u662f\u6d77\u6d0b\u52a8\u7269"
    assert judge(chinese, min_mean_word_length=3.0) is None
    assert judge(chinese, max_words=6) == ("gopher_quality.max_words", "7 words > 6")
    assert judge(chinese + " ab", min_mean_word_length=3.0) is not None


def test_punctuation_counts_as_words_without_letters_where_asked() -> None:
    assert judge("one, two.", min_alphabetic_words=0.8) is None
    found = judge("one, two.", min_alphabetic_words=0.8, count_punctuation=True)
    assert found == ("gopher_quality.min_alphabetic_words", "share of words with a letter 0.500 < 0.8")


def test_words_with_several_signs_between_are_one_where_punctuation_counts() -> None:
    for text, share in (("I see it.--Nobody does ?", "0.800"), ("I see it. --Nobody does", "0.714")):
        found = judge(text, min_alphabetic_words=0.9, count_punctuation=True)
        assert found == ("gopher_quality.min_alphabetic_words", f"share of words with a letter {share} < 0.9")


def test_stop_words_are_those_of_the_recipe_in_any_script() -> None:
    french = "la baleine est dans la mer"
    assert judge(french, min_stop_words=2) is not None
    assert judge(french, min_stop_words=2, stop_words=("la", "est")) is None
