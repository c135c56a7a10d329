"""The table at the end of a run: what went in, what came out, how good it is, what it took."""

from collections.abc import Iterator, Mapping

from rich import box
from rich.table import Table

from gpt_core.artifact import Artifact
from gpt_core.report.evaluation import MEASURES
from gpt_core.tasks.scores import HEADLINE

Row = tuple[str, str]


def summary_table(artifacts: Mapping[str, Artifact]) -> Table:
    """One table over all whole stages, in three parts, those that there are: documents and tokens, models, time."""
    table = Table(show_header=False, box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(justify="left", overflow="fold")  # names of rules give way to figures
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
    if evaluate:
        figures = evaluate.manifest.figures
        if "validation_loss" in figures:
            yield "validation loss", f"{figures['validation_loss']:.3f} nats/token"
            yield "  bits per byte", f"{figures['validation_bits_per_byte']:.3f}"
        yield from _task(figures)


def _task(figures: Mapping[str, float]) -> Iterator[Row]:
    """The headline of every contestant, and what pre-training is worth."""
    name = next((name for name in HEADLINE.values() if f"test_{name}_low" in figures), None)
    if name is None:
        return
    measure = MEASURES[name]
    for label, prefix in (
        (f"test {measure.words}, fine-tuned", "test"),
        ("  same model from scratch", "scratch_test"),
        ("  bag of words", "bag_of_words"),
        ("  majority", "majority"),
    ):
        if f"{prefix}_{name}" in figures:
            yield label, measure.tell(figures[f"{prefix}_{name}"])
    if "lift" in figures:
        yield "  worth of pre-training", f"{measure.tell_gain(figures['lift'])} {measure.gained}"
        yield "    95% interval", measure.tell_gains(figures["lift_low"], figures["lift_high"])


def _times(artifacts: Mapping[str, Artifact]) -> Iterator[Row]:
    total = 0.0
    for name, artifact in artifacts.items():
        total += artifact.manifest.wall_seconds
        peak_gib = artifact.manifest.peak_memory_bytes / 2**30
        yield f"{name}, seconds and peak memory", f"{artifact.manifest.wall_seconds:,.1f} s  {peak_gib:.1f} GiB"
    yield "all stages", f"{total:,.1f} s         "
