"""How good the models are on what they never saw, and what the language model writes."""

from collections.abc import Iterator

from gpt_core.report import units
from gpt_core.report.blocks import Block, Columns, Excerpt, Excerpts, Figure, Section, Table
from gpt_core.report.charts import heat_map
from gpt_core.report.evidence import Classification, Evaluation, Evidence, Score

MOST_LABELS = 40  # beyond, cells of a confusion matrix cannot be told apart


def results_section(evidence: Evidence) -> Section:
    """The language model on validation text, the classifiers on the test split."""
    classes = evidence.read("evaluate", "evaluation.json", Evaluation).classification
    tables = [*_language_model(evidence)]
    blocks: list[Block] = []
    if classes is not None:
        tables += _scores(evidence, classes)
        blocks.append(Columns([*_confusion(classes), _labels(classes)]))
    return Section("evaluation", "Evaluation", "", [Columns(tables), *blocks] if tables else [])


def samples_section(evidence: Evidence) -> Section:
    """What the pre-trained model writes after each prompt."""
    written = [Excerpt(sample.prompt, "", sample.text) for sample in evidence.samples("evaluate")]
    settings = evidence.recipe.evaluate
    how = f"temperature {units.significant(settings.temperature)}, top-k {settings.top_k or 'off'}, "
    if settings.top_p < 1:
        how += f"top-p {units.significant(settings.top_p)}, "
    how += f"seed {settings.seed}"
    if settings.temperature == 0:
        how = "the likeliest token each time"
    if settings.stop:
        how += f", up to {' or '.join(map(repr, settings.stop))}"
    lead = f"The pre-trained model goes on from a prompt (bold): at most {settings.sample_tokens} tokens, {how}."
    return Section("samples", "Samples", lead, [Excerpts(written, voice="sample")] if written else [])


def _language_model(evidence: Evidence) -> Iterator[Table]:
    values = [
        ("loss", evidence.figure("evaluate", "validation_loss"), "nats per token"),
        ("bits per byte", evidence.figure("evaluate", "validation_bits_per_byte"), "bits per UTF-8 byte"),
        ("perplexity", evidence.figure("evaluate", "validation_perplexity"), "per token"),
    ]
    rows = [[name, units.fixed(value), unit] for name, value, unit in values if value is not None]
    if rows:
        tokens = evidence.count("evaluate", "validation_tokens")
        told = f" ({units.count(tokens)} tokens)" if tokens is not None else ""
        ordered = [[name, unit, value] for name, value, unit in rows]
        yield Table(f"Language model on held-out documents{told}", ["", "unit", "value"], ordered, text_columns=2)


def _scores(evidence: Evidence, classes: Classification) -> Iterator[Table]:
    examples = units.count(evidence.count("evaluate", "test_examples") or sum(map(sum, classes.confusion)))
    majority = classes.majority
    rows = [_score_row("pre-trained, then fine-tuned", classes.pretrained)]
    if classes.scratch is not None:
        rows.append(_score_row("the same model from scratch", classes.scratch))
    if majority is not None:
        rows.append(_score_row("always " + (majority.label or "the most frequent label"), majority))
    yield Table(f"Classifiers on {examples} test examples", ["", "accuracy", "macro F1"], rows, strong_rows=1)


def _score_row(name: str, score: Score) -> list[str]:
    return [name, units.percent(score.accuracy), "" if score.macro_f1 is None else units.fixed(score.macro_f1)]


def _confusion(classes: Classification) -> Iterator[Figure]:
    if not classes.confusion or len(classes.labels) > MOST_LABELS:
        return
    title = "Confusion matrix of the pre-trained classifier"
    yield Figure(
        title,
        heat_map(title, classes.labels, classes.confusion),
        caption="Test examples. Shade: share of the true label's examples.",
        legend=[("right", "c1"), ("wrong", "c2")],
    )


def _labels(classes: Classification) -> Table:
    rows = [
        [
            label,
            *(units.fixed(value) for value in (score.precision, score.recall, score.f1)),
            units.count(score.support),
        ]
        for label, score in sorted(classes.per_label.items(), key=lambda item: (-item[1].support, item[0]))
    ]
    return Table("Pre-trained classifier by label", ["label", "precision", "recall", "F1", "test examples"], rows)
