"""The order of the rules and what switches them off."""

import pyarrow as pa
import pytest

from gpt_core.recipe import Clean, GopherQuality
from gpt_core.text.contamination import index_evaluation_texts
from gpt_core.text.rules import Rules

FRENCH = "La baleine est un tr\xe8s grand animal qui vit dans la mer et qui respire comme nous. " * 8
PROSE = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of "
    "a wife. However little known the feelings or views of such a man may be on his first entering a neighbourhood, "
    "this truth is so well fixed in the minds of the surrounding families, that he is considered as the rightful "
    "property of some one or other of their daughters."
)


def reason(text: str, **fields: object) -> str | None:
    return Rules(Clean(**fields)).judge(pa.array([text])).reasons[0]  # type: ignore[arg-type]


def test_prose_passes_the_published_thresholds_and_its_language_is_told() -> None:
    found = Rules(Clean()).judge(pa.array([PROSE]))
    assert (found.reasons, found.languages) == ([None], ["en"])


def test_the_first_rule_that_fails_gives_the_reason() -> None:
    assert reason(FRENCH) == "language"
    assert reason(FRENCH, languages=()) == "gopher_quality.min_stop_words"
    quality = GopherQuality(min_stop_words=0)
    assert reason(FRENCH, languages=(), gopher_quality=quality) == "gopher_repetition.top_4gram_characters"


def test_a_rule_set_to_none_is_off() -> None:
    assert reason("Too short, but the language of it is English.", gopher_quality=None) is None
    assert reason(FRENCH, languages=(), gopher_quality=None, gopher_repetition=None) is None


def test_contamination_is_judged_last() -> None:
    rules = Rules(Clean(), index_evaluation_texts([("test.jsonl 1", PROSE)], ngram_words=13))
    found = rules.judge(pa.array([PROSE, PROSE[:80]]))
    assert found.reasons == ["contaminated", "gopher_quality.min_words"]
    assert found.details == ["shares 13 words in a row with test.jsonl 1", "15 words < 50"]


def test_texts_of_a_batch_do_not_touch_each_other() -> None:
    texts = [PROSE, "", FRENCH, "short", PROSE + "\n\n" + PROSE, "x" * 3_000]
    rules = Rules(Clean(preset="fineweb"))
    together = rules.judge(pa.array(texts))
    alone = [rules.judge(pa.array([text])) for text in texts]
    assert together.reasons == [found.reasons[0] for found in alone]
    assert together.texts.to_pylist() == [found.texts[0].as_py() for found in alone]


C4 = {"min_sentences": 2, "min_words_per_line": 3}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (
            "One two three. Four.\nA menu\nSeven eight nine!",
            "One two three. Four.\nSeven eight nine!",
        ),
        ('He said: "One two three."\nOne two three...\nFour five six?', 'He said: "One two three."\nFour five six?'),
        ("A line [1] with marks [edit] in it.\nAnd one more there.", "A line  with marks  in it.\nAnd one more there."),
        ("Please turn on JavaScript now.\nOne two three.\nFour five six.", "One two three.\nFour five six."),
    ],
)
def test_c4_keeps_the_lines_that_are_sentences(text: str, left: str) -> None:
    found = Rules(Clean.model_validate({"preset": "none", "c4": C4})).judge(pa.array([text]))
    assert (found.reasons, found.texts.to_pylist()) == ([None], [left])


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("One two three.\nif (x) {", "c4.document_phrases", "holds '{'"),
        ("One two three. Lorem Ipsum dolor.", "c4.document_phrases", "holds 'lorem ipsum'"),
        ("One two three.\nFour five six", "c4.min_sentences", "1 sentences < 2"),
        ("Mr. J. Smith, Jr. of St. Ives said so.", "c4.min_sentences", "1 sentences < 2"),
    ],
)
def test_c4_rejects_what_holds_a_phrase_or_too_little(text: str, reason: str, detail: str) -> None:
    found = Rules(Clean.model_validate({"preset": "none", "c4": C4})).judge(pa.array([text]))
    assert (found.reasons, found.details) == ([reason], [detail])


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("a b\nc d\n" * 4 + "x y.", "min_terminal_punctuation", "share of lines that end in punctuation 0.111 < 0.12"),
        ("Short one.\nShort two.\nShort six.", "max_short_lines", "share of short lines 1.000 > 0.67"),
        (
            "The first of these lines is long enough.\nThe first of these lines is long enough.",
            "max_duplicate_line_characters",
            "share of characters in duplicate lines 0.500 > 0.01",
        ),
        (
            "\n".join(f"{sign * 31}." for sign in "abc"),
            "max_newline_word_ratio",
            "line ends to words 0.333 > 0.3",
        ),
    ],
)
def test_fineweb_rejects_lists_and_broken_lines(text: str, reason: str, detail: str) -> None:
    found = Rules(Clean.model_validate({"preset": "none", "fineweb": {}})).judge(pa.array([text.strip()]))
    assert (found.reasons, found.details) == ([f"fineweb.{reason}"], [detail])
