"""FineWeb's line statistics: Penedo et al. 2024, section 3.6; thresholds stand in the recipe. Empty lines are none."""

import numpy as np
import numpy.typing as npt

from gpt_core.kernel import kernel
from gpt_core.text.characters import TERMINAL
from gpt_core.text.lines import class_before, trim
from gpt_core.text.repetition import duplicates
from gpt_core.text.words import Bytes, Hashes, Offsets

Row = npt.NDArray[np.float64]
MEASURES = ("terminal_punctuation", "short_lines", "duplicate_line_characters", "newline_word_ratio")


@kernel
def measure_fineweb(
    data: Bytes,
    n_words: int,
    starts: Offsets,
    stops: Offsets,
    characters: Offsets,
    hashes: Hashes,
    n_lines: int,
    newlines: int,
    classes: Bytes,
    short: int,
    keys: Hashes,
    out: Row,
) -> None:
    """`out` holds MEASURES of a text whose lines are given, and which has so many words and line ends."""
    ended = shorts = total = lines = 0
    for i in range(n_lines):
        begin, end = trim(data, starts[i], stops[i], classes)
        if begin == end:
            continue
        lines += 1
        total += characters[i]
        shorts += characters[i] <= short
        ended += (class_before(data, end, classes) & TERMINAL) != 0
    _, repeated = duplicates(hashes, characters, n_lines, keys)
    out[0] = ended / max(lines, 1)
    out[1] = shorts / max(lines, 1)
    out[2] = repeated / max(total, 1)
    out[3] = newlines / max(n_words, 1)
