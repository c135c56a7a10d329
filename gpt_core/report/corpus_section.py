"""The documents: how many came, why some went, how long they are, in which languages, what they gave in tokens."""

from collections import Counter
from collections.abc import Iterator, Sized

from gpt_core.report import units
from gpt_core.report.blocks import Block, Columns, Details, Excerpt, Excerpts, Figure, Section, Table
from gpt_core.report.charts import Bar, bar_chart, histogram
from gpt_core.report.evidence import CleanStats, DedupStats, Encoding, Evidence, ShardsStats

MOST_BARS = 12
MOST_SOURCES = 30
RULES = {
    "c4": "Lines and sentences (C4)",
    "classifier": "Quality classifier",
    "contaminated": "Shares text with an evaluation file",
    "duplicate_id": "Has the id of another record",
    "fineweb": "Line statistics (FineWeb)",
    "gopher_quality": "Quality rules (Gopher)",
    "gopher_repetition": "Repetition rules (Gopher)",
    "language": "Language: another, or not certain",
    "malformed": "Malformed record",
    "source_limit": "Beyond the limit of its input",
    "url": "URL rules",
}


def corpus_section(evidence: Evidence) -> Section:
    """The documents, from raw to train and validation."""
    clean = evidence.read("clean", "stats.json", CleanStats)
    figures = [*_funnel(evidence), *_lengths(clean), *_languages(evidence, clean)]
    blocks: list[Block] = [Columns(figures)] if figures else []
    blocks += _rejections(evidence, clean)
    return Section("documents", "Documents", _lead(evidence), blocks)


def tokens_section(evidence: Evidence) -> Section:
    """Tokens by source, beside the documents and bytes they come from."""
    clean = evidence.read("clean", "stats.json", CleanStats).sources
    dedup = evidence.read("dedup", "stats.json", DedupStats).sources
    shards = evidence.read("shards", "stats.json", ShardsStats).sources
    names = sorted(clean.keys() | dedup.keys() | shards.keys())
    if not names:
        return Section("sources", "Sources")
    tokens = {name: shards[name].train_tokens + shards[name].validation_tokens for name in shards}
    ranked = sorted(names, key=lambda name: (-tokens.get(name, 0), name))
    bars = [
        Bar(
            label=name,
            parts=[(shards[name].train_tokens, "c1"), (shards[name].validation_tokens, "c3")],
            text=f"{units.count(tokens[name])} tokens \u00b7 {units.percent(tokens[name] / sum(tokens.values()))}",
        )
        for name in ranked
        if tokens.get(name)
    ]
    rows = [
        [
            name,
            units.count(clean[name].documents_in) if name in clean else "",
            units.count(clean[name].kept) if name in clean else "",
            units.count(dedup[name].kept) if name in dedup else "0" if dedup else "",
            units.size(dedup[name].bytes_kept) if name in dedup else "0 bytes" if dedup else "",
            units.count(shards[name].train_tokens) if name in shards else "0" if shards else "",
            units.count(shards[name].validation_tokens) if name in shards else "0" if shards else "",
        ]
        for name in ranked
    ]
    head = ["source", "documents", "clean", "unique", "unique text", "train tokens", "validation tokens"]
    table = Table(title_of(ranked, "Sources", MOST_SOURCES), head, rows[:MOST_SOURCES])
    legend = [("train", "c1"), ("validation", "c3")]
    title = "Tokens by source"
    chart = Figure(title_of(bars, title, MOST_BARS), bar_chart(title, bars[:MOST_BARS]), legend=legend)
    shown: list[Block] = [Columns([chart])] if bars else []
    return Section("sources", "Sources and tokens", _tokens_lead(evidence), [*shown, table])


def _lead(evidence: Evidence) -> str:
    text_in, text_kept = evidence.count("clean", "text_bytes_in"), evidence.count("dedup", "text_bytes_kept")
    if text_in is None:
        return ""
    kept = f" Unique documents that were kept hold {units.size(text_kept)}." if text_kept is not None else ""
    return f"Raw text: {units.size(text_in)} of UTF-8.{kept}"


def _tokens_lead(evidence: Evidence) -> str:
    ratio = evidence.figure("shards", "bytes_per_token")
    parts = [f"A token stands for {ratio:.2f} bytes of text on average."] if ratio is not None else []
    encoding = evidence.read("shards", "encoder.json", Encoding)
    fast, reference = encoding.blocks.get("fast", 0), encoding.blocks.get("reference", 0)
    if fast:
        compared = f"{units.count(encoding.compared_documents)} documents, {units.size(encoding.compared_bytes)}"
        parts.append(f"The fast encoder made the ids, compared with the reference on a sample ({compared}).")
    if encoding.differences:
        parts.append(
            f"The two differed in {units.count(reference)} of {units.count(fast + reference)} blocks, which the "
            f"reference made: {encoding.differences[0]}."
        )
    return " ".join(parts)


def _funnel(evidence: Evidence) -> Iterator[Figure]:
    """Each bar begins where the documents that are left end: what a step takes hangs from what came."""
    raw = evidence.count("clean", "documents_in") or evidence.count("dedup", "documents_in")
    if not raw:
        return
    bars, left = [Bar("Raw documents", [(raw, "muted")], units.count(raw))], raw
    exact, fuzzy = (evidence.count("dedup", f"duplicates_{kind}") for kind in ("exact", "fuzzy"))
    steps = [*_by_rule(evidence), ("Exact duplicates", exact or 0), ("Near duplicates", fuzzy or 0)]
    for label, taken in steps:
        if taken:
            left -= taken
            bars.append(
                Bar(label, [(taken, "c2")], f"\u2212{units.count(taken)} \u00b7 {units.percent(taken / raw)}", left)
            )
    bars.append(Bar("Kept", [(left, "c1")], f"{units.count(left)} \u00b7 {units.percent(left / raw)}"))
    start = 0
    for label, name, color in (("Train", "train_documents", "c1"), ("Validation", "validation_documents", "c3")):
        n = evidence.count("shards", name)
        if n:
            bars.append(Bar(f"\u2003{label}", [(n, color)], units.count(n), start))
            start += n
    title = "What became of the documents"
    yield Figure(title, bar_chart(title, bars, total=raw), tall=True)


def _by_rule(evidence: Evidence) -> list[tuple[str, int]]:
    """(rule in words, documents it rejected), the most first."""
    rules: Counter[str] = Counter()
    for reason, n in _reasons(evidence):
        rule = reason.partition(".")[0]
        rules[RULES.get(rule, rule.replace("_", " "))] += n
    return sorted(rules.items(), key=lambda item: (-item[1], item[0]))


def _reasons(evidence: Evidence) -> list[tuple[str, int]]:
    """(reason, documents), the most first."""
    clean = evidence.artifacts.get("clean")
    counts = clean.manifest.counts if clean else {}
    found = [(name.removeprefix("rejected."), n) for name, n in counts.items() if name.startswith("rejected.")]
    return sorted(found, key=lambda item: (-item[1], item[0]))


def _lengths(clean: CleanStats) -> Iterator[Figure]:
    lengths = clean.length_histogram
    if lengths is None:
        return
    title = "Length of documents"
    stacks = [("kept by clean", lengths.kept, "c1"), ("rejected", lengths.rejected, "c2")]
    svg = histogram(title, lengths.edges_characters, stacks, x_label="characters (log)", y_label="documents")
    yield Figure(title, svg, legend=[(name, color) for name, _, color in stacks])


def _languages(evidence: Evidence, clean: CleanStats) -> Iterator[Figure]:
    if not clean.languages:
        return
    wanted, whole = evidence.recipe.clean.languages or (), sum(clean.languages.values())
    ranked = sorted(clean.languages.items(), key=lambda item: (-item[1], item[0]))
    bars = [
        Bar(
            label=code,
            parts=[(n, "c1" if code in wanted or not wanted else "muted")],
            text=f"{units.count(n)} \u00b7 {units.percent(n / whole)}",
        )
        for code, n in ranked
    ]
    legend = [("wanted by the recipe", "c1"), ("not", "muted")] if wanted else []
    title = "Identified language of the raw documents"
    yield Figure(title_of(bars, title, MOST_BARS), bar_chart(title, bars[:MOST_BARS]), legend=legend)


def _rejections(evidence: Evidence, clean: CleanStats) -> Iterator[Block]:
    reasons = _reasons(evidence)
    if not reasons:
        return
    raw = evidence.count("clean", "documents_in") or 1
    rows = [[reason, units.count(n), units.percent(n / raw)] for reason, n in reasons]
    samples = [
        Details(
            f"{reason} ({units.count(n)})",
            [Excerpts([Excerpt(it.id, it.detail or "", it.text or "") for it in clean.reject_samples[reason]])],
        )
        for reason, n in reasons
        if reason in clean.reject_samples
    ]
    table = Table("By reason", ["reason", "documents", "of all"], rows)
    yield Details("Rejected documents: every reason, and samples", [table, *samples])


def title_of(items: Sized, title: str, most: int) -> str:
    """The title, and how many are shown where not all are."""
    return title if len(items) <= most else f"{title} (the first {most} of {len(items)})"
