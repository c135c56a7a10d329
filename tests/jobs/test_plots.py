from io import BytesIO
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from gpt_core.artifact import Artifact, Manifest, list_files, write_json
from gpt_core.fingerprint import Json
from jobs.plots import plots_of

CURVE: Json = [[0, 5.0], [10, 3.0], [20, 2.5]]
SERIES: dict[str, Json] = {"train_loss": CURVE, "validation_accuracy": [[20, 0.5]], "learning_rate": CURVE}
FILES: dict[str, tuple[str, dict[str, Json]]] = {
    "clean": ("stats.json", {"rejected": {"language": 7, "malformed": 1}, "sources": {"a": {"kept": 9}}}),
    "pretrain": ("curves.json", {"train_loss": CURVE, "validation_loss": [[20, 3.0]], "learning_rate": CURVE}),
    "finetune": ("curves.json", {"pretrained": SERIES, "scratch": SERIES}),
    "evaluate": ("evaluation.json", {"classification": {"labels": ["a", "b"], "confusion": [[3, 1], [0, 0]]}}),
}


def output_of(root: Path, stage: str, name: str, tree: dict[str, Json]) -> Artifact:
    write_json(root / name, tree)
    manifest = Manifest.model_construct(stage=stage, files=list_files(root, [root / name]))
    return Artifact(root, manifest)


def figure_of(root: Path, stage: str) -> Figure:
    ((_, figure),) = plots_of(output_of(root, stage, *FILES[stage])).items()
    return figure


@pytest.mark.parametrize("stage", FILES)
def test_every_stage_with_curves_or_figures_is_drawn(tmp_path: Path, stage: str) -> None:
    png = BytesIO()
    figure_of(tmp_path, stage).savefig(png)
    assert png.getvalue().startswith(b"\x89PNG")


def test_the_loss_plot_draws_the_points_of_the_curves(tmp_path: Path) -> None:
    train, validation = figure_of(tmp_path, "pretrain").axes[0].lines
    assert list(zip(train.get_xdata(), train.get_ydata(), strict=True)) == [(0, 5.0), (10, 3.0), (20, 2.5)]
    assert (validation.get_label(), list(validation.get_ydata())) == ("validation", [3.0])


def test_the_bars_are_the_kept_and_the_rejected_documents(tmp_path: Path) -> None:
    (axis,) = figure_of(tmp_path, "clean").axes
    bars = {label.get_text(): bar.get_width() for label, bar in zip(axis.get_yticklabels(), axis.patches, strict=True)}
    assert bars == {"malformed": 1, "language": 7, "kept": 9}


def test_the_confusion_matrix_shows_counts_shaded_by_row(tmp_path: Path) -> None:
    (axis,) = figure_of(tmp_path, "evaluate").axes
    assert [text.get_text() for text in axis.texts] == ["3", "1", "0", "0"]
    assert axis.images[0].get_array().tolist() == [[0.75, 0.25], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("stage", "name", "tree"),
    [
        ("dedup", "stats.json", {"pairs": []}),
        ("pretrain", "curves.json", {"train_loss": []}),
        ("evaluate", "evaluation.json", {"language_model": {}}),
        ("pretrain", "other.json", {}),
    ],
)
def test_a_stage_with_nothing_to_draw_has_no_plots(
    tmp_path: Path, stage: str, name: str, tree: dict[str, Json]
) -> None:
    assert plots_of(output_of(tmp_path, stage, name, tree)) == {}
