"""C4's lines and sentences: Raffel et al. 2020, section 2.2; what counts as a phrase stands in the recipe.

Lines that are no sentences go; a document with a forbidden phrase, or with too few sentences left, is rejected.
"""

import numpy as np
import numpy.typing as npt

from gpt_core.kernel import kernel
from gpt_core.text.characters import CLOSER, CODE_POINTS, SPACE, TERMINAL, WORD
from gpt_core.text.lines import class_before, ends_in_ellipsis, previous, trim
from gpt_core.text.phrases import find_phrase
from gpt_core.text.words import Bytes, Offsets, decode, is_abbreviated


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
def _ends(data: Bytes, start: int, stop: int, classes: Bytes) -> bool:
    """Whether a line ends as a sentence does; three dots end none."""
    while stop > start and class_before(data, stop, classes) & CLOSER:
        stop = previous(data, stop)
    if stop == start or not class_before(data, stop, classes) & TERMINAL:
        return False
    return not ends_in_ellipsis(data, start, stop)


@kernel
def _read(data: Bytes, start: int, stop: int, classes: Bytes, max_characters: int) -> tuple[int, int]:
    """(words, sentences) of a line; (-1, 0) where a word is endless.

    Sentences end with a mark of an end, then quotes and brackets that close, then white space.
    """
    words = characters = sentences = 0
    at = start
    is_open = False  # something was said since the last end
    ended = False
    while at < stop:
        letters = at
        while at < stop and data[at] < 0x80 and classes[data[at]] & WORD:  # most bytes
            at += 1
        if at > letters:
            if characters == 0:
                words += 1
            characters += at - letters
            if characters > max_characters:
                return -1, 0
            is_open, ended = True, False
            continue
        code, at = decode(data, at)
        kind = classes[code] if code < CODE_POINTS else np.uint8(0)
        if kind & SPACE:
            characters = 0
            if ended:
                sentences += 1
                is_open = ended = False
            continue
        if characters == 0:
            words += 1
        characters += 1
        if characters > max_characters:
            return -1, 0
        if kind & TERMINAL:
            ended = is_open and not (code == 46 and is_abbreviated(data, start, at - 1))
            if code >= 0x3000 and is_open:  # no white space follows a full-width end
                sentences += 1
                is_open = ended = False
        elif not (ended and kind & CLOSER):
            is_open, ended = True, False
    return words, sentences + (1 if is_open else 0)


@kernel
def _cut_citations(data: Bytes, start: int, stop: int, out: Bytes, begin: int) -> int:
    """`out` has data[start:stop] without marks from `begin` on; returns where it ends."""
    while start < stop:
        if data[start] == 91:
            after = _citation(data, start, stop)
            if after > start:
                start = after
                continue
        out[begin] = data[start]
        begin += 1
        start += 1
    return begin


@kernel
def edit_lines(
    data: Bytes,
    starts: Offsets,
    stops: Offsets,
    n_lines: int,
    classes: Bytes,
    terminal: bool,
    min_words: int,
    max_characters: int,
    citations: bool,
    needles: Bytes,
    borders: Offsets,
    begins: npt.NDArray[np.bool_],
    out: Bytes,
    begin: int,
) -> tuple[int, int, bool]:
    """Those of the text's lines that stay: (where they end in `out`, from `begin` on, their sentences, whether all stay
    as they were).

    starts[i], stops[i]: where the lines of the text lie in `data` that are not empty.
    """
    end = begin
    sentences = 0
    is_same = True
    for i in range(n_lines):
        first, last = trim(data, starts[i], stops[i], classes)
        fresh = end + (1 if end > begin else 0)
        line = data
        brackets = 0
        for at in range(first, last):
            brackets += data[at] == 91
        if citations and brackets > 0:
            last = _cut_citations(data, first, last, out, fresh)
            line = out
            first, last = trim(out, fresh, last, classes)  # a mark at the front may have left white space
        if terminal and not _ends(line, first, last, classes):
            is_same = False
            continue
        words, said = _read(line, first, last, classes, max_characters)
        if words < min_words or find_phrase(line, first, last, needles, borders, begins) >= 0:
            is_same = False
            continue
        if end > begin:
            out[end] = 10
        for at in range(last - first):
            out[fresh + at] = line[first + at]
        end = fresh + last - first
        is_same &= end - fresh == stops[i] - starts[i]
        sentences += said
    return end, sentences, is_same
