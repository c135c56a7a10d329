"""Every measure that the text rules ask for, of every document of a batch, in one pass over the UTF-8 bytes.

A document's words, lines and their hashes are computed once, and once more only where the C4 rule removed some of its
lines. Rules compare columns with thresholds afterwards (rules.py), so that a measure is also what the report draws.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gpt_core.kernel import kernel
from gpt_core.recipe import Clean
from gpt_core.text import fineweb, quality
from gpt_core.text.c4 import edit_lines
from gpt_core.text.characters import character_tables
from gpt_core.text.contamination import ContaminationIndex, find_contamination
from gpt_core.text.fineweb import measure_fineweb
from gpt_core.text.lines import (
    LineScratch,
    Table,
    count_characters,
    join_paragraphs,
    most_lines,
    split_lines,
    table_size,
)
from gpt_core.text.phrases import Phrases, find_phrase
from gpt_core.text.quality import measure_quality
from gpt_core.text.repetition import duplicates, measure_ngrams
from gpt_core.text.words import Bytes, Hashes, Offsets, Scratch, buffers, hash_words, keep_words, split_words

COLUMNS = (
    *(f"gopher_quality.{name}" for name in quality.MEASURES),
    "gopher_repetition.duplicate_paragraphs",
    "gopher_repetition.duplicate_paragraph_characters",
    "gopher_repetition.duplicate_lines",
    "gopher_repetition.duplicate_line_characters",
    *(f"gopher_repetition.top_{n}gram_characters" for n in range(2, 5)),
    *(f"gopher_repetition.duplicate_{n}gram_characters" for n in range(5, 11)),
    "c4.phrase",  # number of the phrase found, or -1
    "c4.sentences",
    *(f"fineweb.{name}" for name in fineweb.MEASURES),
)
_QUALITY, _REPETITION, _C4, _FINEWEB = (
    COLUMNS.index(name)
    for name in (
        "gopher_quality.words",
        "gopher_repetition.duplicate_paragraphs",
        "c4.phrase",
        "fineweb.terminal_punctuation",
    )
)
Values: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found of n documents."""

    values: Values  # (n, COLUMNS); a family that is off: 0
    texts: pa.Array  # as the C4 rule left them
    is_contaminated: npt.NDArray[np.bool_]  # (n,)
    owners: npt.NDArray[np.int64]  # (n,): see ContaminationIndex.tell


class Measurer:
    """Measures batch after batch, with the rules that are on. One a thread: it keeps its scratch arrays."""

    def __init__(self, clean: Clean, index: ContaminationIndex | None) -> None:
        self.clean, self.index = clean, index
        self.classes, self.lower = character_tables()
        self.words, self.lines = Scratch(), LineScratch()
        stop_words = clean.gopher_quality.stop_words if clean.gopher_quality else ()
        self.stop_words = np.array([hash_words(word)[0] for word in stop_words], np.uint64)
        self.line_phrases = Phrases.of(clean.c4.line_phrases if clean.c4 else ())
        self.document_phrases = Phrases.of(clean.c4.document_phrases if clean.c4 else ())
        self.keys = np.empty(0, np.uint64)
        self.tallies, self.firsts = np.empty(0, np.int32), np.empty(0, np.int32)

    def measure(self, texts: pa.Array) -> Measured:
        """Of every text, in order. `texts` is a string array without nulls."""
        data, offsets = buffers(texts)
        longest = int(np.diff(offsets).max(initial=0))
        lines = int(most_lines(data, offsets))
        self.words.grow(longest + 1)
        self.lines.grow(lines)
        self._size_tables(max(longest // 2 + 1, lines))  # a token and the space behind it have two bytes or more
        values = np.zeros((len(texts), len(COLUMNS)))
        hits, owners = np.zeros(len(texts), np.bool_), np.zeros(len(texts), np.int64)
        clean, words, line, c4 = self.clean, self.words, self.lines, self.clean.c4
        edited, borders = np.empty(len(data) if c4 else 0, np.uint8), np.zeros(len(offsets), np.int64)
        _measure_all(
            data,
            offsets,
            (self.classes, self.lower),
            (words.hashes, words.folded, words.words, words.grams, words.lengths, words.kinds),
            (words.places, words.marks),
            (line.starts, line.stops, line.characters, line.hashes, line.first, line.last, line.paragraphs),
            (self.keys, self.tallies, self.firsts),
            clean.gopher_quality is not None,
            clean.gopher_quality is not None and clean.gopher_quality.count_punctuation,
            self.stop_words,
            clean.gopher_repetition is not None,
            clean.gopher_repetition is not None and clean.gopher_repetition.count_single_ngrams,
            c4 is not None,
            (
                bool(c4 and c4.require_terminal_punctuation),
                c4.min_words_per_line if c4 else 0,
                c4.max_word_characters if c4 else 0,
                bool(c4 and c4.remove_citations),
            ),
            (self.line_phrases.needles, self.line_phrases.borders, self.line_phrases.begins),
            (self.document_phrases.needles, self.document_phrases.borders, self.document_phrases.begins),
            clean.fineweb is not None,
            clean.fineweb.short_line_characters if clean.fineweb else 0,
            self.index.ngram_words if self.index else 0,
            self.index.keys if self.index else _NO_KEYS,
            self.index.owners if self.index else _NO_OWNERS,
            edited,
            borders,
            values,
            hits,
            owners,
        )
        if c4:
            edited_texts = pa.Array.from_buffers(
                pa.large_string(), len(texts), [None, pa.py_buffer(borders), pa.py_buffer(edited[: borders[-1]])]
            )
            texts = edited_texts.cast(texts.type)
        return Measured(values, texts, hits, owners)

    def _size_tables(self, entries: int) -> None:
        size = table_size(entries)
        if size > len(self.keys):
            self.keys = np.empty(size, np.uint64)
            self.tallies, self.firsts = np.empty(size, np.int32), np.empty(size, np.int32)


_NO_KEYS, _NO_OWNERS = np.zeros(1, np.uint64), np.zeros(1, np.int32)


@kernel
def _measure_all(
    data: Bytes,
    offsets: Offsets,
    tables: tuple[Bytes, npt.NDArray[np.uint32]],
    tokens: tuple[Hashes, Hashes, Hashes, Hashes, npt.NDArray[np.int32], Bytes],
    numbers: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]],
    lines: tuple[Offsets, Offsets, Offsets, Hashes, Offsets, Offsets, Hashes],
    slots: tuple[Table, npt.NDArray[np.int32], npt.NDArray[np.int32]],
    with_quality: bool,
    count_punctuation: bool,
    stop_words: Hashes,
    with_repetition: bool,
    count_single: bool,
    with_c4: bool,
    c4: tuple[bool, int, int, bool],
    line_phrases: tuple[Bytes, Offsets, npt.NDArray[np.bool_]],
    document_phrases: tuple[Bytes, Offsets, npt.NDArray[np.bool_]],
    with_fineweb: bool,
    short: int,
    ngram_words: int,
    keys_of_texts: Table,
    owners_of_texts: npt.NDArray[np.int32],
    edited: Bytes,
    borders: Offsets,
    values: Values,
    hits: npt.NDArray[np.bool_],
    owners: Offsets,
) -> None:
    classes, lower = tables
    hashes, folded, words, grams, lengths, kinds = tokens
    places, marks = numbers
    starts, stops, characters, line_hashes, first, last, paragraphs = lines
    keys, tallies, firsts = slots
    ends = np.empty(0, np.int64)
    spans = np.empty(0, np.int64)
    for i in range(len(offsets) - 1):
        start, stop, row = offsets[i], offsets[i + 1], values[i]
        n = split_words(data, start, stop, classes, lower, hashes, folded, lengths, kinds)
        n_lines = split_lines(data, start, stop, starts, stops, characters, line_hashes)
        if with_quality:
            measure_quality(
                data, start, stop, folded, lengths, kinds, n, starts, stops, n_lines, classes, stop_words,
                count_punctuation, row[_QUALITY:],
            )  # fmt: skip
        if with_repetition:
            size = max(1, count_characters(data, start, stop))
            n_paragraphs = join_paragraphs(starts, stops, n_lines, data, first, last, paragraphs)
            if len(spans) < n_paragraphs:
                spans = np.empty(2 * n_paragraphs, np.int64)
            for k in range(n_paragraphs):
                spans[k] = characters[first[k] : last[k] + 1].sum() + last[k] - first[k]
            found, repeated = duplicates(paragraphs, spans, n_paragraphs, keys)
            row[_REPETITION], row[_REPETITION + 1] = found / max(1, n_paragraphs), repeated / size
            found, repeated = duplicates(line_hashes, characters, n_lines, keys)
            row[_REPETITION + 2], row[_REPETITION + 3] = found / max(1, n_lines), repeated / size
            if len(ends) <= n:
                ends = np.empty(2 * n + 2, np.int64)
            ends[0] = 0
            for k in range(n):
                ends[k + 1] = ends[k] + lengths[k]
            measure_ngrams(
                hashes, ends, n, size, grams, keys, tallies, firsts, places, marks, count_single, row[_REPETITION + 4 :]
            )
        text, n_breaks = data, 0
        for at in range(start, stop):
            n_breaks += data[at] == 10
        if with_c4:
            row[_C4] = find_phrase(data, start, stop, document_phrases[0], document_phrases[1], document_phrases[2])
            end, sentences, is_same = edit_lines(
                data, starts, stops, n_lines, classes, c4[0], c4[1], c4[2], c4[3], line_phrases[0],
                line_phrases[1], line_phrases[2], edited, borders[i],
            )  # fmt: skip
            borders[i + 1] = end
            row[_C4 + 1] = sentences
            if is_same:  # but for empty lines
                n_breaks = max(0, n_lines - 1)
            else:
                text, start, stop = edited, borders[i], end
                n = split_words(text, start, stop, classes, lower, hashes, folded, lengths, kinds)
                n_lines = split_lines(text, start, stop, starts, stops, characters, line_hashes)
                n_breaks = max(0, n_lines - 1)
        if with_fineweb:
            measure_fineweb(
                text, n, starts, stops, characters, line_hashes, n_lines, n_breaks, classes, short, keys,
                row[_FINEWEB:],
            )  # fmt: skip
        if ngram_words:
            n_words = keep_words(folded, kinds, n, words)
            hits[i], owners[i] = find_contamination(words, n_words, ngram_words, grams, keys_of_texts, owners_of_texts)
