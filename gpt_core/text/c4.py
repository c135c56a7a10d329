"""C4's lines and sentences: Raffel et al. 2020, section 2.2; what counts as a phrase stands in the recipe.

Lines that are no sentences go; a document with a forbidden phrase, or with too few sentences left, is rejected.
"""

import numpy as np
import numpy.typing as npt

from gpt_core.text.characters import CLOSER, CODE_POINTS, SPACE, TERMINAL
from gpt_core.text.kernel import kernel
from gpt_core.text.lines import class_before, count_sentences, ends_in_ellipsis, previous, trim
from gpt_core.text.phrases import find_phrase
from gpt_core.text.words import Bytes, Offsets, decode


@kernel
def _citation(data: Bytes, at: int, stop: int) -> int:
    """Where the mark [1], [edit] or [citation needed] that begins at `at` ends; `at` itself where none does."""
    end = at + 1
    while end < stop and 48 <= data[end] <= 57:
        end += 1
    if end < stop and data[end] == 93:
        return end + 1
    for mark in (b"[edit]", b"[citation needed]"):
        if at + len(mark) <= stop:
            same = True
            for i in range(len(mark)):
                if data[at + i] != mark[i]:
                    same = False
                    break
            if same:
                return at + len(mark)
    return at


@kernel
def _is_kept(
    data: Bytes, start: int, stop: int, classes: Bytes, terminal: bool, min_words: int, max_characters: int
) -> bool:
    """Whether a line ends as a sentence does and has enough words, none of them endless."""
    if terminal:
        end = stop
        while end > start and class_before(data, end, classes) & CLOSER:
            end = previous(data, end)
        if end == start or not class_before(data, end, classes) & TERMINAL or ends_in_ellipsis(data, start, end):
            return False
    words = characters = 0
    at = start
    while at < stop:
        code, at = decode(data, at)
        if code < CODE_POINTS and classes[code] & SPACE:
            characters = 0
            continue
        if characters == 0:
            words += 1
        characters += 1
        if characters > max_characters:
            return False
    return words >= min_words


@kernel
def edit_lines(
    data: Bytes,
    start: int,
    stop: int,
    classes: Bytes,
    terminal: bool,
    min_words: int,
    max_characters: int,
    citations: bool,
    line_needles: Bytes,
    line_borders: Offsets,
    line_firsts: npt.NDArray[np.bool_],
    out: Bytes,
    begin: int,
) -> tuple[int, int]:
    """(where the text ends that `out` has from `begin` on, its sentences): the lines of data[start:stop] that stay."""
    end = begin
    sentences = 0
    line = start
    for border in range(start, stop + 1):
        if border < stop and data[border] != 10:
            continue
        first, last = trim(data, line, border, classes)
        line = border + 1
        fresh = end + (1 if end > begin else 0)
        to = fresh
        at = first
        while at < last:
            if citations and data[at] == 91:
                after = _citation(data, at, last)
                if after > at:
                    at = after
                    continue
            out[to] = data[at]
            to += 1
            at += 1
        first, last = trim(out, fresh, to, classes)
        if not _is_kept(out, first, last, classes, terminal, min_words, max_characters):
            continue
        if find_phrase(out, first, last, line_needles, line_borders, line_firsts) >= 0:
            continue
        if end > begin:
            out[end] = 10
        for i in range(last - first):  # a citation at the front may have left white space
            out[fresh + i] = out[first + i]
        end = fresh + last - first
        sentences += count_sentences(out, fresh, end, classes)
    return end, sentences
