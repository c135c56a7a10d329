"""Which documents are duplicates of which, step by step over Arrow tables of numbers.

A document is known by its `node`, a hash of its id, which orders documents alike whatever file they stand in, and by
its `place`: the number of its file, and its row there. Every step takes the rows that share a key, all of them, and
knows nothing of those that do not: an engine brings them together, on one machine or on many.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from gpt_core.recipe import Dedup
from gpt_core.text.clean import DOCUMENTS
from gpt_core.text.near import PAIR, Sketcher, verify_batches
from gpt_core.text.table import TableWriter, begins_run, read_groups, read_rows, without_rows

MEMBERS_AT_ONCE = 1_000  # of one head that a task verifies: a hot band is shared among many tasks
_ROW_BITS = 32
_ALL_BITS = (1 << 64) - 1
_ORDER = np.uint64(1 << 63)  # turns the order of signed numbers into that of unsigned ones
_STEP = np.int64(0x1E3779B97F4A7C15)  # odd: spreads the salts of one head over all parts

Numbers = npt.NDArray[np.int64]


def _table(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in columns.items()])


_I64, _STRING = pa.int64(), pa.string()
SKETCHES = _table(
    node=_I64, place=_I64, priority=pa.int32(), characters=_I64, high=_I64, low=_I64, bands=pa.list_(_I64)
)
BANDS = _table(band=_I64, node=_I64, place=_I64)
EDGES = _table(member=_I64, head=_I64, member_place=_I64, head_place=_I64)
TEXTS_ASKED = _table(place=_I64, head=_I64, salt=_I64, member=_I64)
TEXTS = _table(head=_I64, salt=_I64, member=_I64, text=pa.large_string())
NODES = _table(node=_I64, place=_I64)
MEMBERS = _table(component=_I64, node=_I64, place=_I64)
FACTS = _table(
    component=_I64, node=_I64, place=_I64, priority=pa.int32(), characters=_I64, high=_I64, low=_I64, id=_STRING,
    source=_STRING,
)  # fmt: skip
SIMILARITIES = _table(component=_I64, member=_I64, head=_I64, jaccard=pa.float64())
NAMED = _table(
    node=_I64, place=_I64, id=_STRING, source=_STRING, duplicate_of=_STRING, cluster=_STRING, kind=_STRING,
    jaccard=pa.float64(), keeper=_I64, keeper_place=_I64,
)  # fmt: skip
DUPLICATES = pa.schema([NAMED.field(name) for name in ("id", "source", "duplicate_of", "cluster", "kind", "jaccard")])


def place_of(file: int, rows: Numbers) -> Numbers:
    """The places of rows of the file with this number."""
    return (np.int64(file) << _ROW_BITS) | rows


def file_of(places: Numbers) -> Numbers:
    """The numbers of their files."""
    return places >> _ROW_BITS


def row_of(places: Numbers) -> Numbers:
    """The rows in their files."""
    return places & ((1 << _ROW_BITS) - 1)


def share(keys: Numbers, parts: int) -> Numbers:
    """The part of `parts`, 0 and up, to which each key, a hash, falls: greater keys to later parts."""
    return (((keys.view(np.uint64) ^ _ORDER) >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)).astype(np.int64)


def numbers(table: pa.Table, column: str) -> Numbers:
    """A column without nulls."""
    found: Numbers = table[column].to_numpy()
    return found


def sketch_file(path: Path, file: int, dedup: Dedup) -> pa.Table:
    """SKETCHES of all documents of a file."""
    sketcher = Sketcher(dedup)
    ranks = {source: rank for rank, source in enumerate(dedup.source_priority)}
    parts = [SKETCHES.empty_table()]
    for first, table in read_groups(path, ["id", "text", "source"]):
        texts = table["text"].combine_chunks()
        bands, keys = sketcher.sketch(texts)
        borders = np.arange(0, bands.size + 1, bands.shape[1], dtype=np.int32)
        nodes = [
            xxhash.xxh3_64_intdigest(f"{dedup.seed}:{id_}".encode()) - (1 << 63) for id_ in table["id"].to_pylist()
        ]
        columns = [
            pa.array(nodes, _I64),
            pa.array(place_of(file, np.arange(first, first + len(table)))),
            pa.array([ranks.get(source, len(ranks)) for source in table["source"].to_pylist()], pa.int32()),
            pc.utf8_length(texts).cast(_I64),
            pa.array(keys[:, 0]),
            pa.array(keys[:, 1]),
            pa.ListArray.from_arrays(pa.array(borders), pa.array(bands.reshape(-1))),
        ]
        parts.append(pa.Table.from_arrays(columns, schema=SKETCHES))
    return pa.concat_tables(parts)


def emptied(path: Path, sketches: pa.Table) -> pa.Table:
    """NAMED rows of the documents of a file that lost all their lines. `sketches`: those of the file."""
    gone = sketches.filter(pc.equal(sketches["characters"], 0)).select(["node", "place"])
    named = read_rows(path, row_of(numbers(gone, "place")), ["id", "source"])
    return _fill(gone.append_column("id", named["id"]).append_column("source", named["source"]), kind="lines")


def find_twins(sketches: pa.Table) -> tuple[pa.Table, pa.Table]:
    """(EDGES, sketches) of documents of which all share a key of their text with others here, or with none.

    Of every text the document with the least node is the head of the others, and stands for them in `sketches`.
    """
    sketches = sketches.filter(pc.greater(sketches["characters"], 0)).sort_by(
        [("high", "ascending"), ("low", "ascending"), ("node", "ascending")]
    )
    is_head = _is_first(sketches, "high", "low")
    return _edges(sketches, is_head), sketches.filter(pa.array(is_head))


def spread_bands(sketches: pa.Table) -> pa.Table:
    """(band, node, place): a row for every band of every document."""
    per_document = len(sketches["bands"][0]) if len(sketches) else 0
    documents = np.repeat(np.arange(len(sketches)), per_document)
    bands = sketches["bands"].combine_chunks().flatten()
    return sketches.select(["node", "place"]).take(pa.array(documents)).add_column(0, "band", bands)


def pair_bands(bands: pa.Table) -> pa.Table:
    """EDGES from the documents of each band to the one with the least node: n give n - 1 pairs."""
    bands = bands.sort_by([("band", "ascending"), ("node", "ascending")])
    return _edges(bands, _is_first(bands, "band"))


def ask_texts(edges: pa.Table) -> pa.Table:
    """TEXTS_ASKED of the distinct `edges`, which are all that their heads have."""
    edges = edges.sort_by([("head", "ascending"), ("member", "ascending")])
    edges = edges.filter(pa.array(_is_first(edges, "head", "member")))
    firsts = np.flatnonzero(_is_first(edges, "head"))
    counts = np.diff(np.append(firsts, len(edges)))
    salts = (np.arange(len(edges)) - np.repeat(firsts, counts)) // MEMBERS_AT_ONCE
    edges = edges.append_column("salt", pa.array(salts.astype(np.int64)))
    members = edges.select(["member_place", "head", "salt", "member"]).rename_columns(TEXTS_ASKED.names)
    heads = edges.filter(pa.array(_is_first(edges, "head", "salt"))).select(["head_place", "head", "salt"])
    heads = heads.append_column("member", pa.nulls(len(heads), _I64)).rename_columns(TEXTS_ASKED.names)
    return pa.concat_tables([members, heads])


def salted(texts: pa.Table) -> Numbers:
    """A hash of head and salt."""
    return numbers(texts, "head") ^ (numbers(texts, "salt") * _STEP)


def answer_texts(path: Path, asked: pa.Table) -> pa.Table:
    """TEXTS of what is asked of one file."""
    texts = read_rows(path, row_of(numbers(asked, "place")), ["text"])["text"].cast(pa.large_string())
    return asked.drop_columns(["place"]).append_column("text", texts)


def measure_texts(texts: pa.Table, ngram_words: int) -> pa.Table:
    """PAIR of heads and their members, all that have one salt."""
    first = pc.is_valid(texts["member"]).cast(pa.int8())  # a head's own text comes before its members'
    texts = texts.append_column("first", first)
    texts = texts.sort_by([(name, "ascending") for name in ("head", "salt", "first", "member")])
    found = verify_batches(texts.to_batches(max_chunksize=1_000), ngram_words=ngram_words)
    return pa.Table.from_batches(list(found), PAIR)


def places_of(edges: pa.Table) -> pa.Table:
    """NODES of both ends of the edges."""
    ends = [edges.select([end, f"{end}_place"]).rename_columns(NODES.names) for end in ("member", "head")]
    return pa.concat_tables(ends)


def nodes_asked(asked: pa.Table) -> pa.Table:
    """NODES whose texts are asked."""
    return pa.Table.from_arrays([pc.coalesce(asked["member"], asked["head"]), asked["place"]], schema=NODES)


def with_heads(components: pa.Table) -> pa.Table:
    """LINKS of nodes to their components; of the components, which are nodes too, to themselves."""
    heads = components["neighbour"].unique()
    return pa.concat_tables([components, pa.Table.from_arrays([heads, heads], schema=components.schema)])


def count_clashes(nodes: pa.Table) -> int:
    """Nodes with two places: documents whose ids have one hash would be taken for one."""
    nodes = nodes.sort_by([("node", "ascending"), ("place", "ascending")])
    return int(np.count_nonzero(_is_first(nodes, "node", "place")) - np.count_nonzero(_is_first(nodes, "node")))


def locate(nodes: pa.Table, components: pa.Table) -> pa.Table:
    """MEMBERS: those of the `nodes`, once each, that are in `components`: LINKS of a node to its component."""
    nodes = nodes.sort_by("node")
    nodes = nodes.filter(pa.array(_is_first(nodes, "node")))
    found, is_in = _component_of(numbers(nodes, "node"), components)
    return nodes.add_column(0, "component", pa.array(found)).filter(pa.array(is_in))


def relate(measured: pa.Table, components: pa.Table) -> pa.Table:
    """SIMILARITIES of the pairs whose members are in `components`: LINKS of a node to its component."""
    found, is_in = _component_of(numbers(measured, "member"), components)
    return measured.add_column(0, "component", pa.array(found)).filter(pa.array(is_in))


def _component_of(nodes: Numbers, components: pa.Table) -> tuple[Numbers, npt.NDArray[np.bool_]]:
    """(the component of each node, whether it has one)."""
    components = components.sort_by("node")
    known, heads = numbers(components, "node"), numbers(components, "neighbour")
    if not len(known):
        return nodes, np.zeros(len(nodes), np.bool_)
    at = np.minimum(np.searchsorted(known, nodes), len(known) - 1)
    return heads[at], known[at] == nodes


def find_facts(path: Path, members: pa.Table, sketches: pa.Table) -> pa.Table:
    """FACTS of the members that stand in one file. `sketches`: those of all documents of the file."""
    rows = row_of(numbers(members, "place"))
    known = sketches.select(["priority", "characters", "high", "low"]).take(pa.array(rows))
    named = read_rows(path, rows, ["id", "source"])
    return pa.Table.from_arrays([*members.columns, *known.columns, named["id"], named["source"]], schema=FACTS)


def name_duplicates(facts: pa.Table, similarities: pa.Table) -> pa.Table:
    """NAMED: every document of the components here but the best of each, which is kept.

    The best has the least priority, then the most characters, then the least id. `kind` is exact where a document has
    the text of the kept one, case and white space aside; `jaccard` is null where the two were not measured.
    """
    facts = facts.append_column("shortness", pc.negate(facts["characters"])).sort_by(
        [(name, "ascending") for name in ("component", "priority", "shortness", "id")]
    )
    is_kept = _is_first(facts, "component")
    keepers = facts.take(pa.array(np.flatnonzero(is_kept)[np.cumsum(is_kept) - 1])).filter(pa.array(~is_kept))
    gone = facts.filter(pa.array(~is_kept))
    is_exact = pc.and_(pc.equal(gone["high"], keepers["high"]), pc.equal(gone["low"], keepers["low"]))
    measured = _jaccard_of(numbers(gone, "node"), numbers(keepers, "node"), similarities)
    return _fill(
        gone.select(["node", "place", "id", "source"]),
        duplicate_of=keepers["id"],
        cluster=pa.array([f"{node & _ALL_BITS:016X}" for node in gone["component"].to_pylist()], _STRING),
        kind=pc.if_else(is_exact, "exact", "fuzzy"),
        jaccard=pc.if_else(is_exact, 1.0, measured),
        keeper=keepers["node"],
        keeper_place=keepers["place"],
    )


def chained(named: pa.Table) -> pa.Table:
    """EDGES of the duplicates that were never measured against what is kept: a chain of pairs joins the two."""
    late = named.filter(pc.and_(pc.equal(named["kind"], "fuzzy"), pc.is_null(named["jaccard"])))
    return late.select(["node", "keeper", "place", "keeper_place"]).rename_columns(EDGES.names)


def finish(named: pa.Table, late: pa.Table) -> pa.Table:
    """`named` by id, with the similarities of `late`, which are PAIR."""
    known, keepers = numbers(named, "node"), named["keeper"].fill_null(0).to_numpy()
    jaccard = pc.coalesce(named["jaccard"], _jaccard_of(known, keepers, late))
    return named.set_column(named.column_names.index("jaccard"), "jaccard", jaccard).sort_by("id")


def _jaccard_of(nodes: Numbers, others: Numbers, similarities: pa.Table) -> pa.Array:
    """Of every node and its other, in either order; null where `similarities` has none."""
    measured = {
        (min(pair), max(pair)): jaccard
        for *pair, jaccard in zip(
            *(similarities[name].to_pylist() for name in ("member", "head", "jaccard")), strict=True
        )
    }
    pairs = zip(nodes.tolist(), others.tolist(), strict=True)
    return pa.array([measured.get((min(pair), max(pair))) for pair in pairs], pa.float64())


def _is_first(table: pa.Table, *columns: str) -> npt.NDArray[np.bool_]:
    """Which rows of a table sorted by `columns` differ there from the row before."""
    return begins_run(*(numbers(table, column) for column in columns))


def _edges(table: pa.Table, is_head: npt.NDArray[np.bool_]) -> pa.Table:
    """EDGES from every row to the head above it; distinct ones."""
    heads = np.flatnonzero(is_head)[np.cumsum(is_head) - 1]
    nodes, places = numbers(table, "node"), numbers(table, "place")
    columns = np.stack([nodes, nodes[heads], places, places[heads]])[:, ~is_head]
    order = np.lexsort(columns[:2])
    edges = pa.Table.from_arrays([pa.array(column[order]) for column in columns], schema=EDGES)
    return edges.filter(pa.array(_is_first(edges, "member", "head")))


def _fill(table: pa.Table, **columns: pa.ChunkedArray | pa.Array | str) -> pa.Table:
    """NAMED, null where nothing is given."""
    given = {name: table[name] for name in table.column_names} | columns
    arrays = []
    for field in NAMED:
        value = given.get(field.name)
        if value is None:
            value = pa.nulls(len(table), field.type)
        elif isinstance(value, str):
            value = pa.array([value] * len(table), field.type)
        arrays.append(value)
    return pa.Table.from_arrays(arrays, schema=NAMED)


def keep_unique(path: Path, rows: Collection[int], folder: Path, *, attempt: str) -> Mapping[str, tuple[int, int]]:
    """`folder` holds the file's documents that are not in `rows`. Returns (documents, bytes of text) by source."""
    found: dict[str, tuple[int, int]] = {}
    with TableWriter(folder, path.stem, DOCUMENTS, attempt=attempt) as documents:
        for kept, _ in without_rows(path, rows):
            documents.write(kept)
            sizes = pc.binary_length(kept["text"]).to_pylist()
            for source, size in zip(kept["source"].to_pylist(), sizes, strict=True):
                n, total = found.get(source, (0, 0))
                found[source] = (n + 1, total + size)
    return found


class Cluster(NamedTuple):
    """A kept document and its duplicates; the largest sort first."""

    order: int  # - size
    kept: str
    place: int
    members: list[str]

    @property
    def size(self) -> int:
        """Documents, the kept one in."""
        return -self.order


def describe_clusters(named: pa.Table, most: int) -> tuple[Counter[int], list[Cluster]]:
    """(clusters by floor(log2(documents)), the `most` largest) of the clusters here."""
    groups = named.filter(pc.is_valid(named["cluster"])).group_by(["keeper_place", "duplicate_of"])
    sized = groups.aggregate([("id", "count"), ("id", "list")]).to_pylist()
    clusters = [
        Cluster(-it["id_count"] - 1, it["duplicate_of"], it["keeper_place"], sorted(it["id_list"])) for it in sized
    ]
    return Counter(cluster.size.bit_length() - 1 for cluster in clusters), sorted(clusters)[:most]
