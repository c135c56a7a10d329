"""The text rules: how each measure is spread and where its threshold lies; what was replaced, shared and edited."""

from collections.abc import Iterator

from gpt_core.report import units
from gpt_core.report.blocks import Block, Columns, Details, Figure, Section, Table
from gpt_core.report.charts import spread
from gpt_core.report.evidence import CleanStats, Evidence, Measurement

OPEN_CHARTS = 6
FAMILIES = {
    "gopher_quality": "Quality (Gopher)",
    "gopher_repetition": "Repetition (Gopher)",
    "c4": "Lines and sentences (C4)",
    "fineweb": "Line statistics (FineWeb)",
}
KINDS = {
    "email": "e-mail addresses",
    "ip": "public IP addresses",
    "phone": "telephone numbers",
    "card": "payment card numbers",
    "iban": "bank accounts (IBAN)",
}
EDITS = {"c4": "Lines dropped and marks cut (C4)", "normalized": "Normalized: spaces, controls, composition, mojibake"}
LEAD = (
    "Every rule measures every document that URL and language let pass. Blue: kept in the end; orange: rejected, by "
    "whichever rule; dashed: the threshold. Counts of documents are on a logarithmic scale; the last bin holds all "
    "that lies beyond."
)


def rules_section(evidence: Evidence) -> Section:
    """What the rules of clean measured."""
    clean = evidence.read("clean", "stats.json", CleanStats)
    ranked = sorted(clean.measurements.items(), key=lambda item: -_rejected(item[1], clean))  # stable: rules' order
    shown = [(name, it) for name, it in ranked if _rejected(it, clean)][:OPEN_CHARTS]
    blocks: list[Block] = [Columns([_chart(it, clean) for _, it in shown])] if shown else []
    for family, title in FAMILIES.items():
        hidden = [it for name, it in clean.measurements.items() if name.startswith(f"{family}.")]
        if hidden:
            blocks.append(Details(f"{title}: every measure", [Columns([_chart(it, clean) for it in hidden])]))
    return Section("rules", "Text rules", LEAD if clean.measurements else "", [*blocks, *_tables(clean)])


def _rejected(measurement: Measurement, clean: CleanStats) -> int:
    return sum(clean.rejected.get(reason, 0) for reason in measurement.reasons)


def _chart(measurement: Measurement, clean: CleanStats) -> Figure:
    limits = [limit for limit in (measurement.min, measurement.max) if limit is not None]
    used = _used(measurement, limits)
    edges, kept, rejected = measurement.edges[: used + 1], measurement.kept[:used], measurement.rejected[:used]
    is_doubling = len(edges) > 3 and edges[3] == 2 * edges[2]
    title = measurement.label[:1].upper() + measurement.label[1:]
    svg = spread(
        title,
        [1.0, *edges[1:]] if is_doubling else edges,
        [("rejected", rejected, "c2"), ("kept", kept, "c1")],
        log_x=is_doubling,
        limits=limits,
    )
    bounds = [f"at least {measurement.min:,g}"] if measurement.min is not None else []
    bounds += [f"at most {measurement.max:,g}"] if measurement.max is not None else []
    taken = [f"{units.count(n)} by {reason}" for reason in measurement.reasons if (n := clean.rejected.get(reason))]
    return Figure(title, svg, caption=f"Wanted: {' and '.join(bounds)}. Rejected: {', '.join(taken) or 'none'}.")


def _used(measurement: Measurement, limits: list[float]) -> int:
    """How many bins it takes to show every document and threshold, and one more."""
    filled = [i for i, n in enumerate(zip(measurement.kept, measurement.rejected, strict=True)) if any(n)]
    reached = [i for i, edge in enumerate(measurement.edges) if limits and edge <= max(limits)]
    return min(len(measurement.kept), 2 + max([*filled, *reached], default=0))


def _tables(clean: CleanStats) -> Iterator[Block]:
    found = [
        [KINDS.get(kind, kind), units.count(n.get("found", 0)), units.count(n.get("documents", 0))]
        for kind, n in clean.pii.items()
    ]
    if found:
        yield Table("Personal data replaced in kept documents", ["kind", "replaced", "documents"], found)
    edited = [
        [EDITS.get(what, what), units.count(n.get("documents", 0)), units.size(n.get("bytes", 0))]
        for what, n in clean.edited.items()
        if n.get("documents")
    ]
    if edited:
        yield Table("Texts that were changed", ["how", "documents", "shorter by"], edited)
    shared = [[it.text, units.count(it.documents)] for it in clean.contamination]
    if shared:
        table = Table("Rejected as contaminated", ["evaluation text", "documents"], shared)
        yield Details("Evaluation texts that documents share words with", [table])
