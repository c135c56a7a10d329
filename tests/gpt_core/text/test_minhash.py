"""Shingles, signatures and exact similarity."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.recipe import Dedup
from gpt_core.text.minhash import draw_permutations, sign
from gpt_core.text.near import Sketcher, Verifier
from gpt_core.text.words import Hashes

SETS = st.lists(st.integers(0, 2**62).map(lambda i: 2 * i + 1), min_size=1, max_size=400)


def shingles(text: str, n: int) -> set[int]:
    return set(Verifier(ngram_words=n).shingles(text).tolist())


def test_shingles_are_the_runs_of_words() -> None:
    assert len(shingles("a b a b a", 2)) == 2
    assert shingles("A, b. C!", 2) == shingles("a b c", 2)


@pytest.mark.parametrize("text", ["one two", "", "?!"])
def test_a_text_shorter_than_a_shingle_is_one_shingle(text: str) -> None:
    assert len(shingles(text, 5)) == 1
    assert shingles("one two", 5) == shingles("One, two.", 5)


def test_jaccard_worked_by_hand() -> None:
    verifier = Verifier(ngram_words=2)  # ab bc cd de; ab bc cd df
    assert verifier.jaccard(verifier.shingles("a b c d e"), verifier.shingles("a b c d f")) == 3 / 5


@given(SETS, SETS)
def test_jaccard_is_that_of_the_sets(a: list[int], b: list[int]) -> None:
    found = Verifier(ngram_words=5).jaccard(np.array(a, np.uint64), np.array(b, np.uint64))
    assert found == len(set(a) & set(b)) / len(set(a) | set(b))


@given(st.text(max_size=80), st.integers(0, 3))
def test_band_hashes_depend_on_the_words_and_the_seed_alone(text: str, seed: int) -> None:
    dedup = Dedup(bands=4, rows_per_band=2, ngram_words=2, seed=seed)
    first, again = Sketcher(dedup).bands(pa.array([text, f"  {text.lower()} "]))
    assert first.tolist() == again.tolist()
    other = Sketcher(dedup.model_copy(update={"seed": seed + 1})).bands(pa.array([text]))[0]
    assert not set(first.tolist()) & set(other.tolist())
    assert len(set(first.tolist())) == 4


def least(values: Hashes) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint32]]":
    factors, offsets = draw_permutations(count=1024, seed=0)
    found = np.empty(1024, np.uint32)
    sign(values, len(values), factors, offsets, found)
    return found


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.8])
def test_equal_signature_values_estimate_the_similarity(similarity: float) -> None:
    generator = np.random.default_rng(5)
    values = generator.integers(0, 2**64 - 1, 2_000, np.uint64, endpoint=True)
    common = round(2_000 * similarity)
    rest = (2_000 - common) // 2
    a, b = values[: common + rest], np.concatenate([values[:common], values[common + rest :]])
    estimate = float(np.mean(least(a) == least(b)))
    jaccard = common / (common + 2 * rest)
    assert estimate == pytest.approx(jaccard, abs=4 * (0.25 / 1024) ** 0.5)  # four standard deviations
