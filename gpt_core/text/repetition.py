"""Gopher's repetition statistics: Rae et al. 2021, appendix A1.1, table A1; thresholds stand in the recipe.

Lines and paragraphs: each occurrence after the first is a duplicate. The most frequent 2- to 4-gram: its
characters with the spaces between its tokens, times its occurrences; one that occurs once repeats nothing, unless
gopher_repetition.count_single_ngrams takes the paper by the letter, as datatrove 0.10 does.
Repeated 5- to 10-grams: read from left to right, an n-gram read before counts its characters and is stepped over,
so that no character counts twice. Shares are of the text's characters.
"""

import numpy as np
import numpy.typing as npt

from gpt_core.kernel import kernel
from gpt_core.text.lines import Table, find, table_size
from gpt_core.text.words import STEP, Hashes, Offsets, mix

Numbers = npt.NDArray[np.int32]
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
def measure_ngrams(
    hashes: Hashes,
    ends: Offsets,
    count: int,
    size_characters: int,
    grams: Hashes,
    keys: Table,
    tallies: Numbers,
    firsts: Numbers,
    places: Numbers,
    slots: Numbers,
    count_single: bool,
    out: Row,
) -> None:
    """`out` holds the shares of the most frequent 2-, 3- and 4-gram, then those of repeated 5- to 10-grams.

    ends[i]: characters in the first i tokens. An n-gram can occur twice only where its first n - 1 tokens do, so that
    every n looks at the `places` alone that are left of the former: of prose a third, a tenth, a twentieth.
    """
    out[:9] = 0.0
    left = count
    for i in range(count):
        grams[i] = hashes[i]
        places[i] = i
    for n in range(2, 5):
        left = _extend(grams, hashes, places, left, n, count)
        most, most_first = _tally(grams, places, left, keys, tallies, firsts, slots)
        if count >= n and (most >= 2 or count_single):
            spelt = ends[most_first + n] - ends[most_first] + n - 1
            out[n - 2] = min(1.0, spelt * most / size_characters)  # `a a a` overlaps itself
        repeated = 0
        for k in range(left):
            if tallies[slots[k]] >= 2:
                places[repeated] = places[k]
                repeated += 1
        left = repeated
    for n in range(5, 11):
        left = _extend(grams, hashes, places, left, n, count)
        characters = _step_over(grams, places, left, n, ends, keys)
        if characters == 0:
            return  # no n-gram occurs twice, and so no longer one
        out[n - 2] = characters / size_characters


@kernel
def _extend(grams: Hashes, hashes: Hashes, places: Numbers, left: int, n: int, count: int) -> int:
    """grams[p], hashes of n - 1 tokens, become those of n for every place p; returns how many have n tokens."""
    found = 0
    for k in range(left):
        at = places[k]
        if at + n > count:
            break
        grams[at] = grams[at] * STEP + hashes[at + n - 1]
        found += 1
    return found


@kernel
def _tally(
    grams: Hashes, places: Numbers, left: int, keys: Table, tallies: Numbers, firsts: Numbers, slots: Numbers
) -> tuple[int, int]:
    """(occurrences of the most frequent n-gram, its first place); of equally frequent ones the first.

    slots[k]: where tallies has the occurrences of the n-gram of the k-th place.
    """
    size = table_size(left)
    keys[:size] = 0
    mask = np.uint64(size - 1)
    most, most_first = 1, 0
    for k in range(left):
        key = mix(grams[places[k]]) | _ONE
        at = find(keys, mask, key)
        slots[k] = at
        if keys[at] == key:
            tallies[at] += 1
            if tallies[at] > most or (tallies[at] == most and firsts[at] < most_first):
                most, most_first = tallies[at], firsts[at]
        else:
            keys[at] = key
            tallies[at] = 1
            firsts[at] = places[k]
    return most, most_first


@kernel
def _step_over(grams: Hashes, places: Numbers, left: int, n: int, ends: Offsets, keys: Table) -> int:
    """Characters in repeated n-grams, each read before and then stepped over."""
    size = table_size(left)
    keys[:size] = 0
    mask = np.uint64(size - 1)
    characters = at = 0
    for k in range(left):
        if places[k] < at:
            continue
        at = places[k]
        key = mix(grams[at]) | _ONE
        place = find(keys, mask, key)
        if keys[place] == key:
            characters += ends[at + n] - ends[at]
            at += n
        else:
            keys[place] = key
            at += 1
    return characters
