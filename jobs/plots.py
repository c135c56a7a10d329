"""Plots of a stage's result, for the tracking store. matplotlib without pyplot: no window, no global state.

Drawn from the files that every stage writes: curves.json of pretrain and finetune, stats.json of clean,
evaluation.json of evaluate. A stage with none of them has no plots.
"""

import json
from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from gpt_core.artifact import Artifact
from gpt_core.fingerprint import Json
from gpt_core.report.evaluation import MEASURES, SHORT_WORDS, Evaluation, LanguageFigures, Task
from gpt_core.tasks.comparison import CONTESTANTS

Curve = Sequence[tuple[float, float]]  # (step, value)

INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
COLORS = ("#2563a8", "#d97706", "#4d7c0f", "#9d3d73")
STARTS = {"pretrained": ("pre-trained", COLORS[0]), "scratch": ("from scratch", COLORS[1])}
WIDTH_INCHES = 8.0


def plots_of(artifact: Artifact) -> dict[str, Figure]:
    """Figures by name; none for a stage that has nothing to draw."""
    draw = DRAWN.get(artifact.manifest.stage)
    if draw is None or not artifact.has(draw[0]):
        return {}
    file, plot = draw
    return plot(json.loads(artifact.file(file).read_text(encoding="utf-8")))


def plot_pretraining(curves: Mapping[str, Curve]) -> dict[str, Figure]:
    """Loss above, learning rate below, over steps."""
    losses = {"train": curves.get("train_loss", ()), "validation": curves.get("validation_loss", ())}
    if not any(losses.values()):
        return {}
    figure, (top, bottom) = _stacked(2)
    _draw_curves(top, losses, ylabel="loss (nats/token)")
    _draw_curves(bottom, {"learning rate": curves.get("learning_rate", ())}, ylabel="learning rate")
    bottom.set_xlabel("step", color=FAINT)
    return {"training": figure}


def plot_finetuning(curves: Mapping[str, Mapping[str, Curve]]) -> dict[str, Figure]:
    """Loss, headline of the validation and learning rate over steps: pre-trained starts against random weights."""
    if not curves:
        return {}
    validation = next((name for run in curves.values() for name in run if name.startswith("validation_")), "")
    words = MEASURES[validation.removeprefix("validation_")].words if validation else ""
    labels = {"train_loss": "loss", validation: f"validation {words}", "learning_rate": "learning rate"}
    figure, axes = _stacked(3)
    for axis, (key, label) in zip(axes, labels.items(), strict=True):
        for start, (name, color) in reversed(STARTS.items()):  # ours on top
            runs = [run.get(key, ()) for training, run in curves.items() if training.rpartition(".")[2] == start]
            for number, curve in enumerate(runs):
                _draw_curve(axis, curve, color=color, label=name if number == 0 else "_again")
        _dress(axis, label)
    axes[0].legend(frameon=False, labelcolor=INK, reverse=True)
    axes[-1].set_xlabel("step", color=FAINT)
    return {"training": figure}


def plot_kept(stats: Mapping[str, Mapping[str, Json]]) -> dict[str, Figure]:
    """Documents kept, and below them those rejected, by reason, the most frequent first."""
    rejected: Mapping[str, int] = stats.get("rejected", {})  # type: ignore[assignment]  # the stage's own file
    sources: Mapping[str, Mapping[str, int]] = stats.get("sources", {})  # type: ignore[assignment]
    bars = sorted(rejected.items(), key=lambda item: (item[1], item[0]))
    bars.append(("kept", sum(source["kept"] for source in sources.values())))
    figure = Figure(figsize=(WIDTH_INCHES, 1.0 + 0.32 * len(bars)), layout="constrained")
    axis = figure.subplots()
    colors = [COLORS[1]] * len(rejected) + [COLORS[0]]
    drawn = axis.barh([name for name, _ in bars], [n for _, n in bars], color=colors, height=0.7)
    axis.bar_label(drawn, labels=[f"{n:,}" for _, n in bars], padding=4, color=INK, fontsize=9)
    axis.margins(x=0.12)
    _dress(axis, "documents kept, and rejected by reason")
    axis.grid(visible=False, axis="y")
    return {"kept": figure}


def plot_evaluation(tree: Mapping[str, Json]) -> dict[str, Figure]:
    """What each contestant gives and what pre-training is worth; confusion, reliability; bits per byte by source."""
    evaluation = Evaluation.model_validate(tree)
    figures: dict[str, Figure] = {}
    if evaluation.language_model is not None and len(evaluation.language_model.sources) > 1:
        figures["bits_per_byte"] = _plot_sources(evaluation.language_model.sources)
    if evaluation.task is not None:
        figures["test"] = _plot_contestants(evaluation.task)
        if evaluation.task.confusion:
            figures["confusion"] = _plot_confusion(evaluation.task)
        if evaluation.task.calibration:
            figures["reliability"] = _plot_reliability(evaluation.task)
    return figures


def _plot_sources(sources: Mapping[str, LanguageFigures]) -> Figure:
    bars = sorted(sources.items(), key=lambda item: (item[1].bits_per_byte, item[0]))
    figure = Figure(figsize=(WIDTH_INCHES, 1.0 + 0.32 * len(bars)), layout="constrained")
    axis = figure.subplots()
    drawn = axis.barh([name for name, _ in bars], [found.bits_per_byte for _, found in bars], color=COLORS[0])
    axis.bar_label(drawn, fmt="%.3f", padding=4, color=INK, fontsize=9)
    axis.margins(x=0.12)
    _dress(axis, "bits per byte of held-out text, by source")
    axis.grid(visible=False, axis="y")
    return figure


def _plot_contestants(task: Task) -> Figure:
    """The headline of each with its interval, and below them the lift with its own."""
    measure = MEASURES[task.headline]
    ranked = [(SHORT_WORDS[name], task.models[name]) for name in CONTESTANTS if name in task.models]
    rows = 2 if task.lift is not None else 1
    figure = Figure(figsize=(WIDTH_INCHES, 0.9 * rows + 0.4 * len(ranked) + 0.4 * (rows - 1)), layout="constrained")
    heights = [0.6 + 0.4 * len(ranked), 1.0][:rows]
    axes: list[Axes] = list(figure.subplots(rows, 1, squeeze=False, height_ratios=heights)[:, 0])
    for place, (name, it) in enumerate(ranked):
        color = (*COLORS[:3], FAINT)[place]
        _draw_interval(axes[0], -place, it.figures[task.headline], it.low, it.high, color)
        axes[0].text(it.high, -place, f"  {name}", va="center", color=INK, fontsize=9)
    axes[0].set_yticks([])
    axes[0].margins(x=0.25, y=0.2)
    _dress(axes[0], f"test {measure.words}, 95% interval")
    if task.lift is not None:
        _draw_interval(axes[1], 0, task.lift.value, task.lift.low, task.lift.high, COLORS[0])
        axes[1].axvline(0.0, color=FAINT, linestyle="--", linewidth=1.0)
        axes[1].set_yticks([])
        told = f"{measure.tell_gain(task.lift.value)} {measure.gained}"
        _dress(axes[1], f"what pre-training is worth: {told} ({task.lift.how})")
    for axis in axes if measure.share else ():
        axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def _draw_interval(axis: Axes, y: float, value: float, low: float, high: float, color: str) -> None:
    axis.plot([low, high], [y, y], color=color, linewidth=6.0, alpha=0.35, solid_capstyle="butt")
    axis.plot([value], [y], color=color, marker="o", ms=7)


def _plot_confusion(task: Task) -> Figure:
    """Test examples by true label (row) and prediction (column), shaded by share of the row."""
    labels, counts = task.labels, task.confusion
    shares = [[n / max(1, sum(row)) for n in row] for row in counts]
    side = 2.2 + 0.55 * len(labels)
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for i, row in enumerate(counts):
        for j, n in enumerate(row):
            axis.text(
                j, i, f"{n:,}", ha="center", va="center", color="white" if shares[i][j] > 0.5 else INK, fontsize=9
            )
    axis.set_xticks(range(len(labels)), labels, rotation=35, ha="right")
    axis.set_yticks(range(len(labels)), labels)
    _dress(axis, "confusion on the test set")
    axis.grid(visible=False)
    axis.set_xlabel("predicted", color=FAINT)
    axis.set_ylabel("true", color=FAINT)
    return figure


def _plot_reliability(task: Task) -> Figure:
    """The share of right answers by confidence, against the diagonal where both are equal."""
    figure = Figure(figsize=(5.0, 5.0), layout="constrained")
    axis = figure.subplots()
    for part in task.calibration:
        axis.bar(part.low, part.accuracy, width=part.high - part.low, align="edge", color=COLORS[0], edgecolor="white")
    axis.plot([0.0, 1.0], [0.0, 1.0], color=FAINT, linestyle="--", linewidth=1.0)
    axis.plot(
        [part.confidence for part in task.calibration],
        [part.accuracy for part in task.calibration],
        color=COLORS[1],
        marker="o",
        linestyle="none",
        ms=4,
    )
    for along in (axis.xaxis, axis.yaxis):
        along.set_major_formatter(PercentFormatter(1.0))
    axis.set(xlim=(0.0, 1.0), ylim=(0.0, 1.02))
    _dress(axis, "share that is right, by confidence")
    axis.set_xlabel("confidence (dots: mean of a bin)", color=FAINT)
    return figure


DRAWN: dict[str, tuple[str, Callable[..., dict[str, Figure]]]] = {
    "clean": ("stats.json", plot_kept),
    "pretrain": ("curves.json", plot_pretraining),
    "finetune": ("curves.json", plot_finetuning),
    "evaluate": ("evaluation.json", plot_evaluation),
}


def _stacked(rows: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(WIDTH_INCHES, 1.2 + 2.2 * rows), layout="constrained")
    heights = [2.0, *[1.0] * (rows - 1)]
    axes: Sequence[Axes] = figure.subplots(rows, 1, sharex=True, height_ratios=heights)
    return figure, axes


def _draw_curves(axis: Axes, curves: Mapping[str, Curve], *, ylabel: str) -> None:
    drawn = {name: curve for name, curve in curves.items() if curve}
    for color, (name, curve) in zip(COLORS, drawn.items(), strict=False):
        _draw_curve(axis, curve, color=color, label=name)
    _dress(axis, ylabel)
    if len(drawn) > 1:
        axis.legend(frameon=False, labelcolor=INK)


def _draw_curve(axis: Axes, curve: Curve, *, color: str, label: str) -> None:
    if curve:
        steps, values = zip(*curve, strict=True)
        axis.plot(steps, values, color=color, linewidth=1.5, label=label, marker="o" if len(curve) < 20 else None, ms=3)


def _dress(axis: Axes, title: str) -> None:
    """A quiet frame: the title says what is drawn, the grid helps, the rest steps back."""
    axis.set_title(title, loc="left", fontsize=10, color=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GRID)
    axis.tick_params(colors=FAINT, labelsize=9)
    axis.grid(color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
