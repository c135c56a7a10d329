"""Gopher's quality statistics: Rae et al. 2021, appendix A1.1; thresholds stand in the recipe.

Words are words: punctuation counts neither as one nor against their alphabetic share, unless
gopher_quality.count_punctuation says so: then shares are of all tokens, as datatrove reckons. Words of scripts without
spaces have no length to speak of and do not enter the mean. Lines are those with anything on them.
"""

import numpy as np
import numpy.typing as npt

from gpt_core.kernel import kernel
from gpt_core.text.lines import begins_with_bullet, ends_in_ellipsis, trim
from gpt_core.text.words import HAS_LETTER, IS_CONTRACTED, IS_JOINED, IS_LONE, IS_WORD, Bytes, Hashes, Offsets

Row = npt.NDArray[np.float64]
MEASURES = (
    "words",
    "mean_word_length",
    "hash_ratio",
    "ellipsis_ratio",
    "bullet_lines",
    "ellipsis_lines",
    "alphabetic_words",
    "stop_words",
)


@kernel
def measure_quality(
    data: Bytes,
    start: int,
    stop: int,
    folded: Hashes,
    lengths: npt.NDArray[np.int32],
    kinds: Bytes,
    n_tokens: int,
    starts: Offsets,
    stops: Offsets,
    n_lines: int,
    classes: Bytes,
    stop_words: Hashes,
    count_punctuation: bool,
    out: Row,
) -> None:
    """`out` holds MEASURES of data[start:stop], whose tokens and lines are given."""
    words = spaced = characters = alphabetic = contracted = 0
    seen = 0
    for i in range(n_tokens):
        kind = kinds[i]
        if not kind & IS_WORD:
            continue
        words += 1
        if not kind & IS_LONE:
            spaced += 1
            characters += lengths[i]
        if kind & HAS_LETTER:
            alphabetic += 1
        if kind & IS_CONTRACTED:
            contracted += 1
        for j in range(len(stop_words)):
            if folded[i] == stop_words[j]:
                seen |= 1 << j
    stop_words_seen = 0
    while seen:
        stop_words_seen += seen & 1
        seen >>= 1
    signs = dots = 0
    at = start
    while at < stop:
        byte = data[at]
        if byte == 35:
            signs += 1
        elif (byte == 46 or byte == 0xE2) and at + 3 <= stop and ends_in_ellipsis(data, at, at + 3):
            dots += 1
            at += 2
        at += 1
    bullets = ellipses = lines = 0
    for i in range(n_lines):
        begin, end = trim(data, starts[i], stops[i], classes)
        if begin == end:
            continue
        lines += 1
        bullets += begins_with_bullet(data, begin, end)
        ellipses += ends_in_ellipsis(data, begin, end)
    whole = words
    if count_punctuation:  # spaCy's words, which datatrove counts: don't is two of them, it.--Nobody is one
        glued, glued_alphabetic = _count_glued(kinds, n_tokens)
        whole = n_tokens + contracted - glued
        alphabetic += contracted - glued_alphabetic
    whole = max(1, whole)
    out[0] = words
    out[1] = characters / spaced if spaced else np.nan
    out[2] = signs / whole
    out[3] = dots / whole
    out[4] = bullets / max(lines, 1)
    out[5] = ellipses / max(lines, 1)
    out[6] = alphabetic / whole
    out[7] = stop_words_seen


@kernel
def _count_glued(kinds: Bytes, n_tokens: int) -> tuple[int, int]:
    """(tokens, of them with letters) that are fewer where two words with several signs between count as one."""
    glued = alphabetic = 0
    word = -1  # the last word, if all that follows is joined to it
    for i in range(n_tokens):
        if word >= 0 and not kinds[i] & IS_JOINED:
            word = -1
        if not kinds[i] & IS_WORD:
            continue
        if word >= 0 and i - word > 2:
            glued += i - word
            alphabetic += (kinds[i] & HAS_LETTER != 0) & (kinds[word] & HAS_LETTER != 0)
        word = i
    return glued, alphabetic
