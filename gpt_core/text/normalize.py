r"""One spelling for the same text.

Text that was decoded wrongly is mended by ftfy. NFC; every line end is \n; control characters go, but \n and \t; so
do characters that show nothing and say nothing (zero-width space, byte order mark, word joiner, soft hyphen, marks
and overrides of direction). Zero-width joiner and non-joiner stay: Persian, Indic scripts and emoji are spelt with
them. No line ends in white space, no text begins or ends with an empty line.

Python touches only texts that a scan of their bytes cannot clear.
"""

import functools
import re
import unicodedata

import ftfy
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gpt_core.kernel import kernel
from gpt_core.text.characters import CODE_POINTS
from gpt_core.text.words import Bytes, Offsets, buffers, decode

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
)
_LEADS = "\u00c2\u00c3\u00c4\u00c5\u00d0\u00d1\u00e0\u00e2\u00e3\u00f0\u0102\u0103\u010e\u0413\u0420\u0432"
_CLEAR, _CHANGES, _LEAD = (
    0,
    1,
    2,
)  # of a character: nothing to do, perhaps something, perhaps the first half of mojibake


def normalize(text: str, *, fix_mojibake: bool = True) -> str:
    """The text in its one spelling; a normalized text comes back as it is. May be empty."""
    spelt = _spell(text, fix_mojibake=fix_mojibake)
    while spelt != text and not spelt.isascii():  # mojibake may show only when what stood between has gone
        text, spelt = spelt, _spell(spelt, fix_mojibake=fix_mojibake)
    return spelt


def _spell(text: str, *, fix_mojibake: bool) -> str:
    if not text.isascii():
        if fix_mojibake:  # line by line: a page may mix encodings, and a long text costs what its few bad lines cost
            text = "\n".join([_repair(line) for line in text.split("\n")])
        text = unicodedata.normalize("NFC", _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text)))
    elif not text.replace("\n", "").isprintable():
        text = _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text))
    return "\n".join([line.rstrip() for line in text.split("\n")]).strip("\n")


def _repair(line: str) -> str:
    return ftfy.fix_encoding(line) if not line.isascii() and ftfy.badness.is_bad(line) else line


def normalize_texts(texts: pa.Array, *, fix_mojibake: bool) -> pa.Array:
    """Every text in its one spelling; the same array where all have it already."""
    data, offsets = buffers(texts)
    suspects = np.zeros(len(texts), np.bool_)
    _suspect(data, offsets, _table(), fix_mojibake, suspects)
    rows = np.flatnonzero(suspects)
    changed: dict[int, str] = {}
    for row in rows.tolist():
        text = texts[row].as_py()
        spelt = normalize(text, fix_mojibake=fix_mojibake)
        if spelt != text:
            changed[row] = spelt
    if not changed:
        return texts
    places = np.arange(len(texts))
    places[list(changed)] = len(texts) + np.arange(len(changed))
    return pa.concat_arrays([texts, pa.array(list(changed.values()), texts.type)]).take(pa.array(places))


@functools.cache
def _table() -> Bytes:
    """What each code point may need."""
    table = np.full(CODE_POINTS, _CLEAR, np.uint8)
    for code in range(0x80, CODE_POINTS):
        character = chr(code)
        if unicodedata.combining(character) or not unicodedata.is_normalized("NFC", character):
            table[code] = _CHANGES
    for code in (*range(0x300, 0x370), *range(0x1161, 0x11C3)):  # may join the character before them
        table[code] = _CHANGES
    for code in range(CODE_POINTS):
        character = chr(code)
        if unicodedata.category(character) in ("Mn", "Mc"):
            table[code] = _CHANGES
        if _INVISIBLE.match(character) or (_LINE_ENDS.match(character)):
            table[code] = _CHANGES
    table[0xC2:0xF5] = _LEAD  # every first byte of UTF-8, read as Latin-1
    for character in _LEADS:
        table[ord(character)] = _LEAD
    return table


@kernel
def _suspect(data: Bytes, offsets: Offsets, table: Bytes, fix_mojibake: bool, suspects: npt.NDArray[np.bool_]) -> None:
    """Which texts are not surely in their one spelling."""
    for i in range(len(offsets) - 1):
        start, stop = offsets[i], offsets[i + 1]
        if start == stop:
            continue
        suspect = data[start] == 10 or data[stop - 1] <= 32
        after_space = False  # a line end here would end a line in white space
        at = start
        while at < stop and not suspect:
            byte = data[at]
            if byte < 0x80:
                if byte == 10:
                    suspect = after_space
                elif (byte < 32 and byte != 9) or byte == 0x7F:
                    suspect = True
                after_space = byte == 32 or byte == 9
                at += 1
                continue
            code, at = decode(data, at)
            need = table[code] if code < CODE_POINTS else np.uint8(_CLEAR)
            if need == _LEAD and fix_mojibake and at < stop and data[at] >= 0x80:
                suspect = True
            suspect = suspect or need == _CHANGES
            after_space = code == 0xA0 or code == 0x3000 or code == 0x1680 or 0x2000 <= code <= 0x200A
            after_space = after_space or code == 0x202F or code == 0x205F
            if after_space and at == stop:
                suspect = True
        suspects[i] = suspect
