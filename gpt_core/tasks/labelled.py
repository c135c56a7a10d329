"""Labelled rows of a task: read, checked and divided. A row that cannot be used is refused with its place, never left
out. No torch here: the runner reads labels before any engine starts.
"""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from gpt_core.errors import InputError, RecipeError
from gpt_core.recipe import Finetune
from gpt_core.tasks.records import Record, read_records
from gpt_core.tasks.spec import Target, TaskSpec, target_of

Label: TypeAlias = str | tuple[str, ...] | float | int | None

WORDS = "a string that says something"
MOST_SHOWN = 60  # characters of a refused value
GREATEST = float(np.finfo(np.float32).max)  # labels are fp32


@dataclass(frozen=True)
class Row:
    """One labelled row: (text,), (premise, hypothesis), (first, second), (context, choice, ...), (prompt, completion).

    The label is the class, the classes, the number or the place of the right choice; completions have None.
    """

    where: str  # file:line, or "file row n"
    texts: tuple[str, ...]
    label: Label


@dataclass(frozen=True)
class Splits:
    """The rows of a task, and the names of its classes: those of all rows in finetune.train, drawn or not."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    labels: tuple[str, ...]


def read_splits(settings: Finetune) -> Splits:
    """Every row of the recipe's files: validation is drawn from train by seed where it has no file, then
    max_examples of what is left.

    Raises InputError with file and line for a row that cannot be used or a label that training never saw, RecipeError
    for weights of classes that do not occur.
    """
    train = read_rows(Path(settings.train), settings)
    labels = label_names(train, target_of(settings))
    if settings.validation is None:
        train, validation = _draw_validation(train, settings)
    else:
        validation = read_rows(Path(settings.validation), settings)
    test = read_rows(Path(settings.test), settings)
    for rows in (validation, test):
        require_known_labels(rows, labels)
    _require_weighted(settings, labels)
    return Splits(draw_rows(train, settings.max_examples, seed=settings.seed), validation, test, labels)


def read_rows(path: Path, settings: Finetune) -> list[Row]:
    """All rows of a JSONL, CSV or Parquet file. Raises InputError with file and line or row for the first bad one."""
    target = target_of(settings)
    texts, label = settings.text_fields, settings.label_field
    fields = texts if target == "text" else (*texts, label)
    rows = []
    for record in read_records(path, fields):
        found = _texts(record, texts, target, blank=False)
        rows.append(Row(record.where, found, _label(record, label, target, found)))
    if not rows:
        raise InputError(f"{path}: holds no row; give records with {', '.join(map(repr, fields))}")
    return rows


def row_of(record: Mapping[str, object], spec: TaskSpec, where: str) -> Row:
    """The texts of a request, without a label; of a completion the prompt alone. A text may be blank.

    Raises InputError that begins with `where` for what is no text.
    """
    fields = spec.fields[:1] if spec.target == "text" else spec.fields
    return Row(where, _texts(Record(where, record), fields, spec.target, blank=True), None)


def label_names(rows: Sequence[Row], target: Target) -> tuple[str, ...]:
    """The distinct classes of the rows, sorted; none for a number, a choice or text.

    Raises InputError for a single class where one of several is to be told, and where no row has any.
    """
    if target not in ("class", "classes"):
        return ()
    names = tuple(sorted({name for row in rows for name in _names(row)}))
    if not names:
        raise InputError(f"{rows[0].where}: no row has a class; give rows that have some")
    if target == "class" and len(names) < 2:
        raise InputError(f"{rows[0].where}: every row has the label {names[0]!r}; a classifier needs two or more")
    return names


def require_known_labels(rows: Sequence[Row], names: Sequence[str]) -> None:
    """Raises InputError with file and line for the first class that the training split does not have."""
    known = frozenset(names)
    for row in rows:
        for name in _names(row):
            if name not in known:
                raise InputError(
                    f"{row.where}: the label {name!r} is none of the training split's: {', '.join(names)}; "
                    "correct the row, or add rows with it to finetune.train"
                )


def draw_rows(rows: Sequence[Row], count: int | None, *, seed: int) -> list[Row]:
    """`count` of the rows, in their order; all of them where there are no more, or `count` is None."""
    if count is None or count >= len(rows):
        return list(rows)
    chosen = np.random.default_rng(seed).choice(len(rows), size=count, replace=False)
    return [rows[index] for index in sorted(chosen.tolist())]


def _names(row: Row) -> tuple[str, ...]:
    """The classes of the row; a number, a place and nothing are none."""
    if isinstance(row.label, tuple):
        return row.label
    return (row.label,) if isinstance(row.label, str) else ()


def _draw_validation(rows: list[Row], settings: Finetune) -> tuple[list[Row], list[Row]]:
    """(what is left for training, validation), each in the order of the file."""
    count = max(1, round(settings.validation_fraction * len(rows)))
    if count >= len(rows):
        raise InputError(
            f"{settings.train}: finetune.validation_fraction={settings.validation_fraction:g} of its {len(rows)} rows "
            "leaves none to train on; give more rows, or finetune.validation a file"
        )
    validation = draw_rows(rows, count, seed=settings.seed)
    drawn = {row.where for row in validation}
    return [row for row in rows if row.where not in drawn], validation


def _require_weighted(settings: Finetune, labels: tuple[str, ...]) -> None:
    if isinstance(settings.class_weights, str):
        return
    problems = [
        f"finetune.class_weights.{name}: is no class of finetune.train, which has {', '.join(labels)}"
        for name in settings.class_weights
        if name not in labels
    ]
    if problems:
        raise RecipeError(problems, origin="recipe")


def _texts(record: Record, fields: Sequence[str], target: Target, *, blank: bool) -> tuple[str, ...]:
    """The texts of the record; a blank one is refused unless `blank`, and always among choices."""
    if target != "choice":
        return tuple(_text(record, field, record.values.get(field), blank=blank) for field in fields)
    context, field = fields
    choices = _list(record, field, "a list of two or more choices")
    if len(choices) < 2:
        raise _refusal(record, field, "a list of two or more choices")
    return (
        _text(record, context, record.values.get(context), blank=blank),
        *(_text(record, field, choice, blank=False) for choice in choices),
    )


def _text(record: Record, field: str, value: object, *, blank: bool) -> str:
    if not isinstance(value, str) or not (blank or value.strip()):
        raise _refusal(record, field, "a string" if blank else WORDS, value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _refusal(record, field, "text: half a surrogate pair is no character", value) from None
    return value


def _list(record: Record, field: str, wanted: str) -> list[object]:
    """The list in a field; a cell of CSV holds it as JSON. An array that a request brings will do."""
    value = record.values.get(field)
    if isinstance(value, str) and not record.typed:
        try:
            value = json.loads(value)
        except ValueError:
            raise _refusal(record, field, f"{wanted}, as JSON") from None
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise _refusal(record, field, wanted)
    return list(value)


def _label(record: Record, field: str, target: Target, texts: tuple[str, ...]) -> Label:
    value = record.values.get(field)
    if target == "text":
        return None
    if target == "class":
        return _class(record, field, value)
    if target == "number":
        return _number(record, field, value)
    if target == "choice":
        return _place(record, field, value, texts[1:])
    names = [_class(record, field, name) for name in _list(record, field, "a list of classes")]
    if len(set(names)) < len(names):
        raise _refusal(record, field, "a list that names a class once")
    return tuple(names)


def _class(record: Record, field: str, value: object) -> str:
    """A class is told by its name, a whole number by its digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise _refusal(record, field, f"{WORDS}, or a whole number", value)
    return _text(record, field, value, blank=False)


def _number(record: Record, field: str, value: object) -> float:
    number = math.nan
    if isinstance(value, (int | float) if record.typed else str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)
    if not abs(number) <= GREATEST:
        raise _refusal(record, field, "a finite number of 32 bits")
    return number


def _place(record: Record, field: str, value: object, choices: tuple[str, ...]) -> int:
    """The right choice, from 0. In CSV the text of one choice may be the place of another: that is refused."""
    told = {place for place, choice in enumerate(choices) if choice == value}
    if isinstance(value, int) and not isinstance(value, bool):
        told = {value}
    elif isinstance(value, str) and not record.typed and value.isascii() and value.isdigit():
        told |= {int(value)} if not told or int(value) < len(choices) else set()
    if len(told) > 1:
        raise _refusal(record, field, "the text or the place of one choice, not of two; JSONL tells text from place")
    if not told or not 0 <= min(told) < len(choices):
        raise _refusal(record, field, f"the text of a choice, or its place from 0 to {len(choices) - 1}")
    return min(told)


def _refusal(record: Record, field: str, wanted: str, value: object = None) -> InputError:
    """The row is refused: `value`, or else what stands in the field, is not what is wanted."""
    value = record.values.get(field) if value is None else value
    shown = json.dumps(value, default=str)[:MOST_SHOWN] if field in record.values else "missing"
    return InputError(f"{record.where}: {field!r} is {shown}; it must be {wanted}")
