"""What the kernels know of characters: two tables over the code points, built from Python's own Unicode database.

A script without spaces between words (Han, kana, Thai, Lao, Khmer, Burmese) has LONE letters: each is a word of its
own, with its marks. Building takes 0.2 s, once a process.
"""

import functools
import unicodedata

import numpy as np
import numpy.typing as npt

WORD, LETTER, SPACE, LONE, MARK, DIGIT, CLOSER, TERMINAL = (1 << bit for bit in range(8))
CODE_POINTS = 0x32000  # beyond stand private use, tags and nothing: neither letters nor spaces

_CLOSERS = "\"'\u2019\u201d\u00bb)]}\u300d\u300f\uff09"
# Unicode's property Sentence_Terminal (UAX 44) in the basic plane, and the full stops of compatibility.
_TERMINALS = (
    "!.?\u0589\u061d\u061e\u061f\u06d4\u0700\u0701\u0702\u07f9\u0837\u0839\u083d\u083e\u0964\u0965\u104a\u104b\u1362"
    "\u1367\u1368\u166e\u1735\u1736\u17d4\u17d5\u1803\u1809\u1944\u1945\u1aa8\u1aa9\u1aaa\u1aab\u1b5a\u1b5b\u1b5e"
    "\u1b5f\u1c3b\u1c3c\u1c7e\u1c7f\u203c\u203d\u2047\u2048\u2049\u2e2e\u2e3c\u3002\ua4ff\ua60e\ua60f\ua6f3\ua6f7"
    "\ua876\ua877\ua8ce\ua8cf\ua92f\ua9c8\ua9c9\uaa5d\uaa5e\uaa5f\uaaf0\uaaf1\uabeb\ufe52\ufe56\ufe57\uff01\uff0e"
    "\uff1f\uff61"
)
_LONE_RANGES = (
    (0x0E00, 0x0F00),  # Thai, Lao
    (0x1000, 0x10A0),  # Burmese
    (0x1780, 0x1800),  # Khmer
    (0x3040, 0x3100),  # kana
    (0x31F0, 0x3200),
    (0x3400, 0x4DC0),  # Han
    (0x4E00, 0xA000),
    (0xA9E0, 0xAA00),  # Burmese
    (0xAA60, 0xAA80),
    (0xF900, 0xFB00),  # Han
    (0xFF66, 0xFF9E),  # kana
    (0x20000, 0x32000),  # Han
)


@functools.cache
def character_tables() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """(classes, lower): the class bits of every code point, and its lower case where that is one code point."""
    classes = np.zeros(CODE_POINTS, np.uint8)
    lower = np.arange(CODE_POINTS, dtype=np.uint32)
    for code in range(CODE_POINTS):
        character = chr(code)
        if character.isalnum() or character == "_":
            classes[code] = WORD | (LETTER if character.isalpha() else 0) | (DIGIT if character.isdecimal() else 0)
            folded = character.lower()
            if folded != character and len(folded) == 1:
                lower[code] = ord(folded)
        elif character.isspace():
            classes[code] = SPACE
        elif code > 0x2FF and unicodedata.category(character)[0] == "M":
            classes[code] = MARK
    for start, stop in _LONE_RANGES:
        part = classes[start:stop]
        part[(part & LETTER) != 0] |= LONE
    for characters, bit in ((_CLOSERS, CLOSER), (_TERMINALS, TERMINAL)):
        for character in characters:
            classes[ord(character)] |= bit
    return classes, lower
