"""A text split into tokens, once, for all rules.

A token is a word (letters, digits, marks and underscores; also don't and 1,234.5) or one other visible character.
Each distinct token is looked at once a process, in a table of numpy columns; a document is then an array of rows of
that table, and every rule is arithmetic on arrays.
"""

import re
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import xxhash

Hashes: TypeAlias = npt.NDArray[np.uint64]

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Rae et al. 2021, appendix A1.1
TABLE_ROWS = 1 << 19  # some 60 MB when full; then the table begins anew

_TOKEN = re.compile(r"\w+(?:['\u2019]\w+|(?<=\d)[.,]\d\w*)*|[^\w\s]")
_STARTS_WORD = re.compile(r"\w")
_WORD, _LETTER, _FIRST_STOP = 1, 2, 2  # bits of a token's kind; stop word i has the bit 1 << (_FIRST_STOP + i)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no bit of an n-gram's first word is lost


class _Table(dict[str, int]):
    """Token -> row of the columns. A token asked for the first time gets the next row."""

    def __init__(self) -> None:
        super().__init__()
        self.hashes = np.zeros(TABLE_ROWS, np.uint64)
        self.folded = np.zeros(TABLE_ROWS, np.uint64)
        self.lengths = np.zeros(TABLE_ROWS, np.int32)
        self.kinds = np.zeros(TABLE_ROWS, np.uint16)

    def __missing__(self, token: str) -> int:
        row = len(self)
        if row == len(self.kinds):  # a row once given stays until the document is done
            self._double()
        self[token] = row
        lower = token.lower()
        self.hashes[row] = xxhash.xxh3_64_intdigest(token.encode())
        self.folded[row] = xxhash.xxh3_64_intdigest(lower.encode())
        self.lengths[row] = len(token)
        self.kinds[row] = _kind(token, lower)
        return row

    def _double(self) -> None:
        rows = 2 * len(self.kinds)
        for column in (self.hashes, self.folded, self.lengths, self.kinds):
            column.resize(rows, refcheck=False)


class Tokens:
    """The tokens of one document, in order. All arrays have one entry a token."""

    def __init__(self, rows: npt.NDArray[np.int64], table: _Table) -> None:
        self.hashes: Hashes = table.hashes[rows]  # of the token as it is written
        self.folded: Hashes = table.folded[rows]  # of the token in lower case
        self.lengths: npt.NDArray[np.int32] = table.lengths[rows]  # characters
        kinds = table.kinds[rows]
        self.is_word: npt.NDArray[np.bool_] = (kinds & _WORD) != 0
        self.has_letter: npt.NDArray[np.bool_] = (kinds & _LETTER) != 0
        self.n_stop_words = (int(np.bitwise_or.reduce(kinds, initial=0)) >> _FIRST_STOP).bit_count()  # distinct ones

    @property
    def words(self) -> Hashes:
        """Hashes of the words alone, in lower case: what near-duplicates and evaluation texts are compared by."""
        return self.folded[self.is_word]


class Splitter:
    """Splits texts and remembers every token it has seen. One a process."""

    def __init__(self) -> None:
        self.table = _Table()

    def split(self, text: str) -> Tokens:
        """The tokens of `text`."""
        if len(self.table) >= TABLE_ROWS:
            self.table = _Table()
        found = _TOKEN.findall(text)
        return Tokens(np.fromiter(map(self.table.__getitem__, found), np.int64, len(found)), self.table)


def ngram_hashes(hashes: Hashes, n: int) -> Hashes:
    """A hash of every run of n entries, in order: len(hashes) - n + 1 of them, none where there are fewer than n."""
    count = max(0, len(hashes) - n + 1)
    grams = hashes[:count].copy()
    for i in range(1, n):
        grams *= _MULTIPLIER
        grams += hashes[i : i + count]
    return grams


def hash_sequence(hashes: Hashes) -> int:
    """One hash of a whole sequence of words."""
    return xxhash.xxh3_64_intdigest(hashes.tobytes())


def _kind(token: str, lower: str) -> int:
    kind = _WORD if _STARTS_WORD.match(token) else 0
    if any(map(str.isalpha, token)):
        kind |= _LETTER
    if lower in STOP_WORDS:
        kind |= 1 << (_FIRST_STOP + STOP_WORDS.index(lower))
    return kind
