"""How good the models are on what they never saw, and what the language model writes."""

from collections.abc import Iterator, Mapping

from gpt_core.report import units
from gpt_core.report.blocks import Block, Columns, Excerpt, Excerpts, Figure, Section, Table
from gpt_core.report.charts import Bar, bar_chart
from gpt_core.report.corpus_section import MOST_BARS, title_of
from gpt_core.report.evaluation import MEASURES, SHORT_WORDS, WORDS, Evaluation, LanguageModel, Standing, Task
from gpt_core.report.evidence import Evidence
from gpt_core.report.result_charts import Bin, Estimate, heat_map, interval_chart, reliability_chart
from gpt_core.tasks.comparison import CONTESTANTS, Contestant

MOST_LABELS = 40  # beyond, cells of a confusion matrix cannot be told apart
COLORS: Mapping[Contestant, str] = {"pretrained": "c1", "scratch": "c2", "bag_of_words": "c3", "majority": "muted"}


def results_section(evidence: Evidence) -> Section:
    """The language model on held-out text, the contestants on the test set."""
    evaluation = evidence.read("evaluate", "evaluation.json", Evaluation)
    blocks: list[Block] = []
    lead = []
    if evaluation.language_model is not None:
        lead.append("The language model on documents that no training saw, each token once.")
        blocks.append(Columns([*_language_model(evaluation.language_model)]))
    task = evaluation.task
    if task is not None:
        lead.append("Every model on the test examples once, at the end; intervals are of 95%.")
        blocks += [_standings(task), Columns([*_estimates(task), *_lift(task), *_confusion(task), *_calibration(task)])]
        blocks += [_labels(task)] if task.per_label else []
    return Section("evaluation", "Evaluation", " ".join(lead), blocks)


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


def _language_model(model: LanguageModel) -> Iterator[Figure | Table]:
    total = model.total
    rows = [
        ["loss", "nats per token", units.fixed(total.loss)],
        ["bits per byte", "bits per UTF-8 byte", units.fixed(total.bits_per_byte)],
        ["perplexity", "per token", units.fixed(total.perplexity)],
    ]
    caption = f"Language model on held-out documents ({units.count(total.tokens)} tokens)"
    yield Table(caption, ["", "unit", "value"], rows, text_columns=2)
    if len(model.sources) < 2:
        return
    ranked = sorted(model.sources.items(), key=lambda item: (-item[1].bits_per_byte, item[0]))
    bars = [
        Bar(
            source,
            [(found.bits_per_byte, "c1")],
            f"{units.fixed(found.bits_per_byte)} \u00b7 {units.count(found.tokens)} tokens",
        )
        for source, found in ranked
    ]
    title = "Bits per byte by source"
    yield Figure(title_of(bars, title, MOST_BARS), bar_chart(title, bars[:MOST_BARS]), caption="Less is better.")


def _standings(task: Task) -> Table:
    """A row for each contestant; the headline with its interval and, over several seeds, its standard deviation."""
    names = list(next(iter(task.models.values())).figures)
    rows = []
    for contestant, standing in _ranked(task):
        words = WORDS[contestant] + (f": {standing.how}" if standing.how else "")
        measure = MEASURES[task.headline]
        cells = [
            words,
            measure.tell(standing.figures[task.headline]),
            f"{measure.tell(standing.low)} to {measure.tell(standing.high)}",
        ]
        if len(task.seeds) > 1:
            spread = standing.spreads.get(task.headline)
            cells.append("" if spread is None else f"\u00b1 {measure.tell(spread)}")
        cells += [MEASURES[name].tell(standing.figures[name]) for name in names if name != task.headline]
        rows.append(cells)
    others = [MEASURES[name].words for name in names if name != task.headline]
    seeds = [f"over {len(task.seeds)} seeds"] if len(task.seeds) > 1 else []
    head = ["", MEASURES[task.headline].words, "95% interval", *seeds, *others]
    return Table(f"On {units.count(task.test_examples)} test examples", head, rows, strong_rows=1)


def _ranked(task: Task) -> list[tuple[Contestant, Standing]]:
    return [(name, task.models[name]) for name in CONTESTANTS if name in task.models]


def _estimates(task: Task) -> Iterator[Figure]:
    measure = MEASURES[task.headline]
    estimates = [
        Estimate(
            SHORT_WORDS[name],
            standing.figures[task.headline],
            standing.low,
            standing.high,
            measure.tell(standing.figures[task.headline]),
            COLORS[name],
            each=[figures[task.headline] for figures in standing.seeds] if len(standing.seeds) > 1 else [],
        )
        for name, standing in _ranked(task)
    ]
    title = f"Test {measure.words}"
    seeds = f" Small dots: each of {len(task.seeds)} seeds; large: their mean." if len(task.seeds) > 1 else ""
    yield Figure(
        title,
        interval_chart(title, estimates, share=measure.share),
        caption=f"Bars: 95% interval by resampling the test examples.{seeds}",
    )


def _lift(task: Task) -> Iterator[Figure]:
    lift = task.lift
    if lift is None:
        return
    measure = MEASURES[task.headline]
    title = "What pre-training is worth"
    sign = -1 if task.target == "text" else 1
    ours, theirs = (task.models[name].seeds for name in ("pretrained", "scratch"))
    gains = [sign * (a[task.headline] - b[task.headline]) for a, b in zip(ours, theirs, strict=True)]
    told = f"{measure.tell_gain(lift.value)} {measure.gained}"
    estimate = Estimate(
        "pre-trained against scratch",
        lift.value,
        lift.low,
        lift.high,
        told,
        "c1",
        each=gains if len(gains) > 1 else [],
    )
    verdict = "" if lift.low > 0 or lift.high < 0 else " The interval holds 0: the difference may be chance."
    yield Figure(
        title,
        interval_chart(title, [estimate], share=measure.share, reference=0.0),
        caption=f"{told}, 95% interval {measure.tell_gains(lift.low, lift.high)} ({lift.how}).{verdict}",
    )


def _confusion(task: Task) -> Iterator[Figure]:
    if not task.confusion or len(task.labels) > MOST_LABELS:
        return
    title = "Confusion matrix of the fine-tuned model"
    yield Figure(
        title,
        heat_map(title, task.labels, task.confusion),
        caption=f"Test examples{_of_kept(task)}. Shade: share of the true label's examples.",
        legend=[("right", "c1"), ("wrong", "c2")],
    )


def _calibration(task: Task) -> Iterator[Figure]:
    if not task.calibration:
        return
    title = "Reliability of the fine-tuned model"
    bins = [Bin(**part.model_dump()) for part in task.calibration]
    examples = sum(part.examples for part in bins)
    error = sum(part.examples * abs(part.accuracy - part.confidence) for part in bins) / examples
    yield Figure(
        title,
        reliability_chart(title, bins),
        caption=f"How often the model is right, by how sure it is{_of_kept(task)}: on the dashed line as often as it "
        f"thinks. Mean gap (expected calibration error): {units.percent(error)}.",
        legend=[("share that is right", "c1"), ("gap to the confidence", "c2")],
    )


def _of_kept(task: Task) -> str:
    return f", of the model of seed {task.kept_seed}" if len(task.seeds) > 1 else ""


def _labels(task: Task) -> Table:
    rows = [
        [
            label,
            *(units.fixed(value) for value in (score.precision, score.recall, score.f1)),
            units.count(score.support),
        ]
        for label, score in sorted(task.per_label.items(), key=lambda item: (-item[1].support, item[0]))
    ]
    return Table("Fine-tuned model by label", ["label", "precision", "recall", "F1", "test examples"], rows)
