"""The figures of a pre-training, worked out by hand on a clock and an engine of the test's own."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from gpt_core.training.curves import STEPS, read_steps
from gpt_core.training.loop import StepFigures
from jobs import pretrain_record
from jobs.job import PROGRESS, Job
from jobs.pretrain_record import MACHINE_STEPS, Recorder
from tiny_training import make_recipe

STEP_TOKENS = 8 * 32  # and 24 steps
FLOPS_A_TOKEN, PEAK = 1_000, 400_000.0


class TwoRanks:
    """Rank 0 of two; the other waited longer for its batches and took twice the memory."""

    rank, world_size, device = 0, 2, torch.device("cpu")
    theirs = (0.25, 8e9)

    def barrier(self) -> None:
        pass

    def memory_bytes(self) -> int:
        return 4_000_000_000

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        if len(values) == 1:  # of both alike
            return [2 * values[0]]
        return [mine + other for mine, other in zip(values, (0.0, 0.0, *self.theirs), strict=True)]


class Sink:
    def __init__(self) -> None:
        self.points: list[tuple[int, str, float]] = []
        self.notes: dict[str, str] = {}

    def __call__(self, step: int, values: Mapping[str, float], *, unix_ms: int = 0) -> None:  # noqa: ARG002
        self.points += [(step, name, value) for name, value in values.items()]

    def tag(self, name: str, text: str) -> None:
        self.notes[name] = text

    text = tag

    def close(self) -> None:
        pass


class Bench:
    """A recorder in `folder`, whose clock a step moves by two seconds: 0.5 of its own, 0.1 of them waiting."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, done: int = 0) -> None:
        self.now = self.waited = 0.0
        monkeypatch.setattr(pretrain_record.time, "monotonic", lambda: self.now)
        recipe = make_recipe(folder, train={"peak_flops": PEAK})
        self.sink = Sink()
        self.job = Job(recipe=recipe, inputs={}, output=folder, rank=0)
        self.recorder = Recorder(
            self.job,
            TwoRanks(),  # type: ignore[arg-type]
            self.sink,
            done=done,
            flops_per_token=FLOPS_A_TOKEN,
            waited=lambda: self.waited,
        )

    def step(self, step: int, *, skipped: bool = False) -> None:
        self.now += 2.0
        self.waited += 0.1
        seconds = 90.0 if step == 1 else 0.5  # the first compiles
        figures = StepFigures(step, 1.0, [1.0], 0.75, 1e-3, seconds, skipped)
        self.recorder.step(figures, {"train_loss": 4.0 - step / 10})

    def told(self) -> dict[tuple[int, str], float]:
        return {(step, name): value for step, name, value in self.sink.points}


def test_the_machines_figures_are_those_of_the_steps_since_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, monkeypatch)
    for step in range(1, MACHINE_STEPS + 1):
        bench.step(step)
    told = bench.told()
    assert told[10, "mfu"] == pytest.approx(STEP_TOKENS / 0.5 * FLOPS_A_TOKEN / (2 * PEAK))  # 0.64
    assert told[10, "data_wait"] == 0.25  # theirs; ours is 0.1 / 0.5 = 0.2
    assert told[10, "memory_bytes"] == 8e9
    assert told[10, "seconds_left"] == pytest.approx(2.0 * (24 - 10))
    assert told[10, "tokens_per_second"] == STEP_TOKENS / 0.5
    assert {step for step, name in told if name == "mfu"} == {10}
    assert "1,000 FLOPs a token" in bench.sink.notes["gptmill.mfu"]
    assert "8e+05 FLOP/s of 2 ranks (cluster.train.peak_flops)" in bench.sink.notes["gptmill.mfu"]


def test_our_own_wait_counts_where_it_is_the_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TwoRanks, "theirs", (0.0, 0.0))
    bench = Bench(tmp_path, monkeypatch)
    for step in range(1, MACHINE_STEPS + 1):
        bench.step(step)
    assert bench.told()[10, "data_wait"] == pytest.approx(0.2)
    assert bench.told()[10, "memory_bytes"] == 4e9


def test_a_skipped_step_is_counted_and_has_no_loss_and_the_file_is_what_the_sink_got(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, monkeypatch)
    for step in (1, 2, 3, 4):
        bench.step(step, skipped=step in (2, 4))
    bench.recorder.validation(4, {"validation_loss": 3.5, "validation_bits_per_byte": 1.25})
    bench.recorder.sample(4, "The", " whale\n")
    bench.recorder.close()
    told = bench.told()
    assert [told[step, "skipped_steps"] for step in (2, 4)] == [1, 2]
    assert {step for step, name in told if name == "train_loss"} == {1, 3}
    assert {step for step, name in told if name == "gradient_norm"} == {1, 3}
    entries = list(read_steps(tmp_path / STEPS))
    assert {(e.step, name): value for e in entries for name, value in e.figures.items()} == told
    assert entries[-1].sample == {"prompt": "The", "text": " whale\n"}
    assert bench.sink.notes["samples/step-000004.txt"] == "The| whale\n\n"


def test_progress_shows_the_few_that_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, monkeypatch)
    for step in range(1, MACHINE_STEPS + 1):
        bench.step(step, skipped=step == 3)
    bench.now += 1.0  # reports are told twice a second at most
    bench.recorder.validation(10, {"validation_loss": 3.5, "validation_bits_per_byte": 1.25})
    told = json.loads((tmp_path / PROGRESS).read_text())
    assert (told["done"], told["total"]) == (10 * STEP_TOKENS, 24 * STEP_TOKENS)
    assert list(told["measures"]) == ["loss", "validation_loss", "mfu", "skipped_steps", "seconds_left"]
    assert told["measures"]["loss"] == 3.0


def test_a_resumed_run_counts_on_and_tells_a_new_run_the_steps_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Bench(tmp_path, monkeypatch)
    for step in (1, 2, 3):
        first.step(step, skipped=step == 2)
        if step == 2:
            first.recorder.validation(2, {"validation_loss": 3.5})
    first.recorder.close()
    resumed = Bench(tmp_path, monkeypatch, done=2)
    assert resumed.recorder.validation_loss == 3.5
    assert resumed.told() == {key: value for key, value in first.told().items() if key[0] <= 2}
    resumed.step(3, skipped=True)
    assert resumed.told()[3, "skipped_steps"] == 2
    assert [entry.step for entry in read_steps(tmp_path / STEPS)] == [1, 2, 2, 3]
