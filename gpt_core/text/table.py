"""Parquet tables written by many tasks: files of a bounded size, whole or not there, and rows taken out of them."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

FILE_BYTES = 256 << 20  # of text in a file
GROUP_BYTES = 16 << 20  # in a row group: what a reader holds at once


class TableWriter:
    """Writes {name}-000.parquet, {name}-001.parquet and so on, zstd; there is always the first, if only empty.

    A file stands under its name when it is whole: until then under one with the `attempt` in it, so that two
    attempts at the same part, on different machines, never mix. The later one replaces the same bytes.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema, *, attempt: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name, self.schema, self.attempt = folder, name, schema, attempt
        self.n_files = 0
        self._open()

    def write(self, rows: pa.Table) -> list[tuple[str, int, pa.Table]]:
        """The rows are written. Returns where: (file name, row of the first, the rows)."""
        if not len(rows):
            return []
        rows = rows.cast(self.schema)
        if self.file_bytes >= FILE_BYTES:
            self._close()
            self._open()
        place = (self._final.name, self.file_rows, rows)
        self.pending.append(rows)
        self.file_rows += len(rows)
        size = rows.nbytes
        self.pending_bytes += size
        self.file_bytes += size
        if self.pending_bytes >= GROUP_BYTES:
            self._flush()
        return [place]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._close()
        else:
            self._writer.close()
            self._partial.unlink(missing_ok=True)

    def _open(self) -> None:
        self._final = self.folder / f"{self.name}-{self.n_files:03d}.parquet"
        self._partial = self.folder / f".{self._final.name}.{self.attempt}"
        self._writer = pq.ParquetWriter(self._partial, self.schema, compression="zstd", compression_level=1)
        self.pending: list[pa.Table] = []
        self.pending_bytes = self.file_bytes = self.file_rows = 0
        self.n_files += 1

    def _flush(self) -> None:
        if self.pending:
            table = pa.concat_tables(self.pending)
            self._writer.write_table(table, row_group_size=max(1, len(table)))
        self.pending, self.pending_bytes = [], 0

    def _close(self) -> None:
        self._flush()
        self._writer.close()
        os.replace(self._partial, self._final)  # noqa: PTH105  the name may stand already


def read_groups(path: Path, columns: list[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
    """(row of the first, the rows) of every row group."""
    first = 0
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=columns, use_threads=False)
            yield first, table
            first += len(table)


def read_rows(path: Path, rows: npt.NDArray[np.int64], columns: list[str]) -> pa.Table:
    """These rows of the file, in the order asked; row groups without them are not read."""
    order = np.argsort(rows, kind="stable")
    wanted = rows[order]
    with pq.ParquetFile(path) as file:
        parts = [file.schema_arrow.empty_table().select(columns)]
        first = 0
        for group in range(file.num_row_groups):
            stop = first + file.metadata.row_group(group).num_rows
            low, high = np.searchsorted(wanted, [first, stop])
            if low < high:
                table = file.read_row_group(group, columns=columns, use_threads=False)
                parts.append(table.take(pa.array(wanted[low:high] - first)))
            first = stop
    return pa.concat_tables(parts).take(pa.array(np.argsort(order)))


def begins_run(*columns: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Which rows differ from the row before in one of the columns; the first does."""
    begins = np.zeros(len(columns[0]), np.bool_)
    begins[:1] = True
    for column in columns:
        begins[1:] |= column[1:] != column[:-1]
    return begins


def without_rows(path: Path, rows: Collection[int]) -> Iterator[tuple[pa.Table, pa.Table]]:
    """(the rows of a row group that are not among `rows`, those that are) for every row group of the file."""
    dropped = np.sort(np.fromiter(rows, np.int64, len(rows)))
    for first, table in read_groups(path):
        low, high = np.searchsorted(dropped, [first, first + len(table)])
        mask = np.zeros(len(table), np.bool_)
        mask[dropped[low:high] - first] = True
        yield table.filter(pa.array(~mask)), table.filter(pa.array(mask))
