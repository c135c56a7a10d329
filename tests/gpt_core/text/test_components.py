"""Connected components, the steps of which see a part of the graph each."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.text.components import LINKS, count_unsettled, find_components, large_star, link, small_star

Edges = set[tuple[int, int]]


def deal(tables: list[pa.Table], parts: int) -> list[pa.Table]:
    """All links of a node in one of the tables."""
    links = pa.concat_tables([LINKS.empty_table(), *tables])
    return [links.filter(pa.array(links["node"].to_numpy() % parts == part)) for part in range(parts)]


def connect(edges: Edges, parts: int) -> dict[int, int]:
    columns = [pa.array([edge[end] for edge in sorted(edges)], pa.int64()) for end in (0, 1)]
    links = [link(pa.table(columns, names=["member", "head"]))]
    for _ in range(50):
        dealt = deal(links, parts)
        stars = [large_star(part) for part in dealt]
        if not sum(map(count_unsettled, dealt)):
            found = pa.concat_tables(stars)
            assert len(found) == len(np.unique(found["node"].to_numpy()))
            return dict(zip(found["node"].to_pylist(), found["neighbour"].to_pylist(), strict=True))
        links = [link(small_star(part)) for part in deal(stars, parts)]
    raise AssertionError("not settled")


def expected(edges: Edges) -> dict[int, int]:
    root = {node: node for edge in edges for node in edge}
    for _ in root:
        for a, b in edges:
            root[a] = root[b] = min(root[a], root[b])
    return {node: least for node, least in root.items() if node != least}


@given(
    st.sets(st.tuples(st.integers(-20, 20), st.integers(-20, 20)).filter(lambda edge: edge[0] != edge[1]), max_size=40),
    st.integers(1, 4),
)
def test_every_node_is_joined_to_the_least_that_it_can_reach(edges: Edges, parts: int) -> None:
    assert connect(edges, parts) == expected(edges)
    columns = [pa.array([edge[end] for edge in sorted(edges)], pa.int64()) for end in (0, 1)]
    found = find_components(pa.Table.from_arrays(columns, schema=LINKS))
    assert dict(zip(found["node"].to_pylist(), found["neighbour"].to_pylist(), strict=True)) == expected(edges)


def test_a_long_chain_is_settled_in_few_rounds() -> None:
    chain = {(i, i + 1) for i in range(3_000)}
    assert connect(chain, 3) == dict.fromkeys(range(1, 3001), 0)
