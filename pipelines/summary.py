"""The table at the end of a run: what went in, what came out, how good it is, what it took."""

from collections.abc import Iterator, Mapping

from rich import box
from rich.table import Table

from gpt_core.artifact import Artifact
from gpt_core.tasks.scores import HEADLINE

Row = tuple[str, str]
SCORED = {  # label, ? the figure's name -> the figure's prefix
    "test ?, fine-tuned": "test",
    "  same model from scratch": "scratch_test",
    "  majority class": "majority",
    "  bag of words": "bag_of_words",
}


def summary_table(artifacts: Mapping[str, Artifact]) -> Table:
    """One table over all whole stages, in three parts, those that there are: documents and tokens, models, time."""
    table = Table(show_header=False, box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(justify="left", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for part in (_documents(artifacts), _models(artifacts), _times(artifacts)):
        for label, value in part:
            table.add_row(label, value)
        table.add_section()
    return table


def _documents(artifacts: Mapping[str, Artifact]) -> Iterator[Row]:
    clean, dedup, shards = (artifacts.get(name) for name in ("clean", "dedup", "shards"))
    if clean:
        counts = clean.manifest.counts
        yield "documents in", f"{counts['documents_in']:,}"
        rejected = {name.removeprefix("rejected."): n for name, n in counts.items() if name.startswith("rejected.")}
        for reason, n in sorted(rejected.items(), key=lambda item: -item[1]):
            yield f"  rejected: {reason}", f"{n:,}"
    if dedup:
        counts = dedup.manifest.counts
        yield "  duplicates, exact", f"{counts['duplicates_exact']:,}"
        yield "  duplicates, near", f"{counts['duplicates_fuzzy']:,}"
        yield "documents kept", f"{counts['documents_kept']:,}"
    if shards:
        counts = shards.manifest.counts
        yield "training tokens", f"{counts['train_tokens']:,}"
        yield "validation tokens", f"{counts['validation_tokens']:,}"


def _models(artifacts: Mapping[str, Artifact]) -> Iterator[Row]:
    pretrain, evaluate = artifacts.get("pretrain"), artifacts.get("evaluate")
    if pretrain:
        yield "parameters", f"{pretrain.manifest.counts['parameters']:,}"
        yield "tokens trained on", f"{pretrain.manifest.counts['tokens']:,}"
    figures = evaluate.manifest.figures if evaluate else {}
    if "validation_loss" in figures:
        yield "validation loss", f"{figures['validation_loss']:.3f} nats/token"
        yield "  bits per byte", f"{figures['validation_bits_per_byte']:.3f}"
    for name in sorted(set(HEADLINE.values())):
        for label, prefix in SCORED.items():
            if f"{prefix}_{name}" in figures:
                value = figures[f"{prefix}_{name}"]
                told = f"{value:.1%}" if name == "accuracy" else f"{value:.3f}"
                yield label.replace("?", name.replace("_", " ")), told


def _times(artifacts: Mapping[str, Artifact]) -> Iterator[Row]:
    total = 0.0
    for name, artifact in artifacts.items():
        total += artifact.manifest.wall_seconds
        peak_gib = artifact.manifest.peak_memory_bytes / 2**30
        yield f"{name}, seconds and peak memory", f"{artifact.manifest.wall_seconds:,.1f} s  {peak_gib:.1f} GiB"
    yield "all stages", f"{total:,.1f} s         "
