"""A person reads how far a stage is."""

import io
import json
from pathlib import Path

from rich.console import Console
from rich.text import Text

from pipelines import display
from pipelines.display import StageDisplay, describe_progress
from pipelines.events import Events


def test_progress_is_told_with_units_rate_and_measures() -> None:
    told = describe_progress(1024, 4096, "tokens", rate=310.4, measures={"loss": 3.21987})
    assert told == "1,024 of 4,096 tokens, 310 tokens/s, loss 3.22"


def test_a_trainings_figures_fit_beside_a_bar_of_eighty_characters(tmp_path: Path) -> None:
    measures = {"loss": 3.21487, "validation_loss": 3.41111, "mfu": 0.3147, "seconds_left": 45_296.0}
    report = {"done": 1_310_720, "total": 3_400_000_000, "unit": "tokens", "measures": measures}
    (tmp_path / "progress.json").write_text(json.dumps(report))
    screen = io.StringIO()
    with StageDisplay(
        Console(file=screen, force_terminal=True, width=80), Events(), stage="pretrain", output=tmp_path
    ) as shown:
        shown.unit, shown.first = "tokens", (shown.started - 10.0, 1_000_000 - 3_189_280)
        shown.update()
        shown.progress.refresh()
    (line,) = [text for text in map(str, Text.from_ansi(screen.getvalue()).split("\n")) if "loss" in text]
    assert "tokens/s, loss 3.215, val 3.411, MFU 31.5% 12:34:56" in line
    assert "\u2026" not in line


def test_a_plain_line_has_all_figures_and_the_jobs_own_time_left(tmp_path: Path) -> None:
    measures = {"loss": 3.21487, "validation_loss": 3.41111, "mfu": 0.3147, "skipped_steps": 2, "seconds_left": 90.0}
    report = {"done": 5, "total": 10, "unit": "tokens", "measures": measures}
    (tmp_path / "progress.json").write_text(json.dumps(report))
    screen = io.StringIO()
    with StageDisplay(Console(file=screen), Events(), stage="pretrain", output=tmp_path) as shown:
        shown.spoken -= display.PLAIN_LINE_SECONDS + 1
        shown.update()
    told = "5 of 10 tokens, loss 3.215, validation loss 3.411, MFU 31.5%, skipped steps 2, 90 s left"
    assert screen.getvalue() == f"  pretrain: {told}\n"


def test_progress_without_a_known_total_claims_none() -> None:
    assert describe_progress(7, None, "documents", rate=0, measures={}) == "7 documents"


def test_without_a_terminal_progress_comes_as_plain_lines(tmp_path: Path) -> None:
    screen = io.StringIO()
    (tmp_path / "progress.json").write_text(json.dumps({"done": 5, "total": 10, "unit": "tokens", "measures": {}}))
    with StageDisplay(Console(file=screen), Events(), stage="pretrain", output=tmp_path) as shown:
        shown.update()
        assert screen.getvalue() == ""
        shown.spoken -= display.PLAIN_LINE_SECONDS + 1
        shown.update()
    assert screen.getvalue() == "  pretrain: 5 of 10 tokens\n"


def test_a_job_that_counts_another_thing_has_a_new_pace(tmp_path: Path) -> None:
    screen = io.StringIO()

    def report(done: int, total: int, unit: str) -> None:
        (tmp_path / "progress.json").write_text(
            json.dumps({"done": done, "total": total, "unit": unit, "measures": {}})
        )
        shown.update()

    with StageDisplay(Console(file=screen), Events(), stage="evaluate", output=tmp_path) as shown:
        report(100_000, 100_000, "tokens")
        report(5, 10, "examples")
        shown.first = (shown.first[0] - 10, shown.first[1])
        shown.spoken -= display.PLAIN_LINE_SECONDS + 1
        report(8, 10, "examples")
    assert screen.getvalue() == "  evaluate: 8 of 10 examples, 0 examples/s, 7 s left\n"


def test_a_job_that_reports_nothing_is_shown_all_the_same(tmp_path: Path) -> None:
    with StageDisplay(Console(file=io.StringIO()), Events(), stage="clean", output=tmp_path) as shown:
        shown.update()
        (tmp_path / "progress.json").write_text('{"half')
        shown.update()
