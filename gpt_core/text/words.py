"""A text split into tokens, once, for all rules: over its UTF-8 bytes, compiled by numba.

A token is a word (letters, digits, marks and underscores; also don't, 1,234.5 and Mr.) or another visible
character, with those that repeat it (--, ...).
In scripts without spaces every letter is a word (characters.py). Of a token the rules need two 64-bit hashes, of its
characters as they are written and in lower case, its length and its kind. 400 MB per CPU-second.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gpt_core.kernel import kernel
from gpt_core.text.characters import CODE_POINTS, DIGIT, LETTER, LONE, MARK, SPACE, WORD, character_tables

Bytes: TypeAlias = npt.NDArray[np.uint8]
Hashes: TypeAlias = npt.NDArray[np.uint64]
Offsets: TypeAlias = npt.NDArray[np.int64]

IS_WORD, HAS_LETTER, IS_LONE, IS_CONTRACTED, IS_JOINED = 1, 2, 4, 8, 16  # bits of a token's kind

STEP = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no bit of what came before is lost
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_SEED = np.uint64(0xCBF29CE484222325)
_32, _29 = np.uint64(32), np.uint64(29)

# Words of two to five letters before a full stop that belongs to them and ends no sentence.
_ABBREVIATIONS = (
    "mr mrs ms dr st jr sr vs gen gov sen rep col lt sgt capt rev hon prof inc ltd co corp bros etc ave blvd mt ft jan "
    "feb mar apr jun jul aug sep sept oct nov dec ala ariz ark colo conn fla kan ky mich minn miss mont neb nev okla "
    "ore pa tenn va wash wis adm"
)
ABBREVIATIONS = np.array([int.from_bytes(word.encode(), "big") for word in _ABBREVIATIONS.split()], np.int64)


@kernel
def decode(data: Bytes, at: int) -> tuple[int, int]:
    """(code point, where the next begins) of the UTF-8 sequence that begins at `at`."""
    first = int(data[at])
    if first < 0x80:
        return first, at + 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | int(data[at + 1]) & 0x3F, at + 2
    second, third = int(data[at + 1]) & 0x3F, int(data[at + 2]) & 0x3F
    if first < 0xF0:
        return (first & 0x0F) << 12 | second << 6 | third, at + 3
    return (first & 0x07) << 18 | second << 12 | third << 6 | int(data[at + 3]) & 0x3F, at + 4


@kernel
def mix(value: np.uint64) -> np.uint64:
    """`value` with every bit spread over all bits; a bijection."""
    value = (value ^ (value >> _32)) * _MIX
    return value ^ (value >> _29)


@kernel
def is_abbreviated(data: Bytes, start: int, stop: int) -> bool:
    """Whether the word that ends at `stop`, before a full stop, is an initial or an abbreviation."""
    packed = letters = 0
    while stop > start and letters < 6:
        byte = int(data[stop - 1]) | 32
        if not 97 <= byte <= 122:
            break
        packed |= byte << 8 * letters
        letters += 1
        stop -= 1
    if letters == 1:
        return True
    for abbreviation in ABBREVIATIONS:  # noqa: SIM110  numba knows no any()
        if packed == abbreviation:
            return True
    return False


@kernel
def split_words(
    data: Bytes,
    start: int,
    stop: int,
    classes: Bytes,
    lower: npt.NDArray[np.uint32],
    hashes: Hashes,
    folded: Hashes,
    lengths: npt.NDArray[np.int32],
    kinds: Bytes,
) -> int:
    """The number of tokens in data[start:stop], which is UTF-8; the four arrays hold them from their beginning.

    Each must have room for stop - start tokens. Lengths are characters.
    """
    count = 0
    at = end = start
    while at < stop:
        code, following = decode(data, at)
        kind = classes[code] if code < CODE_POINTS else np.uint8(0)
        if kind & SPACE:
            at = following
            continue
        written = folds = _SEED
        written = (written ^ np.uint64(code)) * STEP
        folds = (folds ^ np.uint64(lower[code] if code < CODE_POINTS else code)) * STEP
        length = 1
        traits = IS_JOINED if at == end else 0  # no white space stands before it
        at = following
        if kind & WORD:
            traits |= IS_WORD
            if kind & LETTER:
                traits |= HAS_LETTER
            is_lone = (kind & LONE) != 0
            if is_lone:
                traits |= IS_LONE
            last_is_digit = (kind & DIGIT) != 0
            while at < stop:
                byte = data[at]
                if byte < 0x80 and classes[byte] & WORD and not is_lone:  # most bytes; none of them is LONE or MARK
                    kind = classes[byte]
                    if kind & LETTER:
                        traits |= HAS_LETTER
                    last_is_digit = (kind & DIGIT) != 0
                    written = (written ^ np.uint64(byte)) * STEP
                    folds = (folds ^ np.uint64(lower[byte])) * STEP
                    length += 1
                    at += 1
                    continue
                code, following = decode(data, at)
                kind = classes[code] if code < CODE_POINTS else np.uint8(0)
                if not kind & MARK:
                    if is_lone or kind & LONE:
                        break
                    if not kind & WORD:  # only a sign between two parts of a word goes on: don't, 1,234.5
                        is_apostrophe = code == 0x27 or code == 0x2019
                        is_point = last_is_digit and (code == 0x2E or code == 0x2C)
                        if following >= stop or not (is_apostrophe or is_point):
                            break
                        after, _ = decode(data, following)
                        next_kind = classes[after] if after < CODE_POINTS else np.uint8(0)
                        if next_kind & LONE or not next_kind & (DIGIT if is_point else WORD):
                            break
                        if is_apostrophe:
                            traits |= IS_CONTRACTED
                    elif kind & LETTER:
                        traits |= HAS_LETTER
                    last_is_digit = (kind & DIGIT) != 0
                written = (written ^ np.uint64(code)) * STEP
                folds = (folds ^ np.uint64(lower[code] if code < CODE_POINTS else code)) * STEP
                length += 1
                at = following
            if at < stop and data[at] == 46 and length <= 5 and is_abbreviated(data, start, at):
                length += 1
                at += 1
        else:
            sign = code
            while at < stop:  # --, ... and *** are one token
                code, following = decode(data, at)
                if code != sign:
                    break
                written = (written ^ np.uint64(code)) * STEP
                folds = (folds ^ np.uint64(code)) * STEP
                length += 1
                at = following
        hashes[count] = mix(written)
        folded[count] = mix(folds)
        lengths[count] = length
        kinds[count] = traits
        count += 1
        end = at
    return count


@kernel
def keep_words(folded: Hashes, kinds: Bytes, count: int, words: Hashes) -> int:
    """The number of words among the first `count` tokens; `words` begins with their hashes in lower case."""
    found = 0
    for i in range(count):
        if kinds[i] & IS_WORD:
            words[found] = folded[i]
            found += 1
    return found


@kernel
def hash_ngrams(hashes: Hashes, count: int, n: int, grams: Hashes) -> int:
    """`grams` begins with a hash of every run of n of the first `count` entries; returns how many there are."""
    found = max(0, count - n + 1)
    leaving = np.uint64(1)
    for _ in range(n):
        leaving = leaving * STEP
    running = np.uint64(0)
    for i in range(count):
        running = running * STEP + hashes[i]
        if i >= n:
            running = running - hashes[i - n] * leaving
        if i >= n - 1:
            grams[i - n + 1] = mix(running)
    return found


@kernel
def hash_all(hashes: Hashes, count: int, seed: int) -> np.uint64:
    """One hash of a whole sequence."""
    running = mix(np.uint64(count) * STEP + np.uint64(seed))
    for i in range(count):
        running = mix(running * STEP + hashes[i])
    return running


class Scratch:
    """Room for the tokens of one document, kept from one to the next."""

    def __init__(self) -> None:
        self.room = 0
        self.grow(1 << 16)

    def grow(self, tokens: int) -> None:
        """All arrays have room for `tokens` entries."""
        if tokens <= self.room:
            return
        self.room = tokens
        self.hashes = np.empty(tokens, np.uint64)
        self.folded = np.empty(tokens, np.uint64)
        self.words = np.empty(tokens, np.uint64)
        self.grams = np.empty(tokens, np.uint64)
        self.lengths = np.empty(tokens, np.int32)
        self.kinds = np.empty(tokens, np.uint8)
        self.places, self.marks = np.empty(tokens, np.int32), np.empty(tokens, np.int32)


def buffers(texts: pa.Array) -> tuple[Bytes, Offsets]:
    """(the UTF-8 bytes of all texts, the borders between them) of a string array without nulls; no copy of bytes."""
    width = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    _, borders, data = texts.buffers()
    offsets = np.frombuffer(borders, width)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    return np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8), offsets


def hash_words(text: str) -> Hashes:
    """The words of `text` in order: hashes of them in lower case."""
    data = np.frombuffer(text.encode(), np.uint8)
    scratch = Scratch()
    scratch.grow(len(data))
    classes, lower = character_tables()
    count = split_words(
        data, 0, len(data), classes, lower, scratch.hashes, scratch.folded, scratch.lengths, scratch.kinds
    )
    return scratch.words[: keep_words(scratch.folded, scratch.kinds, count, scratch.words)].copy()
