"""Duplicate ids and limits of inputs, over parts that see a range of the ids' hashes each."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.text.clean import IDS
from gpt_core.text.duplicates import share
from gpt_core.text.ids import MOVES, count_entries, find_beyond, find_duplicate_ids, hash_files

Id = tuple[int, int, int]  # hash of the id, hash of the text, input


def moved(ids: list[Id], limits: list[int | None], parts: int) -> dict[int, str]:
    """row -> reason, by all parts."""
    rows = [
        {"high": high, "low": high, "text_hash": text, "entry": entry, "file": f"{row % 3}", "row": row}
        for row, (high, text, entry) in enumerate(ids)
    ]
    table = pa.Table.from_pylist(rows, IDS)
    numbers = share(table["high"].to_numpy(), parts)
    dealt = [table.filter(pa.array(numbers == part)) for part in range(parts)]
    counts = [count_entries(part, len(limits)) for part in dealt]
    found = [find_duplicate_ids(part) for part in dealt]
    found += [find_beyond(part, limits, sum(counts[:number])) for number, part in enumerate(dealt)]
    moves = pa.concat_tables([MOVES.empty_table(), *found])
    assert len(moves) == len(moves["row"].unique())
    return dict(zip(moves["row"].to_pylist(), moves["reason"].to_pylist(), strict=True))


@given(
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3), st.integers(0, 3), st.integers(0, 1))),
    st.lists(st.none() | st.integers(1, 4), min_size=2, max_size=2),
    st.integers(1, 5),
)
def test_what_is_moved_depends_on_no_parts(ids: list[Id], limits: list[int | None], parts: int) -> None:
    kept: dict[int, int] = {}  # hash of the id -> row
    for row, (high, text, _) in enumerate(ids):
        best = kept.setdefault(high, row)
        if (text, f"{row % 3}", row) < (ids[best][1], f"{best % 3}", best):
            kept[high] = row
    expected = {row: "duplicate_id" for row in range(len(ids)) if row not in kept.values()}
    for entry, limit in enumerate(limits):
        of_entry = [row for _, row in sorted(kept.items()) if ids[row][2] == entry]
        expected |= dict.fromkeys(of_entry[limit:] if limit is not None else [], "source_limit")
    assert moved(ids, limits, parts) == expected


def test_all_rows_of_a_file_go_to_one_part() -> None:
    moves = pa.Table.from_pylist([{"file": f"part-{i % 5}", "row": i, "reason": "x"} for i in range(50)], MOVES)
    parts = hash_files(moves, 3)
    assert len({(i % 5, part) for i, part in enumerate(parts.tolist())}) == 5
    assert set(np.unique(parts)) <= {0, 1, 2}
