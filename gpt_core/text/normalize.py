r"""One spelling for the same text.

NFC; every line end is \n; control characters go, but \n and \t; so do characters that show nothing and say
nothing (zero-width space, byte order mark, word joiner, soft hyphen, marks and overrides of direction).
Zero-width joiner and non-joiner stay: Persian, Indic scripts and emoji are spelt with them. No line ends in
white space, no text begins or ends with an empty line.
"""

import re
import unicodedata

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
)


def normalize(text: str) -> str:
    """The text in its one spelling; a normalized text comes back as it is. May be empty."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text)))
    elif not text.replace("\n", "").isprintable():
        text = _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text))
    return "\n".join([line.rstrip() for line in text.split("\n")]).strip("\n")
