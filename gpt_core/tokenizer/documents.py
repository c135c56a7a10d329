"""Reading the documents of a former stage: Parquet files with `id`, `text` and `source`."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from gpt_core.errors import ArtifactError, UserError

COLUMNS = ("id", "text", "source")
BATCH_DOCUMENTS = 1024


def require_documents(paths: Sequence[Path], *, documents: int) -> None:
    """All `paths` are Parquet files of documents, with `documents` rows in all and at least one.

    Raises UserError where cleaning left none, ArtifactError that names the first file that is no such table.
    """
    if documents == 0:
        raise UserError(
            "clean: no document is left to train on; loosen clean.languages, clean.gopher_quality or "
            "clean.gopher_repetition, or add to corpus.inputs"
        )
    rows = 0
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                schema, rows = file.schema_arrow, rows + file.metadata.num_rows
        except (OSError, pa.ArrowInvalid) as error:
            raise ArtifactError(f"{path}: cannot be read as Parquet: {error}; run the stage dedup again") from None
        for name in COLUMNS:
            if name not in schema.names or schema.field(name).type not in (pa.string(), pa.large_string()):
                raise ArtifactError(f"{path}: has no text column {name}; run the stage dedup again")
    if rows != documents:
        raise ArtifactError(
            f"the documents of dedup are {rows:,}, its manifest says {documents:,}; run the stage dedup again"
        )


def read_batches(paths: Sequence[Path], *, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Batches of at most BATCH_DOCUMENTS documents, the files in the given order. Constant memory."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=BATCH_DOCUMENTS, columns=list(columns))


@dataclass(frozen=True)
class Block:
    """Consecutive row groups of one Parquet file: what one task reads. The path is absolute."""

    path: str
    row_groups: list[int]

    def read(self) -> pa.Table:
        """Its documents: id, text and source."""
        with pq.ParquetFile(self.path) as file:
            return file.read_row_groups(self.row_groups, columns=list(COLUMNS), use_threads=False)


def plan_blocks(paths: Sequence[Path], *, block_bytes: int) -> list[Block]:
    """All row groups of `paths`, as few blocks as hold about `block_bytes` each (uncompressed); footers are read."""
    blocks = []
    for path in paths:
        groups: list[int] = []
        held_bytes = 0
        with pq.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
        for group, size in enumerate(sizes):
            if groups and held_bytes + size > block_bytes:
                blocks.append(Block(str(path.resolve()), groups))
                groups, held_bytes = [], 0
            groups.append(group)
            held_bytes += size
        if groups:
            blocks.append(Block(str(path.resolve()), groups))
    return blocks


def hash_strings(column: pa.Array | pa.ChunkedArray, *, seed: int = 0) -> npt.NDArray[np.uint64]:
    """The xxh3-64 of the UTF-8 of every string in `column`, which has no nulls."""
    values = column.cast(pa.large_binary()).to_pylist()
    return np.fromiter((xxhash.xxh3_64_intdigest(value, seed) for value in values), np.uint64, len(values))


def find_rows(paths: Sequence[Path], ids: Collection[str], *, columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The `columns` of the documents with these ids, by id; of all others the ids alone are read."""
    wanted, found = pa.array(sorted(ids)), {}
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.metadata.num_row_groups):
                known = file.read_row_group(group, columns=["id"]).column("id")
                rows = pc.indices_nonzero(pc.is_in(known, wanted.cast(known.type)))
                if len(rows):
                    table = file.read_row_group(group, columns=["id", *columns]).take(rows)
                    found.update({row["id"]: row for row in table.to_pylist()})
        if len(found) == len(wanted):
            break
    return found
