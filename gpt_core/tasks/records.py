"""Records of labelled files, each with the place where it stands: JSONL, CSV and Parquet, the first two also as .gz.

A CSV file has a header and commas between its cells (RFC 4180); its cells are text, whatever they look like. Blank
lines are no records. Whole files pass through in constant memory.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gpt_core.errors import InputError

LONGEST_CELL = 2**31 - 1  # characters; csv's own limit of 131,072 is shorter than a long document


@dataclass(frozen=True)
class Record:
    """One record of a file, or of a request. Where it is not `typed`, every value is the text of a cell."""

    where: str  # file:line of its begin, or "file row n" of Parquet, both from 1
    values: Mapping[str, object]
    typed: bool = True


def read_records(path: Path, fields: Sequence[str]) -> Iterator[Record]:
    """All records of the file, in order, those of tables with these fields at least.

    Raises InputError for a file of another kind, one that cannot be read on, a table without one of `fields` and a
    record that is none, with the line or row.
    """
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _read_parquet(path, fields)
    plain = name.removesuffix(".gz")
    if plain.endswith(".jsonl"):
        return _read_jsonl(path)
    if plain.endswith(".csv"):
        return _read_csv(path, fields)
    raise InputError(f"{path}: its ending says no format; give .jsonl, .csv (both also .gz) or .parquet")


def _read_jsonl(path: Path) -> Iterator[Record]:
    for number, line in _lines(path):
        where = f"{path}:{number}"
        try:
            values = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}: is no JSON: {error}; correct or remove the line") from None
        if not isinstance(values, dict):
            raise InputError(f"{where}: is no JSON object; give one object a line")
        yield Record(where, values)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes) of each line that is not blank."""
    number = 0
    try:
        with _open(path) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise _broken(path, number + 1, error) from None


def _read_csv(path: Path, fields: Sequence[str]) -> Iterator[Record]:
    number = 1
    try:
        with _open(path) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as text, _long_cells():
            rows = csv.reader(text, strict=True)
            head = next(rows, [])
            _require_columns(path, head, fields)
            number = rows.line_num + 1
            for cells in rows:
                if cells and len(cells) != len(head):
                    raise InputError(
                        f"{path}:{number}: has {len(cells)} cells, the header {len(head)}; quote cells with commas"
                    )
                if cells:
                    yield Record(f"{path}:{number}", dict(zip(head, cells, strict=True)), typed=False)
                number = rows.line_num + 1
    except (OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError) as error:
        raise _broken(path, number, error) from None


def _read_parquet(path: Path, fields: Sequence[str]) -> Iterator[Record]:
    import pyarrow as pa  # a served model reads no file
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(path) as file:
            _require_columns(path, file.schema_arrow.names, fields)
            for batch in file.iter_batches(columns=list(dict.fromkeys(fields))):
                for values in batch.to_pylist():
                    row += 1
                    yield Record(f"{path} row {row}", values)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path} row {row + 1}: cannot be read on: {error}; give an unbroken file") from None


@contextmanager
def _long_cells() -> Iterator[None]:
    """Cells may be as long as documents."""
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _require_columns(path: Path, columns: Sequence[str], fields: Sequence[str]) -> None:
    """The table has each of `fields` once."""
    for field in fields:
        if list(columns).count(field) != 1:
            found = "two columns" if field in columns else "no column"
            raise InputError(
                f"{path}: has {found} {field!r} among {', '.join(map(repr, columns)) or 'none'}; rename one, or set "
                "finetune.text_field, second_field or label_field"
            )


def _broken(path: Path, number: int, error: Exception) -> InputError:
    return InputError(f"{path}:{number}: cannot be read on: {error}; give an unbroken file")
