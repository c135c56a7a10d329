"""Numbers as people read them: thousands separated, units stated, no more digits than mean something."""

import math
from collections.abc import Sequence

_LETTERS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def count(n: float) -> str:
    """A whole number: 1,234,567."""
    return f"{n:,.0f}"


def compact(value: float, *, least: float = 1e4) -> str:
    """Three significant digits, and a letter from `least` on: 12.3k, 124M, 2.5B."""
    for unit, letter in _LETTERS:
        if abs(value) >= max(0.9995 * unit, least):  # never 1,000k
            return f"{significant(value / unit)}{letter}"
    return significant(value)


def tick_labels(values: Sequence[float], *, share: bool = False, log: bool = False) -> list[str]:
    """Labels of an axis, all with one unit and as many decimals as the finest step needs; shares as percent."""
    if log:
        return [compact(value, least=1e3) for value in values]
    top = max(map(abs, values), default=0.0)
    unit, letter = (0.01, "%") if share else next(((u, name) for u, name in _LETTERS if top >= max(u, 1e4)), (1.0, ""))
    scaled = [value / unit for value in values]
    decimals = next((d for d in range(6) if all(abs(round(v, d) - v) < 1e-9 * max(1, abs(v)) for v in scaled)), None)
    if decimals is None:
        return [significant(value) for value in values]
    return [f"{value:,.{decimals}f}{letter}" if value else "0" for value in scaled]


def significant(value: float, *, digits: int = 3) -> str:
    """At least `digits` significant digits, trailing zeros cut, very small ones as 6.25e-5."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{_cut_zeros(mantissa)}e{int(exponent)}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return _cut_zeros(f"{value:,.{decimals}f}")


def percent(share: float) -> str:
    """A share as 84.3%; what is not zero never reads as zero."""
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def fixed(value: float) -> str:
    """Three decimals: losses, F1, similarities."""
    return f"{value:,.3f}"


def seconds(value: float) -> str:
    """A duration: 0.8 s, 1 min 14 s, 3 h 20 min."""
    if round(value, 1) < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def size(n_bytes: float) -> str:
    """Bytes in decimal units: 13.2 MB."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= 0.9995 * unit:  # never 1,000 kB
            return f"{significant(n_bytes / unit)} {name}"
    return f"{n_bytes:.0f} bytes"


def _cut_zeros(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number
