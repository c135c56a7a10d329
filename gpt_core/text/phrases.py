"""Phrases in a text, whatever the case of ASCII letters: a handful of needles over UTF-8 bytes, compiled by numba."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpt_core.text.kernel import kernel
from gpt_core.text.words import Bytes, Offsets


@dataclass(frozen=True)
class Phrases:
    """The needles in lower case, one behind the other."""

    needles: Bytes
    borders: Offsets
    is_first: npt.NDArray[np.bool_]  # (256,): whether a needle begins with this byte, in either case

    @classmethod
    def of(cls, phrases: Sequence[str]) -> "Phrases":
        """The phrases, of which there may be none."""
        encoded = [phrase.lower().encode() for phrase in phrases]
        is_first = np.zeros(256, np.bool_)
        for needle in encoded:
            is_first[[needle[0], needle[:1].upper()[0]]] = True
        borders = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(np.array(list(b"".join(encoded)), np.uint8), borders, is_first)


@kernel
def find_phrase(
    data: Bytes, start: int, stop: int, needles: Bytes, borders: Offsets, is_first: npt.NDArray[np.bool_]
) -> int:
    """Number of the phrase that stands first in data[start:stop], or -1."""
    for at in range(start, stop):
        if not is_first[data[at]]:
            continue
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
