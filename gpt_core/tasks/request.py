"""What a request to a served model holds, checked: rows of columns, and how a text is to be written.

Whoever asks gets the row (from 0, as in the answer), the column or parameter, the value and the way out. No torch here.
"""

import json
import math
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from gpt_core.errors import InputError
from gpt_core.recipe import Evaluate

PROMPT = "prompt"  # the column that a language model continues, where no task names another
PARAMETERS = {  # of a request for text -> the field of the recipe's section `evaluate` that bounds it
    "max_new_tokens": "sample_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
}


def read_rows_of_columns(columns: Mapping[str, Sequence[object]], names: Sequence[str]) -> list[dict[str, object]]:
    """The rows of `columns`, each with the fields `names`. Raises InputError for a column that is missing and no row.

    One row whose first field is a list of texts is a whole column: so a JSON {"text": ["a", "b"]} arrives.
    """
    missing = [name for name in names if name not in columns]
    if missing:
        found = ", ".join(map(repr, columns)) or "none"
        raise InputError(f"no column {', '.join(map(repr, missing))} among {found}; give {', '.join(map(repr, names))}")
    picked = [list(columns[name]) for name in names]
    if len(picked[0]) == 1 and isinstance(picked[0][0], list):
        picked = [list(column[0]) if isinstance(column[0], list) else column for column in picked]
        lengths = [len(column) for column in picked]
        if len(set(lengths)) > 1:
            raise InputError(
                f"columns of {' and '.join(map(str, lengths))} rows: {', '.join(map(repr, names))}; give all the same"
            )
    if not picked[0]:
        raise InputError(f"no row; give one or more with {', '.join(map(repr, names))}")
    return [dict(zip(names, map(_none_for_nan, row), strict=True)) for row in zip(*picked, strict=True)]


def _none_for_nan(value: object) -> object:
    """A table has NaN where a row lacks a field."""
    return None if isinstance(value, float) and math.isnan(value) else value


def read_text(row: Mapping[str, object], field: str, where: str) -> str:
    """The text in a field. Raises InputError that begins with `where`."""
    value = row[field]
    if not isinstance(value, str):
        raise InputError(f"{where}: {field!r} is {json.dumps(value, default=str):.60}; it must be a string")
    return value


def read_writing(params: Mapping[str, object], defaults: Mapping[str, object]) -> Evaluate:
    """How texts are to be written: `params`, and `defaults` where they say nothing or null.

    Raises InputError for a parameter that is none, or out of bounds.
    """
    given = {name: value for name, value in params.items() if value is not None}
    unknown = sorted(given.keys() - PARAMETERS.keys())
    if unknown:
        raise InputError(f"no parameter {', '.join(map(repr, unknown))}; there are {', '.join(PARAMETERS)}")
    values = {**defaults, **given}
    try:
        return Evaluate.model_validate({field: values[name] for name, field in PARAMETERS.items() if name in values})
    except ValidationError as error:
        first = error.errors()[0]
        field, *place = first["loc"]
        name = next(name for name, of_recipe in PARAMETERS.items() if of_recipe == field)
        path = ".".join(map(str, (name, *place)))
        raise InputError(f"parameter {path} is {first['input']!r:.60}: {first['msg'].lower()}") from None


def parameters_of(settings: Evaluate) -> dict[str, object]:
    """The parameters that write as `settings` say."""
    tree = settings.model_dump(mode="json")
    return {name: tree[field] for name, field in PARAMETERS.items()}
