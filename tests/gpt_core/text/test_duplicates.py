"""The steps of deduplicating, each over the rows that share a key."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.recipe import Dedup
from gpt_core.text import duplicates as steps
from gpt_core.text.clean import DOCUMENTS

I64 = st.integers(-(2**63), 2**63 - 1)


def rows(table: pa.Table, *columns: str) -> list[tuple[object, ...]]:
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


def table(schema: pa.Schema, *values: tuple[object, ...]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in values], schema)


@given(st.lists(I64, min_size=1), st.integers(1, 1_000))
def test_keys_are_dealt_in_their_order_to_parts_that_there_are(keys: list[int], parts: int) -> None:
    dealt = steps.share(np.array(sorted(keys), np.int64), parts).tolist()
    assert dealt == sorted(dealt)
    assert 0 <= dealt[0] <= dealt[-1] < parts


def test_a_place_is_a_file_and_a_row() -> None:
    places = steps.place_of(70_000, np.array([0, 2**32 - 1]))
    assert steps.file_of(places).tolist() == [70_000, 70_000]
    assert steps.row_of(places).tolist() == [0, 2**32 - 1]


def test_a_sketch_knows_its_document_whatever_file_that_is_in(tmp_path: Path) -> None:
    texts = {"a": "One two three.", "b": "", "c": "one TWO  three ."}
    documents = [
        {"id": id_, "text": text, "source": id_, "metadata": [], "place": f"x:{id_}"} for id_, text in texts.items()
    ]
    for name, order in (("forth", documents), ("back", documents[::-1])):
        pq.write_table(pa.Table.from_pylist(order, DOCUMENTS), tmp_path / name, row_group_size=2)
    settings = Dedup(source_priority=("c", "a"))
    forth, back = (steps.sketch_file(tmp_path / name, 3, settings) for name in ("forth", "back"))
    assert steps.row_of(forth["place"].to_numpy()).tolist() == [0, 1, 2]
    assert forth["priority"].to_pylist() == [1, 2, 0]
    columns = ["node", "priority", "characters", "high", "low", "bands"]
    assert forth.select(columns).to_pylist() == back.select(columns).to_pylist()[::-1]
    assert forth["high"][0] == forth["high"][2] != forth["high"][1]  # one text, but for case and space
    gone = steps.emptied(tmp_path / "forth", forth)
    assert rows(gone, "id", "source", "kind", "duplicate_of") == [("b", "b", "lines", None)]


def test_of_one_text_the_least_node_stands_for_the_others() -> None:
    sketches = table(
        steps.SKETCHES,
        (5, 50, 0, 9, 1, 1, [7, 8]),
        (2, 20, 0, 9, 1, 1, [7, 8]),
        (9, 90, 0, 9, 1, 2, [7, 3]),
        (1, 10, 0, 0, 1, 1, [0, 0]),  # empty: of no text
    )
    twins, lone = steps.find_twins(sketches)
    assert rows(twins, *steps.EDGES.names) == [(5, 2, 50, 20)]
    assert rows(steps.spread_bands(lone), *steps.BANDS.names) == [(7, 2, 20), (8, 2, 20), (7, 9, 90), (3, 9, 90)]


def test_documents_of_a_band_are_paired_with_the_least_of_them_once() -> None:
    bands = table(steps.BANDS, (7, 4, 40), (7, 2, 20), (7, 9, 90), (8, 9, 90), (8, 2, 20), (5, 1, 10))
    assert rows(steps.pair_bands(bands), *steps.EDGES.names) == [(4, 2, 40, 20), (9, 2, 90, 20)]


def test_a_head_with_many_members_is_asked_for_once_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "MEMBERS_AT_ONCE", 2)
    edges = table(steps.EDGES, (3, 1, 30, 10), (4, 1, 40, 10), (5, 1, 50, 10), (4, 1, 40, 10), (9, 8, 90, 80))
    asked = steps.ask_texts(edges)
    assert sorted(rows(asked, "head", "salt", "place")) == [
        *[(1, 0, 10), (1, 0, 30), (1, 0, 40)],
        *[(1, 1, 10), (1, 1, 50)],
        *[(8, 0, 80), (8, 0, 90)],
    ]
    assert [head for head, member in rows(asked, "head", "member") if member is None] == [1, 1, 8]
    assert set(rows(steps.nodes_asked(asked), "node", "place")) == {(n, 10 * n) for n in (1, 3, 4, 5, 8, 9)}


def test_two_documents_of_one_node_are_noticed() -> None:
    nodes = table(steps.NODES, (1, 10), (1, 10), (2, 20))
    assert steps.count_clashes(nodes) == 0
    assert steps.count_clashes(table(steps.NODES, (1, 10), (1, 11), (2, 20))) == 1


def test_the_best_of_a_component_is_kept_and_the_others_are_named_after_it() -> None:
    facts = table(
        steps.FACTS,
        (1, 1, 10, 1, 99, 6, 6, "low", "s"),
        (1, 3, 30, 0, 50, 7, 7, "b", "s"),
        (1, 4, 40, 0, 50, 7, 7, "a", "s"),
        (1, 5, 50, 0, 49, 8, 8, "shorter", "s"),
        (2, 2, 20, 0, 1, 9, 9, "alone", "s"),
    )
    similar = table(steps.SIMILARITIES, (1, 5, 4, 0.8), (1, 5, 1, 0.9))
    named = steps.name_duplicates(facts, similar)
    assert sorted(rows(named, "id", "duplicate_of", "kind", "jaccard")) == [
        ("b", "a", "exact", 1.0),
        ("low", "a", "fuzzy", None),
        ("shorter", "a", "fuzzy", 0.8),
    ]
    assert set(named["cluster"].to_pylist()) == {"0000000000000001"}
    late = steps.chained(named)
    assert rows(late, *steps.EDGES.names) == [(1, 4, 10, 40)]
    whole = steps.finish(named, table(steps.SIMILARITIES, (0, 4, 1, 0.75)).drop_columns("component"))
    assert rows(whole, "id", "jaccard") == [("b", 1.0), ("low", 0.75), ("shorter", 0.8)]
    octaves, (cluster,) = steps.describe_clusters(whole, most=5)
    assert (dict(octaves), cluster.size, cluster.kept, cluster.members) == ({2: 1}, 4, "a", ["b", "low", "shorter"])
