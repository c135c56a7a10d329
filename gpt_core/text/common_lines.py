"""Lines, or paragraphs, that many documents share: Wenzek et al. 2020 (CCNet), section 3.1.

Lines are compared by 64-bit hashes of their words, case and white space aside.
"""

from collections.abc import Collection, Iterator

import xxhash

from gpt_core.recipe import LineDedup


def hash_units(text: str, settings: LineDedup) -> list[int]:
    """A hash of every line, or paragraph, that is long enough to be dropped."""
    return [hash_ for _, hash_ in _units(text, settings) if hash_ is not None]


def drop_lines(text: str, common: Collection[int], settings: LineDedup) -> tuple[str, int]:
    """(the text without the lines whose hashes are in `common`, how many those are)."""
    units = list(_units(text, settings))
    left = [unit for unit, hash_ in units if hash_ is None or hash_ not in common]
    if len(left) == len(units):
        return text, 0
    return _separator(settings).join(left).strip("\n"), len(units) - len(left)


def _units(text: str, settings: LineDedup) -> Iterator[tuple[str, int | None]]:
    for unit in text.split(_separator(settings)):
        folded = " ".join(unit.lower().split())
        is_long = len(folded) >= max(1, settings.min_characters)
        yield unit, xxhash.xxh3_64_intdigest(folded.encode()) - (1 << 63) if is_long else None


def _separator(settings: LineDedup) -> str:
    return "\n" if settings.unit == "line" else "\n\n"
