"""Which clean documents another of the same id, or the limit of their input, takes out: over hashes of ids."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from gpt_core.text.table import begins_run

MOVES = pa.schema([("file", pa.string()), ("row", pa.int64()), ("reason", pa.string())])

Counts = npt.NDArray[np.int64]


def find_duplicate_ids(ids: pa.Table) -> pa.Table:
    """MOVES of all but the first of each id. `ids`: IDS, all there are of theirs."""
    ids, is_first = _by_id(ids)
    return _moves(ids, ~is_first, "duplicate_id")


def count_entries(ids: pa.Table, entries: int) -> Counts:
    """(entries,): how many different ids come from each of corpus.inputs."""
    ids, is_first = _by_id(ids)
    return np.bincount(ids["entry"].to_numpy()[is_first], minlength=entries)


def find_beyond(ids: pa.Table, limits: Sequence[int | None], before: Counts | int) -> pa.Table:
    """MOVES of the documents that come after the first `limits` of their input, in the order of their ids' hashes.

    before: (entries,), how many come before those in `ids`; or 0.
    """
    ids, is_first = _by_id(ids)
    entries = ids["entry"].to_numpy()
    taken = np.broadcast_to(np.asarray(before), len(limits))
    is_beyond = np.zeros(len(ids), np.bool_)
    for entry, limit in enumerate(limits):
        if limit is not None:
            of_entry = is_first & (entries == entry)
            is_beyond |= of_entry & (np.cumsum(of_entry) + taken[entry] > limit)
    return _moves(ids, is_beyond, "source_limit")


def hash_files(moves: pa.Table, parts: int) -> Counts:
    """A part of `parts` for each row, the same for all of one file."""
    return np.array([xxhash.xxh3_64_intdigest(file.encode()) % parts for file in moves["file"].to_pylist()], np.int64)


def _by_id(ids: pa.Table) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
    """(IDS in the order of the hashes, which of them are the first of their id: that of the least hash of a text)."""
    ids = ids.sort_by([(name, "ascending") for name in ("high", "low", "text_hash", "file", "row")])
    return ids, begins_run(ids["high"].to_numpy(), ids["low"].to_numpy())


def _moves(ids: pa.Table, is_moved: npt.NDArray[np.bool_], reason: str) -> pa.Table:
    moved = ids.filter(pa.array(is_moved)).select(["file", "row"])
    return moved.append_column("reason", pa.array([reason] * len(moved), pa.string())).cast(MOVES)
