"""Language identification from the model that is installed."""

import pytest

from gpt_core.text.language import EXAMINED_CHARACTERS, identify_language, judge_language

ENGLISH = "The whale is a very large animal that lives in the sea,\nand it breathes air like we do."
FRENCH = "La baleine est un tr\xe8s grand animal qui vit dans la mer\net qui respire comme nous."


@pytest.mark.parametrize(("text", "code"), [(ENGLISH, "en"), (FRENCH, "fr")])
def test_plain_sentences_are_identified_with_confidence(text: str, code: str) -> None:
    found, score = identify_language(text)
    assert found == code
    assert 0.8 < score <= 1.0


def test_a_text_without_letters_gets_little_confidence() -> None:
    assert identify_language("...")[1] < 0.5


def test_only_the_beginning_decides() -> None:
    start = ENGLISH * (EXAMINED_CHARACTERS // len(ENGLISH) + 1)
    assert identify_language(start + FRENCH * 500) == identify_language(start)


def test_a_score_at_the_threshold_is_kept_and_one_below_is_not() -> None:
    assert judge_language(("en", 0.65), languages=("en",), min_score=0.65, min_scores={}) is None
    rejection = judge_language(("en", 0.64), languages=("en",), min_score=0.65, min_scores={})
    assert rejection == ("language", "en with confidence 0.64 < 0.65")


def test_another_language_is_named_with_those_that_are_kept() -> None:
    rejection = judge_language(("fr", 0.97), languages=("en", "de"), min_score=0.65, min_scores={})
    assert rejection == ("language", "fr (0.97) is not among en, de")


def test_no_languages_keep_every_language() -> None:
    assert judge_language(("fr", 0.01), languages=(), min_score=0.65, min_scores={}) is None


def test_a_language_may_have_a_threshold_of_its_own() -> None:
    limits = {"languages": ("en", "fr"), "min_score": 0.65, "min_scores": {"fr": 0.9}}
    assert judge_language(("fr", 0.8), **limits) == ("language", "fr with confidence 0.80 < 0.9")  # type: ignore[arg-type]
    assert judge_language(("en", 0.8), **limits) is None  # type: ignore[arg-type]
