"""A text's lines and paragraphs, once, for all rules: over its UTF-8 bytes, compiled by numba."""

import numba
import numpy as np
import numpy.typing as npt

from gpt_core.kernel import kernel
from gpt_core.text.characters import CODE_POINTS, SPACE
from gpt_core.text.words import STEP, Bytes, Hashes, Offsets, decode, mix


@kernel
def hash_bytes(data: Bytes, start: int, stop: int) -> np.uint64:
    """A hash of data[start:stop], eight bytes at a time."""
    running = np.uint64(stop - start)
    at = start
    while at + 8 <= stop:
        part = np.uint64(0)
        for i in range(8):
            part |= np.uint64(data[at + i]) << np.uint64(8 * i)
        running = (running ^ part) * STEP
        running ^= running >> np.uint64(32)
        at += 8
    part = np.uint64(0)
    while at < stop:
        part = part << np.uint64(8) | np.uint64(data[at])
        at += 1
    return mix((running ^ part) * STEP)


@kernel
def count_characters(data: Bytes, start: int, stop: int) -> int:
    """Code points in data[start:stop]."""
    found = 0
    for i in range(start, stop):
        found += (data[i] & 0xC0) != 0x80
    return found


@kernel
def split_lines(
    data: Bytes, start: int, stop: int, starts: Offsets, stops: Offsets, characters: Offsets, hashes: Hashes
) -> int:
    """The number of lines that are not empty in data[start:stop]; the arrays begin with where each lies, its hash."""
    found = 0
    begin = start
    for at in range(start, stop + 1):
        if at == stop or data[at] == 10:
            if at > begin:
                starts[found], stops[found] = begin, at
                characters[found] = count_characters(data, begin, at)
                hashes[found] = hash_bytes(data, begin, at)
                found += 1
            begin = at + 1
    return found


@kernel
def join_paragraphs(
    starts: Offsets, stops: Offsets, n_lines: int, data: Bytes, first: Offsets, last: Offsets, hashes: Hashes
) -> int:
    """The number of paragraphs, runs of lines without an empty one between: each from line `first` to line `last`."""
    found = 0
    for i in range(n_lines):
        if i == 0 or starts[i] > stops[i - 1] + 1:
            first[found] = i
            found += 1
        last[found - 1] = i
    for i in range(found):
        hashes[i] = hash_bytes(data, starts[first[i]], stops[last[i]])
    return found


@kernel
def trim(data: Bytes, start: int, stop: int, classes: Bytes) -> tuple[int, int]:
    """data[start:stop] without white space at both ends."""
    while start < stop:
        code, following = decode(data, start)
        if code >= CODE_POINTS or not classes[code] & SPACE:
            break
        start = following
    while start < stop:
        before = previous(data, stop)
        code, _ = decode(data, before)
        if code >= CODE_POINTS or not classes[code] & SPACE:
            break
        stop = before
    return start, stop


@kernel
def previous(data: Bytes, at: int) -> int:
    """Where the code point that ends at `at` begins."""
    at -= 1
    while (data[at] & 0xC0) == 0x80:
        at -= 1
    return at


@kernel
def class_before(data: Bytes, at: int, classes: Bytes) -> int:
    """Class bits of the code point that ends at `at`."""
    code, _ = decode(data, previous(data, at))
    return classes[code] if code < CODE_POINTS else 0


@kernel
def ends_in_ellipsis(data: Bytes, start: int, stop: int) -> bool:
    """Whether data[start:stop] ends in three dots, or in the one character for them."""
    if stop - start < 3:
        return False
    a, b, c = data[stop - 3], data[stop - 2], data[stop - 1]
    return bool((a == 46 and b == 46 and c == 46) or (a == 0xE2 and b == 0x80 and c == 0xA6))


@kernel
def begins_with_bullet(data: Bytes, start: int, stop: int) -> bool:
    """Whether data[start:stop] begins with a bullet, a dash or an asterisk."""
    if start == stop:
        return False
    if data[start] == 45 or data[start] == 42:
        return True
    return bool(stop - start >= 3 and data[start] == 0xE2 and data[start + 1] == 0x80 and data[start + 2] == 0xA2)


class LineScratch:
    """Room for the lines and paragraphs of one document, kept from one to the next."""

    def __init__(self) -> None:
        self.room = 0
        self.grow(1 << 12)

    def grow(self, lines: int) -> None:
        """All arrays have room for `lines` entries."""
        if lines <= self.room:
            return
        self.room = lines
        self.starts, self.stops, self.characters, self.first, self.last = (np.empty(lines, np.int64) for _ in range(5))
        self.hashes, self.paragraphs = np.empty(lines, np.uint64), np.empty(lines, np.uint64)


@kernel
def most_lines(data: Bytes, offsets: Offsets) -> int:
    """Most lines of any text, empty ones in."""
    most = 0
    for i in range(len(offsets) - 1):
        found = 1
        for at in range(offsets[i], offsets[i + 1]):
            found += data[at] == 10
        most = max(most, found)
    return most


Table = npt.NDArray[np.uint64]
"""Open addressing: keys (0: free); a power of two of them, at least twice what is put in."""


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def find(keys: Table, mask: np.uint64, key: np.uint64) -> np.uint64:
    """The place of `key`, which is not 0, or of the free slot where it belongs."""
    at = (key ^ (key >> np.uint64(32))) & mask
    while keys[at] != 0 and keys[at] != key:
        at = (at + np.uint64(1)) & mask
    return at


@kernel
def table_size(entries: int) -> int:
    """Slots of a table for so many entries."""
    size = 16
    while size < 2 * entries:
        size *= 2
    return size
