"""Places: where in the raw corpus a record stands, as documents and malformed records tell it.

| place | of |
| --- | --- |
| `file:N` | line N, from 1, of a file of lines |
| `file byte N` | the line that begins at byte N, from 0, of a large uncompressed file: it is read in pieces |
| `file row N`, `file group N` | row N, or row group N, from 0, of Parquet |
| `file record N` | record N, from 1, of a web archive: of those of the kind that is read |
| `file` | a text file, or whatever file as a whole |

`file` is what inputs.expand_inputs calls it. Cost of finding a line by its byte: the bytes before it are read once.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gpt_core.errors import InputError
from gpt_core.text.inputs import RawInput
from gpt_core.text.read_lines import read_lines

_PIECE_BYTES = 1 << 20
_WITHIN = re.compile(r"(?::| (byte|row|group|record) )([0-9]+)")
_CHANGED = "the file is not what it was when clean read it"


class Located(NamedTuple):
    """A file, and where in it: its line (from 1), row or group (from 0) or record (from 1); all of it without one."""

    path: Path
    unit: str  # line, row, group, record or file
    number: int | None  # None: of a file


def locate(place: str, inputs: Sequence[RawInput]) -> Located:
    """Where the place is: the line of `file byte N` is counted, the others are taken as they stand.

    Raises InputError that names the file where it is gone, is none of `inputs`, or has no line at that byte.
    """
    given, within = _match(place, inputs)
    path = Path(given.path)
    if not path.is_file():
        raise InputError(f"{path}: the file is gone; {place} was read from it")
    if not within:
        return Located(path, "file", None)
    unit, number = within[1] or "line", int(within[2])
    return Located(path, "line", _line_at(path, number)) if unit == "byte" else Located(path, unit, number)


def read_line(path: Path, line: int, *, max_bytes: int) -> bytes:
    """The line with this number, from 1, of a plain or compressed file, as it stands there, its end included.

    Raises InputError where it is longer than `max_bytes`, or is not there.
    """
    try:
        for number, (place, raw) in enumerate(read_lines(str(path), 0, None, max_bytes, name=str(path)), 1):
            if number == line:
                if isinstance(raw, str):
                    raise InputError(f"{place}: {raw}")
                return raw
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    raise InputError(f"{path}: has no line {line}; {_CHANGED}")


def _match(place: str, inputs: Sequence[RawInput]) -> tuple[RawInput, re.Match[str] | None]:
    """The input whose file the place is in, and where in it."""
    found = []
    for given in inputs:
        rest = place.removeprefix(given.name) if place.startswith(given.name) else None
        within = _WITHIN.fullmatch(rest) if rest else None
        if rest == "" or within:
            found.append((given, within))
    if not found:
        raise InputError(f"{place}: no file of corpus.inputs is called so; they are not those that clean read")
    if len(found) > 1:
        paths = " or in ".join(given.path for given, _ in found)
        raise InputError(f"{place}: is in {paths}; rename one of these files and run clean again")
    return found[0]


def _line_at(path: Path, byte: int) -> int:
    """The number, from 1, of the line that begins at this byte."""
    line, left, piece = 1, byte, b"\n"
    with path.open("rb") as stream:
        while left and (piece := stream.read(min(left, _PIECE_BYTES))):
            line += piece.count(b"\n")
            left -= len(piece)
        if left or not piece.endswith(b"\n") or not stream.read(1):
            raise InputError(f"{path}: no line begins at byte {byte}; {_CHANGED}")
    return line
