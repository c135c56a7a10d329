"""Connected components of a graph: of one that fits into a task at once, of a larger one round by round.

Rounds: large star and small star by turns, until all are stars (Kiveris et al. 2014, Connected Components in MapReduce
and Beyond). Each step takes all links of the nodes it is given.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gpt_core.kernel import kernel
from gpt_core.text.table import begins_run

Numbers = npt.NDArray[np.int64]
LINKS = pa.schema([("node", pa.int64()), ("neighbour", pa.int64())])


def find_components(links: pa.Table) -> pa.Table:
    """LINKS of every node to the least of its component, if it is not that itself. `links`: the whole graph."""
    nodes, ends = np.unique([links["node"].to_numpy(), links["neighbour"].to_numpy()], return_inverse=True)
    roots = np.arange(len(nodes))
    _unite(ends.reshape(2, -1), roots)
    is_other = roots != np.arange(len(nodes))
    return pa.Table.from_arrays([pa.array(nodes[is_other]), pa.array(nodes[roots[is_other]])], schema=LINKS)


@kernel
def _unite(ends: Numbers, roots: Numbers) -> None:
    """roots[i]: the least node that node i is joined to. Union by least, with path halving."""
    for k in range(ends.shape[1]):
        a, b = ends[0, k], ends[1, k]
        while roots[a] != a:
            roots[a] = roots[roots[a]]
            a = roots[a]
        while roots[b] != b:
            roots[b] = roots[roots[b]]
            b = roots[b]
        roots[max(a, b)] = min(a, b)
    for i in range(len(roots)):
        roots[i] = roots[roots[i]]  # a root is less than its nodes, and so already final


def link(edges: pa.Table) -> pa.Table:
    """LINKS of every edge, from either end: what the first two columns join."""
    ends = [edges.column(0).combine_chunks(), edges.column(1).combine_chunks()]
    nodes, neighbours = pa.concat_arrays(ends), pa.concat_arrays(ends[::-1])
    return pa.Table.from_arrays([nodes, neighbours], schema=LINKS)


def count_unsettled(links: pa.Table) -> int:
    """Nodes with a lesser neighbour and yet another: none where every node but the least is linked to that alone."""
    nodes, neighbours, firsts = _neighbours(links)
    counts = np.diff(np.append(firsts, len(nodes)))
    return int(np.count_nonzero((neighbours[firsts] < nodes[firsts]) & (counts > 1)))


def large_star(links: pa.Table) -> pa.Table:
    """Every greater neighbour of a node, joined to the least of the node and its neighbours."""
    nodes, neighbours, firsts = _neighbours(links)
    least = np.minimum(nodes, np.repeat(neighbours[firsts], np.diff(np.append(firsts, len(nodes)))))
    is_greater = neighbours > nodes
    return pa.Table.from_arrays([pa.array(neighbours[is_greater]), pa.array(least[is_greater])], schema=LINKS)


def small_star(links: pa.Table) -> pa.Table:
    """A node and its neighbours, all lesser, joined to the least of them."""
    nodes, neighbours, firsts = _neighbours(links)
    least = np.repeat(neighbours[firsts], np.diff(np.append(firsts, len(nodes))))
    ends = np.concatenate([nodes[firsts], neighbours])
    heads = np.concatenate([neighbours[firsts], least])
    is_other = ends != heads
    return pa.Table.from_arrays([pa.array(ends[is_other]), pa.array(heads[is_other])], schema=LINKS)


def _neighbours(links: pa.Table) -> tuple[Numbers, Numbers, Numbers]:
    """(nodes, neighbours, where each node's begin): distinct links by node, then neighbour."""
    nodes, neighbours = links["node"].to_numpy(), links["neighbour"].to_numpy()
    order = np.lexsort((neighbours, nodes))
    nodes, neighbours = nodes[order], neighbours[order]
    is_new = begins_run(nodes, neighbours)
    nodes, neighbours = nodes[is_new], neighbours[is_new]
    return nodes, neighbours, np.flatnonzero(begins_run(nodes))
