"""Evaluation texts kept out of the corpus."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from gpt_core.errors import InputError
from gpt_core.recipe import Clean, Fields
from gpt_core.text.contamination import ContaminationIndex, index_evaluation_texts
from gpt_core.text.read import read_texts
from gpt_core.text.rules import Rules

SENTENCE = "one two three four five six seven"


def write(path: Path, *texts: object) -> tuple[str, str]:
    path.write_text("".join(json.dumps({"id": f"q{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
    return str(path), "text"


def index_files(files: Sequence[tuple[str, str]], *, ngram_words: int) -> ContaminationIndex:
    texts = [text for path, field in files for text in read_texts(path, Fields(text=field))]
    return index_evaluation_texts(texts, ngram_words=ngram_words)


def judge(index: ContaminationIndex, text: str) -> str | None:
    found = Rules(Clean(preset="none"), index).judge(pa.array([text]))
    assert found.reasons[0] in (None, "contaminated")
    return found.details[0]


def test_n_shared_words_reject_whatever_their_case_and_punctuation(tmp_path: Path) -> None:
    index = index_files([write(tmp_path / "test.jsonl", "other", SENTENCE)], ngram_words=5)
    assert judge(index, 'Zero. "TWO, three; four - five (six)!"') == "shares 5 words in a row with test.jsonl q1"


def test_one_shared_word_less_is_kept(tmp_path: Path) -> None:
    index = index_files([write(tmp_path / "test.jsonl", SENTENCE)], ngram_words=5)
    assert judge(index, "two three four five x six seven") is None


def test_a_short_evaluation_text_counts_only_as_a_whole_document(tmp_path: Path) -> None:
    index = index_files([write(tmp_path / "test.jsonl", "Yes, it is.")], ngram_words=5)
    assert judge(index, "yes it is") == "is the evaluation text test.jsonl q0"
    assert judge(index, "yes it is so") is None


def test_a_text_in_two_files_is_named_by_the_first(tmp_path: Path) -> None:
    files = [write(tmp_path / "b.jsonl", SENTENCE), write(tmp_path / "a.jsonl", "x " + SENTENCE)]
    assert judge(index_files(files, ngram_words=5), SENTENCE) == "shares 5 words in a row with b.jsonl q0"


def test_no_evaluation_texts_reject_nothing() -> None:
    assert judge(index_files([], ngram_words=13), SENTENCE * 9) is None


def test_a_malformed_evaluation_record_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"test\.jsonl:2: the field 'text' is a number"):
        index_files([write(tmp_path / "test.jsonl", "a", 3)], ngram_words=13)


def test_a_missing_evaluation_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jsonl: no such file or directory; it holds evaluation texts"):
        index_files([(str(tmp_path / "gone.jsonl"), "text")], ngram_words=13)
