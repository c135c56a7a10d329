"""Sketches and verified pairs over Arrow batches."""

import pyarrow as pa
import pytest

from gpt_core.recipe import Dedup
from gpt_core.text.near import PAIR, SKETCH, id_of, preference_key, sketch_batches, verify_batches

DEDUP = Dedup(ngram_words=2, bands=3, rows_per_band=2)


def rows(*entries: dict[str, str | None]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(entries))


def test_the_longer_text_then_the_lesser_id_comes_first() -> None:
    keys = [preference_key(id_, text) for id_, text in (("b", "text"), ("a", "text"), ("z", "long text"))]
    assert [id_of(key) for key in sorted(keys)] == ["z", "a", "b"]


def test_sketches_of_equal_words_share_all_bands() -> None:
    batch = rows(
        {"id": "a", "text": "One two three."}, {"id": "b", "text": "one  two three"}, {"id": "c", "text": "x y"}
    )
    (found,) = sketch_batches([batch], DEDUP)
    assert found.schema == SKETCH
    first, second, third = found.to_pylist()
    assert first["bands"] == second["bands"]
    assert not set(first["bands"]) & set(third["bands"])
    assert first["exact"] != second["exact"]
    assert len(first["bands"]) == 3


def test_pairs_are_measured_head_by_head_across_batches() -> None:
    batches = [
        rows({"head": "h", "member": None, "text": "a b c d e"}, {"head": "h", "member": "m", "text": "a b c d f"}),
        rows({"head": "h", "member": "n", "text": "A b c d e"}, {"head": "i", "member": None, "text": "x"}),
        rows({"head": "i", "member": "n", "text": "a b c d e"}),
    ]
    found = list(verify_batches(batches, ngram_words=2))
    assert all(batch.schema == PAIR for batch in found)
    pairs = [tuple(row.values()) for batch in found for row in batch.to_pylist()]
    assert pairs == [("m", "h", 0.6), ("n", "h", 1.0), ("n", "i", 0.0)]


def test_a_member_before_its_head_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="must come before"):
        list(verify_batches([rows({"head": "h", "member": "m", "text": "a"})], ngram_words=2))
