from io import BytesIO
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from gpt_core.artifact import Artifact, Manifest, list_files, write_json
from gpt_core.fingerprint import Json
from jobs.plots import COLORS, plots_of

CURVE: Json = [[0, 5.0], [10, 3.0], [20, 2.5]]
SERIES: dict[str, Json] = {"train_loss": CURVE, "validation_accuracy": [[20, 0.5]], "learning_rate": CURVE}
STANDING: Json = {"figures": {"accuracy": 0.75}, "low": 0.5, "high": 0.875, "seeds": [{"accuracy": 0.75}]}
SOURCE: Json = {"loss": 2.0, "bits_per_byte": 1.5, "perplexity": 7.4, "tokens": 9}
TASK: Json = {
    "task": "classification",
    "target": "class",
    "headline": "accuracy",
    "labels": ["a", "b"],
    "models": {"pretrained": STANDING, "scratch": STANDING},
    "lift": {"value": 0.25, "low": -0.125, "high": 0.5, "how": "by hand"},
    "confusion": [[3, 1], [0, 0]],
    "calibration": [{"low": 0.6, "high": 0.8, "examples": 4, "confidence": 0.7, "accuracy": 0.75}],
    "test_examples": 4,
}
FILES: dict[str, tuple[str, dict[str, Json]]] = {
    "clean": ("stats.json", {"rejected": {"language": 7, "malformed": 1}, "sources": {"a": {"kept": 9}}}),
    "pretrain": ("curves.json", {"train_loss": CURVE, "validation_loss": [[20, 3.0]], "learning_rate": CURVE}),
    "finetune": ("curves.json", {"pretrained": SERIES, "scratch": SERIES}),
    "evaluate": (
        "evaluation.json",
        {"task": TASK, "language_model": {"total": SOURCE, "sources": {"a": SOURCE, "b": SOURCE}}},
    ),
}


def output_of(root: Path, stage: str, name: str, tree: dict[str, Json]) -> Artifact:
    write_json(root / name, tree)
    manifest = Manifest.model_construct(stage=stage, files=list_files(root, [root / name]))
    return Artifact(root, manifest)


def figures_of(root: Path, stage: str) -> dict[str, Figure]:
    return plots_of(output_of(root, stage, *FILES[stage]))


def figure_of(root: Path, stage: str) -> Figure:
    (figure,) = figures_of(root, stage).values()
    return figure


@pytest.mark.parametrize("stage", FILES)
def test_every_stage_with_curves_or_figures_is_drawn(tmp_path: Path, stage: str) -> None:
    for figure in figures_of(tmp_path, stage).values():
        png = BytesIO()
        figure.savefig(png)
        assert png.getvalue().startswith(b"\x89PNG")


def test_finetuning_draws_every_seed_of_both_starts(tmp_path: Path) -> None:
    runs: dict[str, Json] = {f"seed{seed}.{start}": SERIES for seed in (0, 1) for start in ("pretrained", "scratch")}
    (figure,) = plots_of(output_of(tmp_path, "finetune", "curves.json", runs)).values()
    loss, validation, _ = figure.axes
    assert [line.get_label() for line in loss.lines] == ["from scratch", "_again", "pre-trained", "_again"]
    assert [line.get_color() for line in validation.lines] == [COLORS[1], COLORS[1], COLORS[0], COLORS[0]]
    assert validation.get_title(loc="left") == "validation accuracy"


def test_the_lift_is_drawn_with_its_interval_and_zero(tmp_path: Path) -> None:
    contestants, lift = figures_of(tmp_path, "evaluate")["test"].axes
    assert [text.get_text().strip() for text in contestants.texts] == ["fine-tuned", "from scratch"]
    bar, dot, zero = lift.lines
    assert (list(bar.get_xdata()), list(dot.get_xdata()), zero.get_xdata()[0]) == ([-0.125, 0.5], [0.25], 0.0)


def test_the_sources_are_bars_of_bits_per_byte(tmp_path: Path) -> None:
    (axis,) = figures_of(tmp_path, "evaluate")["bits_per_byte"].axes
    assert [bar.get_width() for bar in axis.patches] == [1.5, 1.5]


def test_the_loss_plot_draws_the_points_of_the_curves(tmp_path: Path) -> None:
    train, validation = figure_of(tmp_path, "pretrain").axes[0].lines
    assert list(zip(train.get_xdata(), train.get_ydata(), strict=True)) == [(0, 5.0), (10, 3.0), (20, 2.5)]
    assert (validation.get_label(), list(validation.get_ydata())) == ("validation", [3.0])


def test_the_bars_are_the_kept_and_the_rejected_documents(tmp_path: Path) -> None:
    (axis,) = figure_of(tmp_path, "clean").axes
    bars = {label.get_text(): bar.get_width() for label, bar in zip(axis.get_yticklabels(), axis.patches, strict=True)}
    assert bars == {"malformed": 1, "language": 7, "kept": 9}


def test_the_confusion_matrix_shows_counts_shaded_by_row(tmp_path: Path) -> None:
    (axis,) = figures_of(tmp_path, "evaluate")["confusion"].axes
    assert [text.get_text() for text in axis.texts] == ["3", "1", "0", "0"]
    assert axis.images[0].get_array().tolist() == [[0.75, 0.25], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("stage", "name", "tree"),
    [
        ("dedup", "stats.json", {"pairs": []}),
        ("pretrain", "curves.json", {"train_loss": []}),
        ("evaluate", "evaluation.json", {"language_model": {"total": SOURCE}}),
        ("pretrain", "other.json", {}),
    ],
)
def test_a_stage_with_nothing_to_draw_has_no_plots(
    tmp_path: Path, stage: str, name: str, tree: dict[str, Json]
) -> None:
    assert plots_of(output_of(tmp_path, stage, name, tree)) == {}
