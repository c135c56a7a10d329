"""Clean documents to unique ones, on Spark: common lines, exact duplicates, fuzzy ones by MinHash.

0. Where dedup.lines asks for it, lines that too many documents have are dropped from all of them.
1. Every document is sketched: a key of its tokens, and a hash for each band of its MinHash signature.
2. Documents with one key are duplicates of one of them, which stands for all.
3. Of documents that share a band each is paired with one of them, so that n give n - 1 pairs. A pair counts if the
   exact Jaccard similarity of its shingles reaches dedup.min_jaccard.
4. Connected components of the duplicates. Of each is kept the document whose source stands first in
   dedup.source_priority, then the longest, then that with the least id.

What tasks hand to each other are Arrow tables of numbers (gpt_core/text/duplicates.py says what a step makes of
them), texts of candidate pairs, and ids of duplicates. The kept documents are the same for any number of partitions
and any order of the input. Writes documents/, duplicates/ and stats.json; documents in = kept + exact + fuzzy +
emptied (all their lines common).
"""

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark import RDD, SparkContext

from gpt_core.artifact import write_json
from gpt_core.errors import StageError, UserError
from gpt_core.fingerprint import Json
from gpt_core.text import duplicates as steps
from gpt_core.text.common_lines import LINES, Dropped, count_lines, drop_common_lines, find_common
from gpt_core.text.components import LINKS, count_unsettled, find_components, large_star, link, small_star
from gpt_core.text.near import PAIR
from gpt_core.text.table import read_rows
from jobs.job import Job, Outcome, run_job
from jobs.spark_context import (
    Flow,
    Kept,
    Scratch,
    count_rows,
    exchange,
    make_each,
    partitions_of,
    read_kept,
    schema_of,
    scratch_of,
    spark_context,
)

LINKS_AT_ONCE = 10_000_000  # of a graph that one task solves
MOST_ROUNDS = 50  # a round at least halves every path; 50 is beyond any corpus
TEXT_BYTES_AT_ONCE = 128 << 20  # of candidate pairs in a task
ROWS_PER_FILE = 1_000_000  # of duplicates/
SAMPLE_PAIRS, SAMPLE_CLUSTERS, SAMPLE_MEMBERS, SAMPLE_CHARACTERS = 5, 5, 5, 200
JACCARD_EDGES = [round(0.5 + 0.05 * i, 2) for i in range(11)]


def make(job: Job) -> Outcome:
    """The stage `dedup`."""
    folder, clean = job.output / "documents", job.inputs["clean"]
    files = [path.absolute() for path in clean.files("documents")]
    with spark_context(job, input_bytes=sum(path.stat().st_size for path in files)) as context:
        lines: dict[str, Json] | None = None
        if job.recipe.dedup.lines is not None:
            files, lines = _drop_lines(context, job, files)
        size = clean.manifest.counts["text_bytes_kept"] // max(1, clean.manifest.counts["documents_kept"])
        found = Deduplicator(context, job, files, text_bytes=size).find()
        kept = _write_unique(job, files, found.named)
    gone = found.kinds.total()
    counts = {
        "documents_in": sum(n for n, _ in kept.values()) + gone,
        "documents_kept": sum(n for n, _ in kept.values()),
        "duplicates_exact": found.kinds["exact"],
        "duplicates_fuzzy": found.kinds["fuzzy"],
        "documents_emptied": found.kinds["lines"],
        "text_bytes_kept": sum(size for _, size in kept.values()),
    }
    sources: dict[str, Json] = {}
    for name in sorted(kept.keys() | found.sources.keys()):
        n, size = kept.get(name, (0, 0))
        sources[name] = {"in": n + found.sources[name], "kept": n, "bytes_kept": size}
    stats: dict[str, Json] = {
        "sources": sources,
        "pairs": found.pairs,
        "clusters": found.clusters,
        "jaccard_histogram": found.jaccard_histogram,
        "lines": lines,
    }
    assert count_rows(job.output / "duplicates") == gone, "the table lost duplicates"
    assert count_rows(folder) == counts["documents_kept"], "the table lost documents"
    assert counts["documents_in"] == clean.manifest.counts["documents_kept"], "documents in and out do not balance"
    if not counts["documents_kept"]:
        raise UserError("dedup kept no document: all their lines are common; raise dedup.lines.max_documents")
    job.report(counts["documents_in"], counts["documents_in"], "documents")
    return Outcome(
        paths=[folder, job.output / "duplicates", write_json(job.output / "stats.json", stats)],
        counts=counts,
        schemas={"documents": schema_of(folder), "duplicates": schema_of(job.output / "duplicates")},
        engines=["pyspark", "pyarrow"],
    )


@dataclass(frozen=True)
class Found:
    """The duplicates, and what is told of them."""

    named: Kept  # NAMED
    kinds: Counter[str]
    sources: Counter[str]
    pairs: list[Json]
    clusters: dict[str, Json]
    jaccard_histogram: dict[str, Json]


class Deduplicator:
    """Finds the duplicates among the documents of `files`, which have `text_bytes` on average."""

    def __init__(self, context: SparkContext, job: Job, files: list[Path], *, text_bytes: int) -> None:
        self.context, self.files, self.text_bytes, self.output = context, files, text_bytes, job.output.absolute()
        self.dedup, self.parts = job.recipe.dedup, partitions_of(job, context)
        self.scratch = Scratch(context, job)
        self.links_at_once = LINKS_AT_ONCE

    def find(self) -> Found:
        """Writes duplicates/."""
        dedup = self.dedup
        sketches = self.scratch.keep(
            make_each(self.context, self.files, lambda number, path: steps.sketch_file(path, number, dedup))
        )
        by_text = self._by("high", sketches, steps.SKETCHES)
        twins = self.scratch.keep(by_text.map(lambda alike: steps.find_twins(alike)[0]))
        bands = by_text.map(lambda alike: steps.spread_bands(steps.find_twins(alike)[1]))
        asked = self._ask(self._by("band", bands, steps.BANDS).map(steps.pair_bands))
        measured = self._measure(asked)
        links = twins.map(link) + measured.map(partial(_link_alike, least=dedup.min_jaccard))
        components = self._connect(links)
        nodes = twins.map(steps.places_of) + asked.map(steps.nodes_asked)
        named = self._name(components, nodes, measured, sketches)
        late = self._measure(self._ask(named.map(steps.chained)))
        final = self._finish(named, late, sketches)
        return self._describe(final, named, measured)

    def _by(self, column: str, tables: Kept | RDD, schema: pa.Schema) -> RDD:
        """All rows of one value of a column, which is a hash, in one table."""
        return exchange(self.parts, Flow(tables, schema, share_of(column, self.parts))).map(_only)

    def _by_file(self, tables: Kept | RDD, schema: pa.Schema) -> RDD:
        """(number of a file, the rows whose place is in it)."""
        return exchange(len(self.files), Flow(tables, schema, _file_of)).mapPartitionsWithIndex(
            lambda number, given: [(number, table) for (table,) in given]
        )

    def _ask(self, pairs: Kept | RDD) -> Kept:
        """What texts it takes to measure the pairs, each of them once."""
        return self.scratch.keep(self._by("head", pairs, steps.EDGES).map(steps.ask_texts))

    def _measure(self, asked: Kept) -> Kept:
        """PAIR of what is asked; a text crosses the network once for each task it is in."""
        if not asked.rows:
            return asked.map(lambda _: PAIR.empty_table())
        files, ngram_words = self.files, self.dedup.ngram_words
        parts = max(self.parts, -(-asked.rows * self.text_bytes // TEXT_BYTES_AT_ONCE))
        texts = self._by_file(asked, steps.TEXTS_ASKED).map(lambda given: steps.answer_texts(files[given[0]], given[1]))
        placed = exchange(parts, Flow(texts, steps.TEXTS, lambda table: steps.share(steps.salted(table), parts)))
        return self.scratch.keep(placed.map(lambda given: steps.measure_texts(given[0], ngram_words)))

    def _connect(self, links: Kept) -> Kept:
        """LINKS of every node to the least of its component, if it is not that itself.

        In one task, if that can hold them; else round by round.
        """
        if links.rows <= self.links_at_once:
            whole = exchange(1, Flow(links, LINKS, lambda table: np.zeros(len(table), np.int64)))
            return self.scratch.keep(whole.map(lambda given: find_components(*given)))
        by_node = share_of("node", self.parts)
        for _ in range(MOST_ROUNDS):
            dealt = exchange(self.parts, Flow(links, LINKS, by_node))
            stars = self.scratch.keep(dealt.map(lambda given: large_star(*given)))
            if not dealt.map(lambda given: count_unsettled(*given)).sum():
                return stars
            shrunk = exchange(self.parts, Flow(stars, LINKS, by_node)).map(lambda given: link(small_star(*given)))
            links = self.scratch.keep(shrunk)
        raise StageError(f"dedup: the components of near-duplicates are not settled after {MOST_ROUNDS} rounds")

    def _name(self, components: Kept, nodes: Kept, measured: Kept, sketches: Kept) -> Kept:
        """NAMED, but for similarities that were not measured."""
        files, paths, parts = self.files, [path for path, _ in sketches.sources], self.parts
        dealt = exchange(
            parts,
            Flow(nodes, steps.NODES, share_of("node", parts)),
            Flow(measured, PAIR, share_of("member", parts)),
            Flow(components.map(steps.with_heads), LINKS, share_of("node", parts)),
        )
        if dealt.map(lambda given: steps.count_clashes(given[0])).sum():
            raise StageError("dedup: the ids of two documents have one 64-bit hash; choose another dedup.seed")
        similar = self.scratch.keep(dealt.map(lambda given: steps.relate(given[1], given[2])))
        members = self._by_file(dealt.map(lambda given: steps.locate(given[0], given[2])), steps.MEMBERS)
        facts = self.scratch.keep(
            members.map(lambda given: steps.find_facts(files[given[0]], given[1], read_kept(paths[given[0]])))
        )
        together = exchange(
            parts,
            Flow(facts, steps.FACTS, share_of("component", parts)),
            Flow(similar, steps.SIMILARITIES, share_of("component", parts)),
        )
        return self.scratch.keep(together.map(lambda given: steps.name_duplicates(*given)))

    def _finish(self, named: Kept, late: Kept, sketches: Kept) -> Kept:
        """NAMED, whole and by id; duplicates/ holds them."""
        folder, parts, found = self.output / "duplicates", max(1, -(-named.rows // ROWS_PER_FILE)), named
        if self.dedup.lines is not None:
            for path, (kept, _) in zip(self.files, sketches.sources, strict=True):
                found += Kept(self.context, [(kept, partial(steps.emptied, path))], 0)
        together = exchange(
            parts,
            Flow(found, steps.NAMED, share_of("node", parts)),
            Flow(late, PAIR, share_of("member", parts)),
        )

        def write(part: int, given: Iterable[tuple[pa.Table, ...]]) -> Iterator[pa.Table]:
            for found, late in given:
                whole = steps.finish(found, late)
                folder.mkdir(exist_ok=True)
                partial_path = folder / f".{uuid.uuid4().hex}"
                pq.write_table(whole.select(steps.DUPLICATES.names), partial_path, compression="zstd")
                partial_path.rename(folder / f"part-{part:05d}.parquet")
                yield whole

        return self.scratch.keep(together.mapPartitionsWithIndex(write))

    def _describe(self, final: Kept, named: Kept, measured: Kept) -> Found:
        kinds, sources = Counter[str](), Counter[str]()
        pairs: list[tuple[float, str, str, str]] = []
        for some_kinds, some_sources, some_pairs in final.collect(_count_named):
            kinds.update(some_kinds)
            sources.update(some_sources)
            pairs += some_pairs
        told: list[Json] = [
            {"id": id_, "duplicate_of": kept, "kind": kind, "jaccard": jaccard}
            for jaccard, id_, kept, kind in sorted(pairs)[:SAMPLE_PAIRS]
        ]
        return Found(final, kinds, sources, told, self._describe_clusters(named), self._describe_pairs(measured))

    def _describe_clusters(self, named: Kept) -> dict[str, Json]:
        """How many documents, the kept one in, the clusters have; the largest of them."""
        octaves, largest = Counter[int](), list[steps.Cluster]()
        for some, clusters in named.collect(partial(steps.describe_clusters, most=SAMPLE_CLUSTERS)):
            octaves.update(some)
            largest += clusters
        sizes: dict[str, Json] = {}
        for number in range(1, max(octaves, default=0) + 1):
            name = "2-3" if number == 1 else f"{2**number}-{2 ** (number + 1) - 1}"
            sizes[name] = octaves[number]
        told: list[Json] = []
        for cluster in sorted(largest)[:SAMPLE_CLUSTERS]:
            place = np.array([cluster.place])
            path = self.files[int(steps.file_of(place)[0])]
            (kept,) = read_rows(path, steps.row_of(place), ["source", "text"]).to_pylist()
            text, members = kept["text"][:SAMPLE_CHARACTERS], list[Json](cluster.members[:SAMPLE_MEMBERS])
            described: dict[str, Json] = {"id": cluster.kept, "source": kept["source"], "size": cluster.size}
            told.append({**described, "text": text, "members": members})
        return {"sizes": sizes, "largest": told}

    def _describe_pairs(self, measured: Kept) -> dict[str, Json]:
        """Candidate pairs by their similarity, and whether they counted."""
        least = self.dedup.min_jaccard
        counts = sum(measured.collect(partial(_count_similarities, least=least)))
        refused, verified = np.asarray(counts).tolist()
        return {"edges": list(JACCARD_EDGES), "verified": verified, "refused": refused}


def share_of(column: str, parts: int) -> Callable[[pa.Table], steps.Numbers]:
    """The part of each row by a column, which is a hash."""
    return lambda table: steps.share(steps.numbers(table, column), parts)


def _only(tables: tuple[pa.Table, ...]) -> pa.Table:
    (table,) = tables
    return table


def _link_alike(measured: pa.Table, least: float) -> pa.Table:
    return link(measured.filter(pc.greater_equal(measured["jaccard"], least)))


def _file_of(table: pa.Table) -> steps.Numbers:
    return steps.file_of(steps.numbers(table, "place"))


def _count_named(named: pa.Table) -> tuple[Counter[str], Counter[str], list[tuple[float, str, str, str]]]:
    """(by kind, by source, the least similar pairs: those a reader doubts first)."""
    known = named.filter(pc.is_valid(named["jaccard"])).sort_by([("jaccard", "ascending"), ("id", "ascending")])
    columns = [known.slice(0, SAMPLE_PAIRS)[name].to_pylist() for name in ("jaccard", "id", "duplicate_of", "kind")]
    pairs = list(zip(*columns, strict=True))
    return Counter(named["kind"].to_pylist()), Counter(named["source"].to_pylist()), pairs


def _count_similarities(measured: pa.Table, least: float) -> npt.NDArray[np.int64]:
    """(2, bins): pairs below `least`, and others."""
    jaccard = measured["jaccard"].to_numpy()
    bins = np.clip(((jaccard - 0.5 + 1e-9) / 0.05).astype(np.int64), 0, len(JACCARD_EDGES) - 2)
    counts = np.zeros((2, len(JACCARD_EDGES) - 1), np.int64)
    np.add.at(counts, ((jaccard >= least).astype(np.int64), np.where(jaccard < 0.5, 0, bins)), 1)
    return counts


def _drop_lines(context: SparkContext, job: Job, files: list[Path]) -> tuple[list[Path], dict[str, Json]]:
    """(the documents without common lines, what that took)."""
    settings, parts = job.recipe.dedup.lines, partitions_of(job, context)
    assert settings is not None, "dedup.lines is off"
    folder = scratch_of(job) / "edited"
    lines = make_each(context, files, lambda number, path: count_lines(path, number, settings))
    by_hash = exchange(parts, Flow(lines, LINES, share_of("hash", parts)))
    common = Scratch(context, job, "lines").keep(by_hash.map(lambda given: find_common(given[0], settings)))
    by_file = exchange(len(files), Flow(common, LINES, lambda table: steps.numbers(table, "file")))

    def drop(number: int, given: Iterable[tuple[pa.Table, ...]]) -> Iterator[Dropped]:
        for (table,) in given:
            hashes = set(table["hash"].to_pylist())
            yield drop_common_lines(files[number], hashes, settings, folder, attempt=uuid.uuid4().hex)

    dropped = reduce(Dropped.__add__, by_file.mapPartitionsWithIndex(drop).collect())
    different = sum(common.collect(lambda table: len(pc.unique(table["hash"]))))
    told: dict[str, Json] = {
        "dropped": dropped.lines,
        "documents": dropped.documents,
        "bytes": dropped.text_bytes,
        "common": different,
    }
    return sorted(folder.glob("*.parquet")), told


def _write_unique(job: Job, files: list[Path], named: Kept) -> dict[str, tuple[int, int]]:
    """documents/ holds all but the duplicates. Returns (documents, bytes of text) kept, by source."""
    folder = job.output.absolute() / "documents"
    places = named.map(lambda table: table.select(["node", "place"]))

    def keep(number: int, given: Iterable[tuple[pa.Table, ...]]) -> Iterator[dict[str, tuple[int, int]]]:
        for (table,) in given:
            rows = steps.row_of(steps.numbers(table, "place")).tolist()
            yield dict(steps.keep_unique(files[number], rows, folder, attempt=uuid.uuid4().hex))

    documents, text_bytes = Counter[str](), Counter[str]()
    dealt = exchange(len(files), Flow(places, steps.NODES, _file_of))
    for found in dealt.mapPartitionsWithIndex(keep).collect():
        for source, (n, size) in found.items():
            documents[source] += n
            text_bytes[source] += size
    return {source: (n, text_bytes[source]) for source, n in sorted(documents.items())}


if __name__ == "__main__":
    run_job("dedup", make)
