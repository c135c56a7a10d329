"""The same meaning gives the same digits; what has no canonical form gives none."""

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.fingerprint import canonical_json, file_sha256, fingerprint

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_a_worked_example() -> None:
    value = {"b": [1, 2.5, None], "a": "\u00e9"}
    assert canonical_json(value) == '{"a":"\\u00e9","b":[1,2.5,null]}'
    assert fingerprint(value) == hashlib.sha256(b'{"a":"\\u00e9","b":[1,2.5,null]}').hexdigest()


@given(st.dictionaries(st.text(), json_values, min_size=1))
def test_the_order_of_keys_means_nothing(value: dict[str, Any]) -> None:
    assert fingerprint(value) == fingerprint(dict(reversed(value.items())))


def test_an_integer_is_not_the_float_of_its_size_nor_true() -> None:
    assert len({fingerprint(value) for value in (1, 1.0, True, "1", [1])}) == 5


@pytest.mark.parametrize("value", [{1, 2}, (1, 2), b"x", object(), {1: 2}, {"a": [Path("x")]}])
def test_a_type_without_canonical_form_raises(value: Any) -> None:
    with pytest.raises(TypeError):
        fingerprint(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf]])
def test_a_number_without_canonical_form_raises(value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint(value)


def test_a_file_is_hashed_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert file_sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
