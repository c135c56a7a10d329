"""Figures over the steps: thinned in memory, and exact in a file that a killed run goes on with."""

import logging
from pathlib import Path

import pytest

from gpt_core.training.curves import MAX_POINTS, Curves, StepLog, read_steps


def test_curves_are_thinned_evenly_and_keep_their_end() -> None:
    curves = Curves()
    for step in range(1, 1_203):
        curves.add(step, {"loss": float(step)})
    points = curves.thinned()["loss"]
    assert isinstance(points, list)
    assert len(points) <= MAX_POINTS
    assert points[-1] == [1_202, 1_202.0]
    assert curves.mean_of_last("loss", 3) == 1_201.0


def write_steps(path: Path, steps: range, *, done: int = 0) -> None:
    log = StepLog(path, done=done)
    for step in steps:
        log.add(step, {"train_loss": step / 2})
        if step % 2 == 0:
            log.add(step, {"validation_loss": float(step)})
            log.add(step, {}, sample={"prompt": "The", "text": f"\u00e9 {step}"})
    log.sync()
    log.close()


def test_a_resumed_run_writes_on_behind_its_step_and_nothing_stands_twice(tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    write_steps(whole, range(1, 9))
    write_steps(resumed, range(1, 7))  # killed behind step 6, its last checkpoint of step 4
    write_steps(resumed, range(5, 9), done=4)
    told = [[(e.step, e.figures, e.sample) for e in read_steps(path)] for path in (whole, resumed)]
    assert told[0] == told[1]
    assert Curves.read(resumed).series == {
        "train_loss": [[step, step / 2] for step in range(1, 9)],
        "validation_loss": [[step, float(step)] for step in (2, 4, 6, 8)],
    }
    assert [e.sample for e in read_steps(resumed) if e.sample][-1] == {"prompt": "The", "text": "\u00e9 8"}


@pytest.mark.parametrize("torn", [b'{"step": 3, "unix_ms": 1, "train', b'{"step": 3, "unix_ms": 1}', b"\0\0\0\n"])
def test_half_a_line_of_a_machine_that_went_down_is_dropped(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    write_steps(path, range(1, 4))
    with path.open("rb+") as file:
        content = file.read()
        file.truncate(content.index(b'{"step": 3'))
    with path.open("ab") as file:
        file.write(torn)
    write_steps(path, range(3, 5), done=3)
    assert Curves.read(path).series["train_loss"] == [[1, 0.5], [2, 1.0], [3, 1.5], [4, 2.0]]


def test_figures_that_are_missing_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="gptmill"):
        StepLog(tmp_path / "steps.jsonl", done=7).close()
    assert "the figures of steps 1 to 7 are not there" in caplog.text


def test_a_figure_that_is_no_number_is_a_bug(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "steps.jsonl", done=0)
    with pytest.raises(ValueError, match="JSON"):
        log.add(1, {"train_loss": float("nan")})
    log.close()
