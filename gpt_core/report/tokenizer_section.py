"""The tokenizer: what a token is worth by source and language, its longest tokens, and those that never occur."""

from collections.abc import Iterator

from gpt_core.report import units
from gpt_core.report.blocks import Block, Columns, Details, Figure, Section, Table
from gpt_core.report.charts import Bar, bar_chart
from gpt_core.report.corpus_section import MOST_BARS, title_of
from gpt_core.report.evidence import Evidence, MeasuredText, Token, TokenizerReport

CONTROLS = {" ": "\u2423", "\n": "\\n", "\r": "\\r", "\t": "\\t"}  # a space is shown as an open box


def tokenizer_section(evidence: Evidence) -> Section:
    """What the tokenizer stage measured."""
    found = evidence.read("tokenizer", "report.json", TokenizerReport)
    if not found.measured.tokens:
        return Section("tokenizer", "Tokenizer")
    languages = {name or "not stated": it for name, it in found.languages.items()}
    most = max(map(_ratio, [found.measured, *found.sources.values(), *languages.values()]))  # one scale for both charts
    figures = [
        *_worth("Bytes per token by source", found.sources, most),
        *_worth("Bytes per token by language", languages, most),
    ]
    blocks: list[Block] = [Columns(figures), *_tokens(found)]
    return Section("tokenizer", "Tokenizer", _lead(evidence, found), blocks)


def _lead(evidence: Evidence, found: TokenizerReport) -> str:
    path = evidence.recipe.tokenizer.path
    documents, text = (evidence.count("tokenizer", f"sample_{name}") for name in ("documents", "bytes"))
    origin = f"taken from {path}" if path else "learned here"
    if documents is not None and text is not None:
        origin = f"learned from {units.size(text)} of {units.count(documents)} documents"
    special = len(found.special_tokens)
    return (
        f"{units.count(found.vocab_size)} tokens, {special} of them special, {origin}; the model's embedding has "
        f"{units.count(found.padded_vocab_size)} rows. In {units.count(found.measured.documents)} documents "
        f"({units.size(found.measured.text_bytes)}) a token stands for {_ratio(found.measured):.2f} bytes."
    )


def _ratio(text: MeasuredText) -> float:
    return text.text_bytes / max(text.tokens, 1)


def _worth(title: str, groups: dict[str, MeasuredText], most: float) -> Iterator[Figure]:
    """A bar for each group, that with the most text first."""
    ranked = sorted(groups.items(), key=lambda item: (-item[1].text_bytes, item[0]))
    bars = [
        Bar(name, [(_ratio(text), "c1")], f"{_ratio(text):.2f} \u00b7 {units.size(text.text_bytes)} measured")
        for name, text in ranked
        if text.tokens
    ]
    if bars:
        yield Figure(title_of(bars, title, MOST_BARS), bar_chart(title, bars[:MOST_BARS], total=most))


def _tokens(found: TokenizerReport) -> Iterator[Block]:
    unused = found.unused
    learned = unused.tokens - unused.single_bytes
    tables = [_table("The longest tokens", found.longest)]
    if unused.first:
        tables.append(_table(title_of(range(learned), "Tokens that do not occur", len(unused.first)), unused.first))
    missing = f"{units.count(learned)}, and {units.count(unused.single_bytes)} single bytes"
    summary = f"The longest tokens, and those that do not occur in the measured documents ({missing})"
    yield Details(summary, [Columns(tables)])


def _table(caption: str, tokens: list[Token]) -> Table:
    rows = [[_visible(token.token), units.count(token.size), str(token.id)] for token in tokens]
    return Table(caption, ["token", "bytes", "id"], rows)


def _visible(token: str) -> str:
    """White space and what has no glyph as signs."""
    shown = (CONTROLS.get(c, c if c.isprintable() else c.encode("unicode_escape").decode()) for c in token)
    return "".join(shown)
