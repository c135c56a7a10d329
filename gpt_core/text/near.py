"""The per-document halves of `dedup` over Arrow arrays: sketch every document, and verify candidate pairs."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gpt_core.kernel import kernel
from gpt_core.recipe import Dedup
from gpt_core.text.characters import character_tables
from gpt_core.text.lines import table_size
from gpt_core.text.minhash import (
    Bands,
    Permutations,
    common_shingles,
    draw_permutations,
    hash_bands,
    make_shingles,
    sign,
)
from gpt_core.text.words import Bytes, Hashes, Offsets, Scratch, buffers, hash_all, keep_words, split_words

PAIR = pa.schema(
    [
        pa.field("member", pa.int64()),
        pa.field("head", pa.int64()),
        pa.field("jaccard", pa.float64()),
    ]
)


class Sketcher:
    """Band hashes and keys of texts, batch after batch. One a thread: it keeps its scratch arrays."""

    def __init__(self, dedup: Dedup) -> None:
        self.dedup = dedup
        self.scratch = Scratch()
        self.classes, self.lower = character_tables()
        self.factors, self.offsets = draw_permutations(count=dedup.bands * dedup.rows_per_band, seed=dedup.seed)

    def bands(self, texts: pa.Array) -> Bands:
        """(n, bands): the band hashes of every text of a string array without nulls."""
        return self.sketch(texts)[0]

    def sketch(self, texts: pa.Array) -> tuple[Bands, Bands]:
        """(the bands, (n, 2): 128 bits that are the same for texts of the same tokens, whatever their case)."""
        data, offsets = buffers(texts)
        self.scratch.grow(int(np.diff(offsets).max(initial=0)) + 1)
        found = np.empty((len(texts), self.dedup.bands), np.int64)
        keys = np.empty((len(texts), 2), np.int64)
        room = self.scratch
        _sketch_all(
            data,
            offsets,
            (self.classes, self.lower),
            (room.hashes, room.folded, room.words, room.grams, room.lengths, room.kinds),
            self.dedup.ngram_words,
            self.factors,
            self.offsets,
            self.dedup.rows_per_band,
            found,
            keys,
        )
        return found, keys


class Verifier:
    """The exact Jaccard similarity of two texts' shingles. One a thread."""

    def __init__(self, *, ngram_words: int) -> None:
        self.ngram_words = ngram_words
        self.scratch = Scratch()
        self.classes, self.lower = character_tables()
        self.keys, self.is_met = np.empty(0, np.uint64), np.empty(0, np.bool_)

    def shingles(self, text: str) -> Hashes:
        """The shingles of a text, in order, repeated ones repeated."""
        data = np.frombuffer(text.encode(), np.uint8)
        room = self.scratch
        room.grow(len(data) + 1)
        count = split_words(
            data, 0, len(data), self.classes, self.lower, room.hashes, room.folded, room.lengths, room.kinds
        )
        count = keep_words(room.folded, room.kinds, count, room.words)
        return room.grams[: make_shingles(room.words, count, self.ngram_words, room.grams)].copy()

    def jaccard(self, a: Hashes, b: Hashes) -> float:
        """|A and B| / |A or B| of two sets of shingles, neither empty."""
        self._size_table(max(len(a), len(b)))
        return float(common_shingles(a, len(a), b, len(b), self.keys, self.is_met))

    def _size_table(self, entries: int) -> None:
        size = table_size(entries)
        if size > len(self.keys):
            self.keys, self.is_met = np.empty(size, np.uint64), np.empty(size, np.bool_)


def verify_batches(batches: Iterable[pa.RecordBatch], *, ngram_words: int) -> Iterator[pa.RecordBatch]:
    """Batches of PAIR: the exact Jaccard similarity of the shingles of every pair.

    Input columns: `head` and `member` (node numbers), `text`. Rows come head by head: first the head's own text, its
    member null, then its members' texts. So a head with millions of members costs no memory.
    """
    verifier = Verifier(ngram_words=ngram_words)
    head: int | None = None
    of_head: Hashes = np.empty(0, np.uint64)
    for batch in batches:
        found: list[tuple[int, int, float]] = []
        columns = (batch.column(name).to_pylist() for name in ("head", "member", "text"))
        for whose, member, text in zip(*columns, strict=True):
            own = verifier.shingles(text)
            if member is None:
                head, of_head = whose, own
                continue
            assert whose == head, f"the text of {whose} must come before its members'"
            found.append((member, whose, verifier.jaccard(own, of_head)))
        if found:
            yield pa.RecordBatch.from_arrays([pa.array(column) for column in zip(*found, strict=True)], schema=PAIR)


@kernel
def _sketch_all(
    data: Bytes,
    offsets: Offsets,
    tables: tuple[Bytes, npt.NDArray[np.uint32]],
    tokens: tuple[Hashes, Hashes, Hashes, Hashes, npt.NDArray[np.int32], Bytes],
    ngram_words: int,
    factors: Permutations,
    shifts: Permutations,
    rows: int,
    bands: Bands,
    keys: Bands,
) -> None:
    classes, lower = tables
    hashes, folded, words, grams, lengths, kinds = tokens
    least = np.empty(len(factors), np.uint32)
    for i in range(len(offsets) - 1):
        count = split_words(data, offsets[i], offsets[i + 1], classes, lower, hashes, folded, lengths, kinds)
        keys[i, 0], keys[i, 1] = np.int64(hash_all(folded, count, 1)), np.int64(hash_all(folded, count, 2))
        count = keep_words(folded, kinds, count, words)
        sign(grams, make_shingles(words, count, ngram_words, grams), factors, shifts, least)
        hash_bands(least, rows, bands[i])
