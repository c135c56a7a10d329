"""Learning the merges: byte-level BPE on a sample of documents.

The sample depends on the set of documents alone: documents in the order of the xxh3-64 of their id (then of their
text, should two share an id) are taken until `sample_bytes` are reached. The merges depend on the sample and the
settings alone: training counts words, so the order of the texts does not matter.

Cost: two passes over the Parquet files, 32 bytes of memory a document, and the trainer's count of distinct words.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import tokenizers

from gpt_core.errors import UserError
from gpt_core.recipe import Tokenizer as Settings
from gpt_core.tokenizer.documents import hash_strings, read_batches
from gpt_core.tokenizer.tokenizer import Tokenizer, build_backend, close_vocabulary

MEASURED_BYTES = 8_000_000  # of text that bytes_per_token is measured on: four seconds of one core

logger = logging.getLogger("gptmill")


@dataclass(frozen=True)
class Sample:
    """Which documents the merges are learned from. `ranks[i]` is the place of document i, counted as they are read."""

    ranks: npt.NDArray[np.int64]
    documents: int
    text_bytes: int
    measured_documents: int  # the first so many of the sample

    def texts(self, paths: Sequence[Path], *, documents: int | None = None) -> Iterator[list[str]]:
        """The texts of the sample, or of its first `documents`, in batches, as they stand in `paths`."""
        limit = self.documents if documents is None else documents
        start = 0
        for batch in read_batches(paths, columns=("text",)):
            chosen = np.flatnonzero(self.ranks[start : start + len(batch)] < limit)
            start += len(batch)
            if len(chosen):
                yield batch.column("text").take(chosen).to_pylist()


def choose_sample(paths: Sequence[Path], *, sample_bytes: int) -> Sample:
    """The first documents in the order of their hash that reach `sample_bytes` of UTF-8, or all of them."""
    keys, sizes = [], []
    for batch in read_batches(paths, columns=("id", "text")):
        keys.append([hash_strings(batch.column(name)) for name in ("text", "id")])
        sizes.append(pc.binary_length(batch.column("text")).to_numpy().astype(np.int64))
    order = np.lexsort(np.concatenate(keys, axis=1))  # the last key, the id's, comes first
    total_bytes = np.cumsum(np.concatenate(sizes)[order])
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))

    def reaching(limit: int) -> int:
        return min(int(np.searchsorted(total_bytes, limit)) + 1, len(order))

    taken = reaching(sample_bytes)
    return Sample(
        ranks=ranks,
        documents=taken,
        text_bytes=int(total_bytes[taken - 1]),
        measured_documents=min(reaching(MEASURED_BYTES), taken),
    )


def train_tokenizer(
    batches: Iterable[list[str]], settings: Settings, *, seen: Callable[[int], None] = lambda _: None
) -> Tokenizer:
    """The tokenizer whose merges are learned from all texts; `seen` is told the documents of every batch read.

    Where the texts hold too few repeated pairs the vocabulary is smaller than asked for; a warning says so.
    Raises UserError for an end-of-text mark that a text could spell as one token.
    """
    backend = build_backend()
    if len(backend.pre_tokenizer.pre_tokenize_str(settings.end_of_text)) == 1:
        raise _mark_is_text(settings.end_of_text)

    def watched() -> Iterator[list[str]]:
        for batch in batches:
            yield batch
            seen(len(batch))

    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=settings.vocab_size - 1,
        min_frequency=settings.min_frequency,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(watched(), trainer)
    if backend.token_to_id(settings.end_of_text) is not None:
        raise _mark_is_text(settings.end_of_text)
    tokenizer = close_vocabulary(backend, settings.end_of_text)
    if tokenizer.vocab_size < settings.vocab_size:
        logger.warning(
            "the sample gives a vocabulary of %d tokens, tokenizer.vocab_size asks for %d: too few pairs occur "
            "tokenizer.min_frequency=%d times",
            tokenizer.vocab_size,
            settings.vocab_size,
            settings.min_frequency,
        )
    return tokenizer


def _mark_is_text(mark: str) -> UserError:
    return UserError(
        f"tokenizer.end_of_text={mark!r} could be a token of text; take a mark of several parts, as <|endoftext|>"
    )
