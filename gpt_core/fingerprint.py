"""Content addresses: the same meaning always gives the same 64 hex digits.

A value is hashed through its canonical JSON: keys sorted, no spaces, ASCII, floats in Python's shortest
round-trip form. A value without a canonical form (NaN, infinities, sets, objects) raises TypeError or
ValueError, so that nothing ever gets a fingerprint by accident.
"""

import hashlib
import json
from pathlib import Path
from typing import TypeAlias

from pydantic import JsonValue

Json: TypeAlias = JsonValue

SHORT = 12  # hex digits in a folder's name: 48 bits, a collision among a million outputs has odds of 1 in 500


def canonical_json(value: Json) -> str:
    """The one JSON text of `value`. Raises on anything that JSON cannot say exactly."""
    _refuse_inexact(value, "$")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def fingerprint(value: Json) -> str:
    """SHA-256 of the canonical JSON of `value`, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits, read in constant memory."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _refuse_inexact(value: Json, where: str) -> None:
    """Raise TypeError for a type, or a dict key, that json.dumps would silently turn into another."""
    if value is None or isinstance(value, bool | int | float | str):
        return
    if type(value) is list:
        for index, item in enumerate(value):
            _refuse_inexact(item, f"{where}[{index}]")
    elif type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(f"{where}: key {key!r} is not a string and has no canonical form")
            _refuse_inexact(item, f"{where}.{key}")
    else:
        raise TypeError(f"{where}: {type(value).__name__} has no canonical form")
