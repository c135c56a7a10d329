"""The duplicates: how alike the pairs are, how large the clusters, which lines too many documents had."""

from collections.abc import Iterator

from gpt_core.report import units
from gpt_core.report.blocks import Block, Columns, Details, Excerpt, Excerpts, Figure, Section, Table
from gpt_core.report.charts import Bar, bar_chart, histogram
from gpt_core.report.evidence import Cluster, DedupStats, Evidence


def duplicates_section(evidence: Evidence) -> Section:
    """What dedup found."""
    found = evidence.read("dedup", "stats.json", DedupStats)
    figures = [*_similarities(found, evidence.recipe.dedup.min_jaccard), *_sizes(found)]
    blocks: list[Block] = [Columns(figures)] if figures else []
    return Section("duplicates", "Duplicates", _lead(evidence, found), [*blocks, *_clusters(found), *_pairs(found)])


def _lead(evidence: Evidence, found: DedupStats) -> str:
    exact, fuzzy = (evidence.count("dedup", f"duplicates_{kind}") for kind in ("exact", "fuzzy"))
    if exact is None or fuzzy is None:
        return ""
    told = [f"{units.count(exact)} documents have the text of another, {units.count(fuzzy)} nearly so."]
    if found.lines is not None:
        told.append(
            f"{units.count(found.lines.common)} different lines stood in too many documents: dropped "
            f"{units.count(found.lines.dropped)} times from {units.count(found.lines.documents)} documents "
            f"({units.size(found.lines.bytes)})."
        )
    return " ".join(told)


def _similarities(found: DedupStats, least: float) -> Iterator[Figure]:
    pairs = found.jaccard_histogram
    if pairs is None or not any([*pairs.verified, *pairs.refused]):
        return
    title = "Candidate pairs by Jaccard similarity"
    stacks = [("duplicates", pairs.verified, "c2"), ("not alike enough", pairs.refused, "muted")]
    svg = histogram(
        title, pairs.edges, stacks, x_label="similarity", y_label="pairs", log_x=False, limit=max(least, pairs.edges[0])
    )
    below = f"Pairs below {pairs.edges[0]:g} stand in the first bar; the dashed line is dedup.min_jaccard."
    yield Figure(title, svg, caption=below, legend=[(name, color) for name, _, color in stacks])


def _sizes(found: DedupStats) -> Iterator[Figure]:
    if not found.clusters.sizes:
        return
    title = "Clusters by the documents in them"
    bars = [Bar(size.replace("-", " to "), [(n, "c2")], units.count(n)) for size, n in found.clusters.sizes.items()]
    yield Figure(title, bar_chart(title, bars))


def _clusters(found: DedupStats) -> Iterator[Block]:
    if found.clusters.largest:
        excerpts = [Excerpt(it.id, _describe(it), it.text) for it in found.clusters.largest]
        yield Details("The largest clusters: the document that was kept, and others in it", [Excerpts(excerpts)])


def _describe(cluster: Cluster) -> str:
    others = cluster.size - 1 - len(cluster.members)
    more = f" and {units.count(others)} more" if others > 0 else ""
    return f"{cluster.source}, for {', '.join(cluster.members)}{more}"


def _pairs(found: DedupStats) -> Iterator[Block]:
    if found.pairs:
        rows = [[pair.id, pair.duplicate_of, pair.kind, units.fixed(pair.jaccard)] for pair in found.pairs]
        head = ["dropped", "kept instead", "kind", "Jaccard similarity"]
        yield Details("The least alike pairs", [Table("Pairs to doubt first", head, rows, text_columns=3)])
