"""Near-duplicates: word shingles, MinHash signatures in bands, exact Jaccard similarity.

Broder 1997; bands as in Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4: two documents
whose shingles have Jaccard similarity s share a band with probability 1 - (1 - s^rows)^bands. Shingles are hashes of
n words in a row, case and punctuation aside.
"""

import numpy as np
import xxhash

from gpt_core.text.words import Hashes, hash_sequence, ngram_hashes

_BLOCK = 256  # shingles at once: a block of 112 hash values each is 230 kB and stays in the L2 cache


def exact_key(text: str) -> str:
    """The same 32 hex digits for texts that differ in case and white space alone."""
    return xxhash.xxh3_128_hexdigest(" ".join(text.lower().split()).encode())


def shingles(words: Hashes, n: int) -> Hashes:
    """Sorted distinct hashes of all runs of n words; of all words, where there are fewer than n."""
    if len(words) < n:
        return np.array([hash_sequence(words)], np.uint64)
    return np.unique(ngram_hashes(words, n))


def jaccard(a: Hashes, b: Hashes) -> float:
    """|A and B| / |A or B| of two sets of shingles, each sorted and distinct and not empty."""
    union = np.sort(np.concatenate([a, b]))
    common = int(np.count_nonzero(union[1:] == union[:-1]))
    return common / (len(union) - common)


class MinHasher:
    """The band hashes of a set of shingles. Hash function i is a_i x + b_i modulo 2^64, a_i odd."""

    def __init__(self, *, bands: int, rows_per_band: int, seed: int) -> None:
        self.bands = bands
        count = bands * rows_per_band
        draws = [xxhash.xxh3_64_intdigest(f"{seed}:{i}".encode()) for i in range(2 * count)]
        self.factors = np.array(draws[:count], np.uint64)[:, None] | np.uint64(1)  # (bands x rows, 1)
        self.offsets = np.array(draws[count:], np.uint64)[:, None]

    def signature(self, shingles: Hashes) -> Hashes:
        """(bands x rows,): the least value of every hash function over the shingles, of which there is one or more."""
        least = np.full(len(self.factors), np.iinfo(np.uint64).max, np.uint64)
        for start in range(0, len(shingles), _BLOCK):
            values = self.factors * shingles[start : start + _BLOCK]  # (bands x rows, block)
            values += self.offsets
            np.minimum(least, values.min(axis=1), out=least)
        return least

    def band_hashes(self, shingles: Hashes) -> list[int]:
        """`bands` signed 64-bit hashes, each of one band's rows and of the band's number."""
        bands = self.signature(shingles).reshape(self.bands, -1)
        return [xxhash.xxh3_64_intdigest(row.tobytes(), seed=i) - (1 << 63) for i, row in enumerate(bands)]
