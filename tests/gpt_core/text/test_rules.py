"""The order of the rules and what switches them off."""

from pathlib import Path

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
    rejection, _ = Rules(Clean(**fields), None).judge(text)  # type: ignore[arg-type]
    return rejection and rejection.reason


def test_prose_passes_the_published_thresholds_and_its_language_is_told() -> None:
    assert Rules(Clean(), None).judge(PROSE) == (None, "en")


def test_the_first_rule_that_fails_gives_the_reason() -> None:
    assert reason(FRENCH) == "language"
    assert reason(FRENCH, languages=()) == "gopher_quality.min_stop_words"
    quality = GopherQuality(min_stop_words=0)
    assert reason(FRENCH, languages=(), gopher_quality=quality) == "gopher_repetition.top_4gram_characters"


def test_a_rule_set_to_none_is_off() -> None:
    assert reason("Too short, but the language of it is English.", gopher_quality=None) is None
    assert reason(FRENCH, languages=(), gopher_quality=None, gopher_repetition=None) is None


def test_contamination_is_judged_last(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text('{"id": 1, "text": "' + PROSE + '"}')
    rules = Rules(Clean(), index_evaluation_texts([(str(path), "text")], ngram_words=13))
    assert rules.judge(PROSE)[0] == ("contaminated", "shares 13 words in a row with test.jsonl 1")
    assert rules.judge(PROSE[:80])[0] == ("gopher_quality.min_words", "15 words < 50")
