"""Gopher's repetition statistics: Rae et al. 2021, appendix A1.1, table A1; thresholds stand in the recipe.

Lines and paragraphs: each occurrence after the first is a duplicate. The most frequent 2- to 4-gram: its
characters with the spaces between its tokens, times its occurrences; one that occurs once repeats nothing, unless
gopher_repetition.count_single_ngrams takes the paper by the letter, as datatrove 0.10 does.
Repeated 5- to 10-grams: read from left to right, an n-gram read before counts its characters and is stepped over,
so that no character counts twice. Shares are of the text's characters.
"""

import numpy as np
import numpy.typing as npt

from gpt_core.text.kernel import kernel
from gpt_core.text.lines import Table, find, table_size
from gpt_core.text.words import Hashes, Offsets, extend_ngrams, mix

Row = npt.NDArray[np.float64]
_ONE = np.uint64(1)


@kernel
def duplicates(hashes: Hashes, characters: Offsets, count: int, keys: Table) -> tuple[int, int]:
    """(how many of the `count` parts stood before, the characters in those)."""
    size = table_size(count)
    keys[:size] = 0
    mask = np.uint64(size - 1)
    found = repeated = 0
    for i in range(count):
        key = hashes[i] | _ONE
        at = find(keys, mask, key)
        if keys[at] == key:
            found += 1
            repeated += characters[i]
        keys[at] = key
    return found, repeated


@kernel
def top_ngrams(
    hashes: Hashes,
    ends: Offsets,
    count: int,
    size_characters: int,
    grams: Hashes,
    keys: Table,
    tallies: npt.NDArray[np.int32],
    firsts: npt.NDArray[np.int32],
    count_single: bool,
    out: Row,
) -> None:
    """`out` holds the shares of the most frequent 2-, 3- and 4-gram. ends[i]: characters in the first i tokens."""
    out[:3] = 0.0
    grams[:count] = hashes[:count]
    for n in range(2, 5):
        found = extend_ngrams(grams, hashes, n, count)
        size = table_size(found)
        keys[:size] = 0
        mask = np.uint64(size - 1)
        most, most_first = 1, 0
        for i in range(found):
            key = mix(grams[i]) | _ONE
            at = find(keys, mask, key)
            if keys[at] == key:
                tallies[at] += 1
                if tallies[at] > most or (tallies[at] == most and firsts[at] < most_first):
                    most, most_first = tallies[at], firsts[at]
            else:
                keys[at] = key
                tallies[at] = 1
                firsts[at] = i
        if most < 2 and not count_single:
            return  # no longer n-gram occurs twice either
        if not found:
            return
        spelt = ends[most_first + n] - ends[most_first] + n - 1
        out[n - 2] = min(1.0, spelt * most / size_characters)  # `a a a` overlaps itself


@kernel
def duplicate_ngrams(
    hashes: Hashes, ends: Offsets, count: int, size_characters: int, grams: Hashes, keys: Table, out: Row
) -> None:
    """`out` holds the shares of repeated 5- to 10-grams."""
    out[:6] = 0.0
    grams[:count] = hashes[:count]
    for n in range(2, 5):
        extend_ngrams(grams, hashes, n, count)
    for n in range(5, 11):
        found = extend_ngrams(grams, hashes, n, count)
        size = table_size(found)
        keys[:size] = 0
        mask = np.uint64(size - 1)
        characters = at = 0
        while at < found:
            key = mix(grams[at]) | _ONE
            place = find(keys, mask, key)
            if keys[place] == key:
                characters += ends[at + n] - ends[at]
                at += n
            else:
                keys[place] = key
                at += 1
        if characters == 0:
            return  # no n-gram occurs twice, and so no longer one
        out[n - 5] = characters / size_characters
