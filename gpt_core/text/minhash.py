"""Near-duplicates: word shingles, MinHash signatures in bands, exact Jaccard similarity.

Broder 1997; bands as in Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4: two documents
whose shingles have Jaccard similarity s share a band with probability 1 - (1 - s^rows)^bands. Shingles are hashes of
n words in a row, case and punctuation aside; of all words, where there are fewer than n.

Hash function i of a 32-bit shingle x is a_i x + b_i modulo 2^32 with a_i odd: a bijection, eight or sixteen at once.
Jaccard similarities are of 64-bit shingles.
"""

import numpy as np
import numpy.typing as npt
import xxhash

from gpt_core.kernel import kernel
from gpt_core.text.lines import Table, find, table_size
from gpt_core.text.words import Hashes, hash_all, hash_ngrams, mix

Bands = npt.NDArray[np.int64]
Permutations = npt.NDArray[np.uint32]


def draw_permutations(*, count: int, seed: int) -> tuple[Permutations, Permutations]:
    """(a, b) of `count` hash functions."""
    draws = [xxhash.xxh3_64_intdigest(f"{seed}:{i}".encode()) for i in range(2 * count)]
    halves = (np.array(draws, np.uint64) >> np.uint64(32)).astype(np.uint32)
    return halves[:count] | np.uint32(1), halves[count:]


@kernel
def make_shingles(words: Hashes, count: int, n: int, grams: Hashes) -> int:
    """`grams` begins with the shingles of the first `count` words, in order, repeated ones repeated."""
    if count >= n:
        return hash_ngrams(words, count, n, grams)
    grams[0] = hash_all(words, count, 0)
    return 1


@kernel
def sign(shingles: Hashes, count: int, factors: Permutations, offsets: Permutations, least: Permutations) -> None:
    """least[i]: the least value of hash function i over the first `count` shingles."""
    least[:] = np.uint32(0xFFFFFFFF)
    for k in range(count):
        shingle = np.uint32(shingles[k] >> np.uint64(32))
        for i in range(len(factors)):
            value = np.uint32(factors[i] * shingle + offsets[i])
            least[i] = min(least[i], value)


@kernel
def hash_bands(least: Permutations, rows: int, bands: Bands) -> None:
    """bands[i]: a hash of the i-th `rows` values, and of i."""
    for i in range(len(bands)):
        running = np.uint64(i)
        for j in range(rows):
            running = mix(running * np.uint64(0x9E3779B97F4A7C15) + np.uint64(least[i * rows + j]))
        bands[i] = np.int64(running)


@kernel
def common_shingles(a: Hashes, n_a: int, b: Hashes, n_b: int, keys: Table, is_met: npt.NDArray[np.bool_]) -> float:
    """|A and B| / |A or B| of two sets of shingles, repeated ones counted once."""
    size = table_size(n_a)
    keys[:size] = 0
    is_met[:size] = False
    mask = np.uint64(size - 1)
    distinct_a = common = only_b = 0
    for i in range(n_a):
        key = a[i] | np.uint64(1)
        at = find(keys, mask, key)
        distinct_a += keys[at] == 0
        keys[at] = key
    for i in range(n_b):
        key = b[i] | np.uint64(1)
        at = find(keys, mask, key)
        if keys[at] == key and not is_met[at]:
            is_met[at] = True
            common += 1
    # distinct shingles of B alone: B is hashed into a table of its own
    size = table_size(n_b)
    keys[:size] = 0
    mask = np.uint64(size - 1)
    for i in range(n_b):
        key = b[i] | np.uint64(1)
        at = find(keys, mask, key)
        only_b += keys[at] == 0
        keys[at] = key
    return common / (distinct_a + only_b - common)
