"""Plots of a stage's result, for the tracking store. matplotlib without pyplot: no window, no global state.

Drawn from the files that every stage writes: curves.json of pretrain and finetune, stats.json of clean,
evaluation.json of evaluate. A stage with none of them has no plots.
"""

import json
from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpt_core.artifact import Artifact
from gpt_core.fingerprint import Json

Curve = Sequence[tuple[float, float]]  # (step, value)

INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
COLORS = ("#2563a8", "#d97706", "#4d7c0f", "#9d3d73")
WIDTH_INCHES = 8.0


def plots_of(artifact: Artifact) -> dict[str, Figure]:
    """Figures by name; none for a stage that has nothing to draw."""
    draw = DRAWN.get(artifact.manifest.stage)
    if draw is None or not artifact.has(draw[0]):
        return {}
    file, plot = draw
    figure = plot(json.loads(artifact.file(file).read_text(encoding="utf-8")))
    return {} if figure is None else {figure[0]: figure[1]}


def plot_pretraining(curves: Mapping[str, Curve]) -> tuple[str, Figure] | None:
    """Loss above, learning rate below, over steps."""
    losses = {"train": curves.get("train_loss", ()), "validation": curves.get("validation_loss", ())}
    if not any(losses.values()):
        return None
    figure, (top, bottom) = _stacked(2)
    _draw_curves(top, losses, ylabel="loss (nats/token)")
    _draw_curves(bottom, {"learning rate": curves.get("learning_rate", ())}, ylabel="learning rate")
    bottom.set_xlabel("step", color=FAINT)
    return "training", figure


def plot_finetuning(curves: Mapping[str, Mapping[str, Curve]]) -> tuple[str, Figure] | None:
    """Loss, accuracy and learning rate over steps, the pre-trained start against random weights."""
    if not curves:
        return None
    names = {"pretrained": "pre-trained", "scratch": "from scratch"}
    figure, axes = _stacked(3)
    for axis, key, label in zip(
        axes,
        ("train_loss", "validation_accuracy", "learning_rate"),
        ("loss", "validation accuracy", "learning rate"),
        strict=True,
    ):
        _draw_curves(axis, {names.get(run, run): series.get(key, ()) for run, series in curves.items()}, ylabel=label)
    axes[-1].set_xlabel("step", color=FAINT)
    return "training", figure


def plot_kept(stats: Mapping[str, Mapping[str, Json]]) -> tuple[str, Figure] | None:
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
    return "kept", figure


def plot_confusion(evaluation: Mapping[str, Mapping[str, Json]]) -> tuple[str, Figure] | None:
    """Test examples by true label (row) and prediction (column), shaded by share of the row."""
    classification = evaluation.get("classification")
    if not classification:
        return None
    labels: list[str] = classification["labels"]  # type: ignore[assignment]  # the stage's own file
    counts: list[list[int]] = classification["confusion"]  # type: ignore[assignment]
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
    return "confusion", figure


DRAWN: dict[str, tuple[str, Callable[..., tuple[str, Figure] | None]]] = {
    "clean": ("stats.json", plot_kept),
    "pretrain": ("curves.json", plot_pretraining),
    "finetune": ("curves.json", plot_finetuning),
    "evaluate": ("evaluation.json", plot_confusion),
}


def _stacked(rows: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(WIDTH_INCHES, 1.2 + 2.2 * rows), layout="constrained")
    heights = [2.0, *[1.0] * (rows - 1)]
    axes: Sequence[Axes] = figure.subplots(rows, 1, sharex=True, height_ratios=heights)
    return figure, axes


def _draw_curves(axis: Axes, curves: Mapping[str, Curve], *, ylabel: str) -> None:
    drawn = {name: curve for name, curve in curves.items() if curve}
    for color, (name, curve) in zip(COLORS, drawn.items(), strict=False):
        steps, values = zip(*curve, strict=True)
        axis.plot(steps, values, color=color, linewidth=1.5, label=name, marker="o" if len(curve) < 20 else None, ms=3)
    _dress(axis, ylabel)
    if len(drawn) > 1:
        axis.legend(frameon=False, labelcolor=INK)


def _dress(axis: Axes, title: str) -> None:
    """A quiet frame: the title says what is drawn, the grid helps, the rest steps back."""
    axis.set_title(title, loc="left", fontsize=10, color=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GRID)
    axis.tick_params(colors=FAINT, labelsize=9)
    axis.grid(color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
