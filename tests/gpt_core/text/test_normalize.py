"""One spelling for the same text."""

import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.text.normalize import normalize, normalize_texts

ODD = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from("\r\n\t \x0b\x85\u2028\u200b\u00ad\ufeffe\u0301\u200d\x00"))
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cafe\u0301", "caf\xe9"),
        ("a\r\nb\rc\u2028d\x0ce", "a\nb\nc\nd\ne"),
        ("a\x00b\x07c\x7fd\x9fe", "abcde"),
        ("\ufeffzero\u200b-\u2060width\xad", "zero-width"),
        ("e\u200b\u0301", "\xe9"),  # what stands between goes before the two are composed
        ("tab\tstays", "tab\tstays"),
        ("trailing \t\n  leading stays\xa0\n", "trailing\n  leading stays"),
        ("\n \n first\n\n\n\nlast\n\n", " first\n\n\n\nlast"),
        (
            "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        ),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        ("\u200b\ufeff \n", ""),
    ],
)
def test_a_text_gets_its_one_spelling(text: str, expected: str) -> None:
    assert normalize(text, fix_mojibake=False) == expected


@given(ODD)
def test_a_normalized_text_stays_as_it_is(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once


@given(ODD)
def test_a_normalized_text_is_composed_and_has_no_trailing_space_nor_control_character(text: str) -> None:
    once = normalize(text)
    assert unicodedata.is_normalized("NFC", once)
    assert all(line == line.rstrip() for line in once.split("\n"))
    assert not [c for c in once if unicodedata.category(c) == "Cc" and c not in "\n\t"]


def test_a_long_run_of_spaces_costs_linear_time() -> None:
    assert len(normalize("a" + " " * 2_000_000 + "b")) == 2_000_002


def test_mojibake_is_mended_and_only_where_it_is() -> None:
    assert normalize("caf\u00c3\u00a9 na\u00c3\u00afve") == "caf\xe9 na\xefve"
    assert normalize("\u00c3\u00a9", fix_mojibake=False) == "\u00c3\u00a9"
    for text in ("\xc2ngstr\xf6m \xe0 la carte, \xe2ge, \xc3O", "\u0420\u0443\u0441\u0441\u043a\u0438\u0439"):
        assert normalize(text) == text


MIXED = st.lists(
    st.one_of(
        ODD,
        st.sampled_from(
            ["plain", "caf\xe9", "a \nb", "\ntop", "caf\u00c3\u00a9", "\u00d7\u00b8", "e\u0301", "x\xa0", ""]
        ),
    ),
    max_size=6,
)


@given(MIXED, st.booleans())
def test_a_batch_is_normalized_as_its_texts_are(texts: list[str], fix_mojibake: bool) -> None:
    found = normalize_texts(pa.array(texts, pa.string()), fix_mojibake=fix_mojibake)
    assert found.to_pylist() == [normalize(text, fix_mojibake=fix_mojibake) for text in texts]
