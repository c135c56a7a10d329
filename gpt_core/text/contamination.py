"""Evaluation texts kept out of the corpus: Brown et al. 2020, appendix C.

A document is contaminated if it shares n words in a row, case and punctuation aside, with an evaluation text. An
evaluation text of fewer than n words counts only where it is the whole document. Words are compared by 64-bit
hashes: among 10^7 evaluation n-grams, one document in 2,000,000 of a thousand words is wronged by chance.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpt_core.errors import InputError
from gpt_core.text.document import Rejection
from gpt_core.text.read import RecordFormat, read_documents
from gpt_core.text.words import Hashes, Splitter, Tokens, hash_sequence, ngram_hashes


@dataclass(frozen=True, slots=True)
class ContaminationIndex:
    """Where each n-gram of the evaluation texts stands. 12 bytes an n-gram."""

    ngram_words: int
    grams: Hashes  # sorted, distinct
    owners: npt.NDArray[np.int32]  # entry of `names`, for each of `grams`
    whole: dict[int, int]  # hash of all words of a short text -> entry of `names`
    names: Sequence[str]  # "file id" of each evaluation text

    def judge(self, tokens: Tokens) -> Rejection | None:
        """None, or which evaluation text the document repeats first."""
        words = tokens.words
        owner = self.whole.get(hash_sequence(words)) if self.whole else None
        if owner is not None:
            return Rejection("contaminated", f"is the evaluation text {self.names[owner]}")
        grams = ngram_hashes(words, self.ngram_words)
        if not len(grams) or not len(self.grams):
            return None
        places = np.searchsorted(self.grams, grams)
        np.minimum(places, len(self.grams) - 1, out=places)
        hits = np.flatnonzero(self.grams[places] == grams)
        if not len(hits):
            return None
        name = self.names[self.owners[places[hits[0]]]]
        return Rejection("contaminated", f"shares {self.ngram_words} words in a row with {name}")


def index_evaluation_texts(files: Iterable[tuple[str, str]], *, ngram_words: int) -> ContaminationIndex:
    """The index over all records of `files`: (path, its text field). An n-gram in two texts belongs to the first.

    Raises InputError for a file that cannot be read and for a record without a text.
    """
    splitter = Splitter()
    names: list[str] = []
    grams: list[Hashes] = [np.empty(0, np.uint64)]
    whole: dict[int, int] = {}
    for path, text_field in files:
        for name, text in _read_texts(path, text_field):
            words = splitter.split(text).words
            found = ngram_hashes(words, ngram_words)
            if not len(found):
                whole.setdefault(hash_sequence(words), len(names))
            grams.append(found)
            names.append(name)
    owners = np.repeat(np.arange(-1, len(names), dtype=np.int32), [len(found) for found in grams])
    distinct, first = np.unique(np.concatenate(grams), return_index=True)
    return ContaminationIndex(ngram_words, distinct, owners[first], whole, names)


def _read_texts(path: str, text_field: str) -> Iterable[tuple[str, str]]:
    try:
        for _, document in read_documents(path, RecordFormat(text_field=text_field, source=path)):
            if document.rejection is not None:
                raise InputError(f"{document.rejection.detail}; evaluation texts must all be read")
            yield f"{path.rpartition('/')[2]} {document.id}", document.text
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}; it holds evaluation texts") from None
