"""A person reads how far a stage is."""

import io
import json
from pathlib import Path

from rich.console import Console

from pipelines import display
from pipelines.display import StageDisplay, describe_progress


def test_progress_is_told_with_units_rate_and_measures() -> None:
    told = describe_progress(1024, 4096, "tokens", rate=310.4, measures={"loss": 3.21987})
    assert told == "1,024 of 4,096 tokens, 310 tokens/s, loss 3.22"


def test_progress_without_a_known_total_claims_none() -> None:
    assert describe_progress(7, None, "documents", rate=0, measures={}) == "7 documents"


def test_without_a_terminal_progress_comes_as_plain_lines(tmp_path: Path) -> None:
    screen = io.StringIO()
    (tmp_path / "progress.json").write_text(json.dumps({"done": 5, "total": 10, "unit": "tokens", "measures": {}}))
    with StageDisplay(Console(file=screen), stage="pretrain", output=tmp_path) as shown:
        shown.update()
        assert screen.getvalue() == ""
        shown.spoken -= display.PLAIN_LINE_SECONDS + 1
        shown.update()
    assert screen.getvalue() == "  pretrain: 5 of 10 tokens\n"


def test_a_job_that_reports_nothing_is_shown_all_the_same(tmp_path: Path) -> None:
    with StageDisplay(Console(file=io.StringIO()), stage="clean", output=tmp_path) as shown:
        shown.update()
        (tmp_path / "progress.json").write_text('{"half')
        shown.update()
