"""Evaluation texts kept out of the corpus: Brown et al. 2020, appendix C.

A document is contaminated if it shares n words in a row, case and punctuation aside, with an evaluation text. An
evaluation text of fewer than n words counts only where it is the whole document. Words are compared by 64-bit
hashes: among 10^7 evaluation n-grams, one document in 2,000,000 of a thousand words is wronged by chance.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpt_core.kernel import kernel
from gpt_core.text.lines import Table, find, table_size
from gpt_core.text.words import Hashes, hash_all, hash_ngrams, hash_words

NONE, SHARED, WHOLE = 0, 1, 2
_ONE = np.uint64(1)


@dataclass(frozen=True, slots=True)
class ContaminationIndex:
    """Which evaluation text has an n-gram: a hash table, 48 bytes an n-gram at most."""

    ngram_words: int
    keys: Table
    owners: npt.NDArray[np.int32]  # entry of `names` for each key; -1 - entry: the key is a whole short text
    names: Sequence[str]  # of each evaluation text: "file id", or file:line

    def tell(self, owner: int) -> str:
        """What a document has in common with an evaluation text; `owner` as find_contamination gives it."""
        if owner < 0:
            return f"is the evaluation text {self.names[-1 - owner]}"
        return f"shares {self.ngram_words} words in a row with {self.names[owner]}"


@kernel
def find_contamination(
    words: Hashes, count: int, n: int, grams: Hashes, keys: Table, owners: npt.NDArray[np.int32]
) -> tuple[bool, int]:
    """(whether the first `count` words hold a key, whose it is that stands first)."""
    mask = np.uint64(len(keys) - 1)
    if count < n:
        key = hash_all(words, count, 0) | _ONE
        at = find(keys, mask, key)
        return keys[at] == key and owners[at] < 0, owners[at]
    for i in range(hash_ngrams(words, count, n, grams)):
        key = grams[i] | _ONE
        at = find(keys, mask, key)
        if keys[at] == key and owners[at] >= 0:
            return True, owners[at]
    return False, 0


@kernel
def _insert(keys: Table, owners: npt.NDArray[np.int32], found: Hashes, owner: int) -> None:
    mask = np.uint64(len(keys) - 1)
    for i in range(len(found)):
        key = found[i] | _ONE
        at = find(keys, mask, key)
        if keys[at] != key:  # an n-gram in two texts belongs to the first
            keys[at] = key
            owners[at] = owner


def index_evaluation_texts(texts: Iterable[tuple[str, str]], *, ngram_words: int) -> ContaminationIndex:
    """The index over all `texts`, each with its name before it. An n-gram in two texts belongs to the first."""
    names: list[str] = []
    found: list[tuple[Hashes, int]] = []
    for name, text in texts:
        words = hash_words(text)
        if len(words) < ngram_words:
            found.append((np.array([hash_all(words, len(words), 0)], np.uint64), -1 - len(names)))
        else:
            grams = np.empty(len(words), np.uint64)
            found.append((grams[: hash_ngrams(words, len(words), ngram_words, grams)], len(names)))
        names.append(name)
    size = table_size(sum(len(grams) for grams, _ in found))
    keys, owners = np.zeros(size, np.uint64), np.zeros(size, np.int32)
    for grams, owner in found:
        _insert(keys, owners, grams, owner)
    return ContaminationIndex(ngram_words, keys, owners, names)
