"""Phrases in a text, whatever the case of ASCII letters: a handful of needles over UTF-8 bytes, compiled by numba."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpt_core.kernel import kernel
from gpt_core.text.words import Bytes, Offsets

_8, _PAIR = np.uint64(8), np.uint64(0xFFFF)


@dataclass(frozen=True)
class Phrases:
    """The needles in lower case, one behind the other."""

    needles: Bytes
    borders: Offsets
    begins: npt.NDArray[np.bool_]  # (65536,): whether a needle begins with these two bytes, in either case

    @classmethod
    def of(cls, phrases: Sequence[str]) -> "Phrases":
        """The phrases, of which there may be none."""
        encoded = [phrase.lower().encode() for phrase in phrases]
        begins = np.zeros((256, 256), np.bool_)
        for needle in encoded:
            seconds: list[int] = [*_cases(needle[1])] if len(needle) > 1 else [*range(256)]
            for first, second in itertools.product(_cases(needle[0]), seconds):
                begins[first, second] = True
        borders = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(np.array(list(b"".join(encoded)), np.uint8), borders, begins.reshape(-1))


def _cases(byte: int) -> tuple[int, ...]:
    return (byte, *bytes([byte]).upper())


@kernel
def find_phrase(
    data: Bytes, start: int, stop: int, needles: Bytes, borders: Offsets, begins: npt.NDArray[np.bool_]
) -> int:
    """Number of the phrase that stands first in data[start:stop], or -1."""
    if len(borders) == 1 or start == stop:
        return -1
    pair = np.uint64(data[start])
    for at in range(np.uint64(start + 1), np.uint64(stop)):  # numba asks of signed numbers whether they are negative
        pair = (pair << _8 | np.uint64(data[at])) & _PAIR
        if begins[pair]:
            found = _phrase_at(data, int(at) - 1, stop, needles, borders)
            if found >= 0:
                return found
    return _phrase_at(data, stop - 1, stop, needles, borders)


@kernel
def _phrase_at(data: Bytes, at: int, stop: int, needles: Bytes, borders: Offsets) -> int:
    for i in range(len(borders) - 1):
        length = borders[i + 1] - borders[i]
        if at + length > stop:
            continue
        same = True
        for j in range(length):
            byte = data[at + j]
            if 65 <= byte <= 90:
                byte += np.uint8(32)
            if byte != needles[borders[i] + j]:
                same = False
                break
        if same:
            return i
    return -1
