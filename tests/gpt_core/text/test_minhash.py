"""Shingles, signatures and exact similarity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.text.minhash import MinHasher, exact_key, jaccard, shingles
from gpt_core.text.words import Hashes, Splitter

SETS = st.sets(st.integers(0, 2**64 - 1), min_size=1, max_size=400)


def array(values: set[int]) -> Hashes:
    return np.array(sorted(values), np.uint64)


def shingle(text: str, n: int) -> Hashes:
    return shingles(Splitter().split(text).words, n)


def test_the_exact_key_ignores_case_and_white_space_alone() -> None:
    assert exact_key("A  b\n\nc") == exact_key("a b C")
    assert exact_key("a b c") != exact_key("a b, c")


def test_shingles_are_the_distinct_runs_of_words() -> None:
    assert len(shingle("a b a b a", 2)) == 2
    assert shingle("A, b. C!", 2).tolist() == shingle("a b c", 2).tolist()


@pytest.mark.parametrize("text", ["one two", "", "?!"])
def test_a_text_shorter_than_a_shingle_is_one_shingle(text: str) -> None:
    assert len(shingle(text, 5)) == 1
    assert shingle("one two", 5).tolist() == shingle("One, two.", 5).tolist()


def test_jaccard_worked_by_hand() -> None:
    a, b = shingle("a b c d e", 2), shingle("a b c d f", 2)  # ab bc cd de; ab bc cd df
    assert jaccard(a, b) == 3 / 5


@given(SETS, SETS)
def test_jaccard_is_that_of_the_sets(a: set[int], b: set[int]) -> None:
    assert jaccard(array(a), array(b)) == len(a & b) / len(a | b)


@given(SETS, st.integers(0, 3))
def test_band_hashes_depend_on_the_set_and_the_seed_alone(values: set[int], seed: int) -> None:
    hasher = MinHasher(bands=4, rows_per_band=2, seed=seed)
    bands = hasher.band_hashes(array(values))
    assert bands == MinHasher(bands=4, rows_per_band=2, seed=seed).band_hashes(array(values))
    assert bands != MinHasher(bands=4, rows_per_band=2, seed=seed + 1).band_hashes(array(values))
    assert len(set(bands)) == 4
    assert all(-(2**63) <= band < 2**63 for band in bands)


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.8])
def test_equal_signature_values_estimate_the_similarity(similarity: float) -> None:
    generator = np.random.default_rng(5)
    values = generator.integers(0, 2**64 - 1, 2_000, np.uint64, endpoint=True)
    common = round(2_000 * similarity)
    rest = (2_000 - common) // 2
    a, b = np.unique(values[: common + rest]), np.unique(np.concatenate([values[:common], values[common + rest :]]))
    hasher = MinHasher(bands=64, rows_per_band=16, seed=0)
    estimate = float(np.mean(hasher.signature(a) == hasher.signature(b)))
    assert estimate == pytest.approx(jaccard(a, b), abs=4 * (0.25 / 1024) ** 0.5)  # four standard deviations
