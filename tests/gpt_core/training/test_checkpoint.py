"""Only a whole checkpoint of the same job is resumed from."""

from pathlib import Path

import pytest
from torch import Tensor, device

from gpt_core.fingerprint import Json
from gpt_core.training.checkpoint import Checkpoints


class OneRank:
    """An engine of one rank whose whole state is one number in a file."""

    rank, world_size, device = 0, 1, device("cpu")
    value = 0

    def sum_over_ranks(self, values: list[float]) -> list[float]:
        return values

    def barrier(self) -> None: ...

    def weights(self) -> dict[str, Tensor]:
        return {}

    def save(self, folder: Path, state: dict[str, Json]) -> None:
        (folder / "value").write_text(str(self.value))
        (folder / "state").write_text(str(state["x"]))

    def load(self, folder: Path) -> dict[str, Json]:
        self.value = int((folder / "value").read_text())
        return {"x": (folder / "state").read_text()}


def saved(tmp_path: Path, *steps: int, keep: int = 9, **conditions: Json) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path, conditions={"world_size": 2, **conditions}, keep=keep)
    engine = OneRank()
    for step in steps:
        engine.value = step * 10
        checkpoints.save(engine, step, {"x": f"at {step}"})  # type: ignore[arg-type]
    return checkpoints


def load(checkpoints: Checkpoints) -> tuple[int, int, dict[str, Json]]:
    engine = OneRank()
    step, state = checkpoints.load_newest(engine)  # type: ignore[arg-type]
    return step, engine.value, state


def test_the_newest_is_resumed_from(tmp_path: Path) -> None:
    assert load(saved(tmp_path, 9, 10, 100)) == (100, 1000, {"x": "at 100"})
    assert (tmp_path / "latest").read_text() == "step-100"


def test_without_one_a_run_starts_at_zero(tmp_path: Path) -> None:
    assert load(saved(tmp_path)) == (0, 0, {})


def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    (tmp_path / "step-2" / "value").write_text("21")
    assert load(checkpoints)[0] == 1
    assert "step-2 is passed over: value is not what was written" in caplog.text


def test_one_without_manifest_was_never_whole(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    (tmp_path / "step-2" / "manifest.json").unlink()
    assert load(checkpoints)[0] == 1


def test_one_of_another_world_size_is_passed_over_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, 3)
    other = Checkpoints(tmp_path, conditions={"world_size": 4}, keep=9)
    assert load(other)[0] == 0
    assert "world_size was 2, now it is 4" in caplog.text


def test_old_ones_are_retired(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3, keep=2)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-2", "step-3"]
