"""The curves of pre-training and fine-tuning."""

from collections.abc import Iterator, Mapping
from functools import partial

from gpt_core.report import units
from gpt_core.report.blocks import Block, Columns, Details, Excerpt, Excerpts, Figure, Section
from gpt_core.report.charts import Series, line_chart
from gpt_core.report.evaluation import MEASURES, Measure
from gpt_core.report.evidence import Curve, Evidence, FinetuneCurves, PretrainCurves
from gpt_core.tasks.scores import HEADLINE
from gpt_core.tasks.spec import Target, target_of

MOST_SAMPLES = 5
LOSS_UNITS: Mapping[Target, str] = {
    "class": "nats per example",
    "classes": "nats per example and label",
    "number": "squared error",
    "choice": "nats per example",
    "text": "nats per token",
}


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
    """Fine-tuning from pre-trained and from random weights, every seed of both, on the same axes."""
    settings = evidence.recipe.finetune
    curves = evidence.read("finetune", "curves.json", FinetuneCurves).root
    if settings is None or not curves:
        return Section("finetuning", "Fine-tuning")
    target = target_of(settings)
    measure, validation = MEASURES[HEADLINE[target]], f"validation_{HEADLINE[target]}"
    clip = settings.gradient_clip
    limit = (clip, f"clipped at {units.significant(clip)}") if clip else None
    draw = partial(_runs, curves)
    charts = [
        _lines("Loss of the task", draw("train_loss"), y_label=LOSS_UNITS[target]),
        _lines(
            f"Validation {measure.words}",
            draw(validation, dotted=True),
            share=measure.share,
            caption=_best_epochs(evidence, validation, measure),
        ),
        _lines("Loss of the language model", draw("lm_loss"), y_label="nats per token"),
        _lines("Gradient norm", draw("gradient_norm"), y_label="before clipping", from_zero=True, limit=limit),
        _lines("Learning rate", _one(next(iter(curves.values())).get("learning_rate", [])), from_zero=True),
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


def _runs(curves: Mapping[str, Mapping[str, Curve]], name: str, *, dotted: bool = False) -> list[Series]:
    """The curve `name` of every training, those from pre-trained weights on top."""
    starts = (("from scratch", "scratch", "c2"), ("pre-trained", "pretrained", "c1"))
    return [
        Series(words, found.get(name, []), color, dotted=dotted)
        for words, start, color in starts
        for training, found in curves.items()
        if training.rpartition(".")[2] == start
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
    named = sorted({(line.color, line.name) for line in drawn if line.name})
    legend = [(name, color) for color, name in named]
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
    of = f", {units.count(labels)} labels" if labels else ""
    told = [f"{settings.task.replace('_', ' ').capitalize()}: {passes} over {units.count(examples)} examples{of}."]
    if settings.from_scratch_baseline:
        told.append("The same model from random weights, on the same batches, shows what pre-training is worth.")
    if settings.seeds > 1:
        told.append(f"Both {settings.seeds} times, with other seeds.")
    return " ".join(told)


def _best_epochs(evidence: Evidence, name: str, measure: Measure) -> str:
    """The validation's figure at the best epoch; over several seeds its mean and standard deviation."""
    told = []
    for words, prefix in (("pre-trained", ""), ("from scratch", "scratch_")):
        value, spread = (evidence.figure("finetune", f"{prefix}{name}{end}") for end in ("", "_spread"))
        if value is not None:
            over = f" \u00b1 {measure.tell(spread)}" if spread is not None else ""
            told.append(f"{words} {measure.tell(value)}{over}")
    examples = units.count(evidence.count("finetune", "validation_examples") or 0)
    return f"Best epoch on {examples} examples: {', '.join(told)}." if told else ""
