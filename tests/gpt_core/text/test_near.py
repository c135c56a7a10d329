"""Sketches and verified pairs over Arrow batches."""

import pyarrow as pa
import pytest

from gpt_core.recipe import Dedup
from gpt_core.text.near import PAIR, Sketcher, verify_batches

DEDUP = Dedup(ngram_words=2, bands=3, rows_per_band=2)


def rows(*entries: dict[str, str | int | None]) -> pa.RecordBatch:
    schema = pa.schema([("head", pa.int64()), ("member", pa.int64()), ("text", pa.string())])
    return pa.RecordBatch.from_pylist(list(entries), schema)


def test_sketches_of_equal_words_share_all_bands_and_strangers_none() -> None:
    first, second, third = Sketcher(DEDUP).bands(pa.array(["One two three.", "one  two three", "x y"])).tolist()
    assert first == second
    assert not set(first) & set(third)


def test_a_slice_of_an_array_is_sketched_as_its_own_texts() -> None:
    texts = pa.array(["a b c", "d e f", "g h i"])
    assert Sketcher(DEDUP).bands(texts.slice(1, 1)).tolist() == Sketcher(DEDUP).bands(pa.array(["d e f"])).tolist()


def test_pairs_are_measured_head_by_head_across_batches() -> None:
    batches = [
        rows({"head": 1, "member": None, "text": "a b c d e"}, {"head": 1, "member": 3, "text": "a b c d f"}),
        rows({"head": 1, "member": 4, "text": "A b c d e"}, {"head": 2, "member": None, "text": "x"}),
        rows({"head": 2, "member": 4, "text": "a b c d e"}),
    ]
    found = list(verify_batches(batches, ngram_words=2))
    assert all(batch.schema == PAIR for batch in found)
    pairs = [tuple(row.values()) for batch in found for row in batch.to_pylist()]
    assert pairs == [(3, 1, 0.6), (4, 1, 1.0), (4, 2, 0.0)]


def test_a_member_before_its_head_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="must come before"):
        list(verify_batches([rows({"head": 1, "member": 2, "text": "a"})], ngram_words=2))
