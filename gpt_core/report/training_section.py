"""The curves of pre-training and fine-tuning."""

from collections.abc import Iterator

from gpt_core.report import units
from gpt_core.report.blocks import Block, Columns, Details, Excerpt, Excerpts, Figure, Section
from gpt_core.report.charts import Series, line_chart
from gpt_core.report.evidence import Curve, Evidence, FinetuneCurves, FinetuneRun, PretrainCurves

MOST_SAMPLES = 5


def pretrain_section(evidence: Evidence) -> Section:
    """Loss, learning rate, gradient norm and what the machine did over the steps; what the model wrote on the way."""
    curves = evidence.read("pretrain", "curves.json", PretrainCurves)
    clip = evidence.recipe.pretrain.gradient_clip
    limit = (clip, f"clipped at {units.significant(clip)}") if clip else None
    losses = [
        Series("train", curves.train_loss, "c1"),
        Series("validation", curves.validation_loss, "c2", dotted=True),
    ]
    charts = [
        _lines("Loss", losses, y_label="nats per token", caption=_last_losses(evidence)),
        _lines("Learning rate", _one(curves.learning_rate), from_zero=True),
        _lines("Gradient norm", _one(curves.gradient_norm), y_label="before clipping", from_zero=True, limit=limit),
        _lines("Bits per byte", _one(curves.validation_bits_per_byte, dotted=True), y_label="of validation text"),
        _lines("Throughput", _one(curves.tokens_per_second), y_label="tokens per second", from_zero=True),
        _lines("Model FLOP utilization", _one(curves.mfu), y_label="of the peak", from_zero=True, share=True),
        _lines("Memory", _gigabytes(curves.memory_bytes), y_label="GB, of the fullest rank", from_zero=True),
    ]
    shown = [figure for chart in charts for figure in chart]
    blocks: list[Block] = [Columns(shown)] if shown else []
    return Section("pretraining", "Pre-training", _pretrain_lead(evidence), [*blocks, *_written(evidence)])


def finetune_section(evidence: Evidence) -> Section:
    """Fine-tuning from pre-trained and from random weights, on the same axes."""
    curves = evidence.read("finetune", "curves.json", FinetuneCurves)
    ours, theirs = curves.pretrained, curves.scratch or FinetuneRun()
    accuracy = _runs(ours.validation_accuracy, theirs.validation_accuracy, dotted=True)
    charts = [
        _lines("Classification loss", _runs(ours.train_loss, theirs.train_loss), y_label="nats per example"),
        _lines("Validation accuracy", accuracy, y_label="of examples", share=True, caption=_best_epochs(evidence)),
        _lines("Loss of the language model", _runs(ours.lm_loss, theirs.lm_loss), y_label="nats per token"),
        _lines("Learning rate", _one(ours.learning_rate), from_zero=True),
    ]
    shown = [figure for chart in charts for figure in chart]
    return Section("finetuning", "Fine-tuning", _finetune_lead(evidence), [Columns(shown)] if shown else [])


def _one(curve: Curve, *, dotted: bool = False) -> list[Series]:
    return [Series("", curve, "c1", dotted=dotted)]


def _gigabytes(curve: Curve) -> list[Series]:
    return _one([(step, value / 1e9) for step, value in curve])


def _written(evidence: Evidence) -> Iterator[Block]:
    """A few of the samples from all over the training, the first and the last among them."""
    samples = evidence.samples("pretrain")
    last = len(samples) - 1
    chosen = sorted({round(last * part / (MOST_SAMPLES - 1)) for part in range(MOST_SAMPLES)}) if samples else []
    excerpts = [
        Excerpt(f"step {units.count(sample.step or 0)}", "", sample.prompt + sample.text)
        for sample in (samples[number] for number in chosen)
    ]
    if excerpts:
        yield Details("What it wrote on the way", [Excerpts(excerpts)])


def _runs(ours: Curve, theirs: Curve, *, dotted: bool = False) -> list[Series]:
    return [  # ours on top
        Series("from scratch", theirs, "c2", dotted=dotted),
        Series("pre-trained", ours, "c1", dotted=dotted),
    ]


def _lines(
    title: str,
    series: list[Series],
    *,
    y_label: str = "",
    from_zero: bool = False,
    share: bool = False,
    limit: tuple[float, str] | None = None,
    caption: str = "",
) -> list[Figure]:
    """One chart of those series that have points; none without any."""
    drawn = [line for line in series if line.points]
    if not drawn:
        return []
    svg = line_chart(title, drawn, x_label="step", y_label=y_label, share=share, from_zero=from_zero, limit=limit)
    legend = [(line.name, line.color) for line in sorted(drawn, key=lambda line: line.color) if line.name]
    return [Figure(title, svg, caption=caption, legend=legend)]


def _pretrain_lead(evidence: Evidence) -> str:
    steps, tokens = (evidence.count("pretrain", name) for name in ("steps", "tokens"))
    if steps is None or tokens is None:
        return ""
    model, rate = evidence.recipe.model, evidence.figure("pretrain", "tokens_per_second")
    windows = f"{units.count(evidence.recipe.pretrain.batch_sequences)} windows of {units.count(model.context_length)}"
    speed = f", at {units.count(rate)} tokens per second" if rate is not None else ""
    train = evidence.count("shards", "train_tokens")
    epochs = f" ({units.significant(tokens / train)} times the train shards)" if train else ""
    return f"{units.count(steps)} steps of {windows} tokens: {units.count(tokens)} tokens{epochs}{speed}."


def _last_losses(evidence: Evidence) -> str:
    train, validation = (evidence.figure("pretrain", f"{side}_loss") for side in ("train", "validation"))
    if train is None or validation is None:
        return ""
    return f"At the end: train {units.fixed(train)} (mean of the last steps), validation {units.fixed(validation)}."


def _finetune_lead(evidence: Evidence) -> str:
    examples, labels = (evidence.count("finetune", name) for name in ("train_examples", "labels"))
    settings = evidence.recipe.finetune
    if examples is None or settings is None:
        return ""
    passes = "1 pass" if settings.epochs == 1 else f"{settings.epochs} passes"
    baseline = " The same model from random weights, on the same batches, shows what pre-training is worth."
    told = baseline if settings.from_scratch_baseline else ""
    return f"{passes} over {units.count(examples)} labelled texts, {units.count(labels or 0)} labels.{told}"


def _best_epochs(evidence: Evidence) -> str:
    ours, theirs = (evidence.figure("finetune", f"{run}validation_accuracy") for run in ("", "scratch_"))
    if ours is None:
        return ""
    examples = units.count(evidence.count("finetune", "validation_examples") or 0)
    against = f", from scratch {units.percent(theirs)}" if theirs is not None else ""
    return f"Best epoch on {examples} examples: pre-trained {units.percent(ours)}{against}."
