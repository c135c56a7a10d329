"""Only a whole checkpoint of the same job is resumed from, and none goes before a newer one is whole."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt_core.errors import ArtifactError, StageError
from gpt_core.fingerprint import Json
from gpt_core.recipe import TrainCluster
from gpt_core.training.checkpoint import Checkpoints
from gpt_core.training.checkpoint_files import detach


class OneRank:
    """An engine of one rank whose whole state is a tensor."""

    rank, world_size = 0, 1

    def __init__(self) -> None:
        self.value = torch.zeros(3)

    def sum_over_ranks(self, values: list[float]) -> list[float]:
        return values

    def gather(self, value: Json) -> list[Json]:
        return [value]

    def barrier(self) -> None: ...

    def state_files(self) -> dict[str, Any]:
        return {"deep/value": {"value": self.value}, "layout": "of one"}

    def load(self, folder: Path) -> None:
        value: Tensor = torch.load(folder / "deep" / "value")["value"]
        if value.shape != self.value.shape:
            raise ArtifactError("it is of another model")
        self.value = value


def make(folder: Path, *, identity: str = "this job", **settings: Any) -> Checkpoints:
    return Checkpoints(folder, identity=identity, settings=TrainCluster(**{"keep_checkpoints": 9, **settings}))


def save(checkpoints: Checkpoints, *steps: int, losses: dict[int, float] | None = None) -> None:
    engine = OneRank()
    for step in steps:
        engine.value.fill_(step)
        checkpoints.save(engine, step, {"x": f"at {step}"}, validation_loss=(losses or {}).get(step))  # type: ignore[arg-type]
        engine.value.fill_(-1)  # the training goes on
        checkpoints.complete(engine)  # type: ignore[arg-type]


def load(checkpoints: Checkpoints) -> tuple[int, list[float], dict[str, Json]]:
    engine = OneRank()
    step, state = checkpoints.load_newest(engine)  # type: ignore[arg-type]
    return step, engine.value.tolist(), state


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


@pytest.mark.parametrize("background", [False, True])
def test_the_newest_is_resumed_from(background: bool, tmp_path: Path) -> None:
    save(make(tmp_path, background_checkpoints=background), 9, 10, 100)
    assert load(make(tmp_path)) == (100, [100.0] * 3, {"x": "at 100"})
    assert (tmp_path / "latest").read_text() == "step-100"


def test_without_one_a_run_starts_at_zero(tmp_path: Path) -> None:
    assert load(make(tmp_path / "none")) == (0, [0.0] * 3, {})


def test_in_the_background_the_same_bytes_are_written(tmp_path: Path) -> None:
    save(make(tmp_path / "foreground"), 7)
    save(make(tmp_path / "background", background_checkpoints=True), 7)
    manifests = [(tmp_path / side / "step-7" / "manifest.json").read_text() for side in ("foreground", "background")]
    assert manifests[0] == manifests[1]


def test_in_the_background_none_is_whole_before_all_ranks_agree(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    checkpoints, engine = make(folder, background_checkpoints=True, keep_checkpoints=1), OneRank()
    save(checkpoints, 1)
    checkpoints.save(engine, 2, {})  # type: ignore[arg-type]
    deadline = time.monotonic() + 30
    while not checkpoints.written:
        assert time.monotonic() < deadline
    shutil.copytree(folder, tmp_path / "killed here")
    assert load(make(tmp_path / "killed here"))[0] == 1
    checkpoints.complete(engine)  # type: ignore[arg-type]
    assert not checkpoints.written
    assert steps_in(folder) == [2]


def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = make(tmp_path)
    save(checkpoints, 1, 2, 3)
    with (tmp_path / "step-2" / "deep" / "value").open("r+b") as stream:
        stream.seek(-40, 2)
        stream.write(b"?")
    (tmp_path / "step-3" / "state.json").unlink()
    assert load(checkpoints)[:2] == (1, [1.0] * 3)
    assert "step-3 is passed over: state.json cannot be read" in caplog.text
    assert "step-2 is passed over: deep/value is not what was written" in caplog.text


def test_one_without_manifest_was_never_whole_and_goes(tmp_path: Path) -> None:
    checkpoints = make(tmp_path)
    save(checkpoints, 1, 2)
    (tmp_path / "step-2" / "manifest.json").unlink()
    assert load(checkpoints)[0] == 1
    assert steps_in(tmp_path) == [1]


@pytest.mark.parametrize("reason", ["it is of another job", "it is of another model", r"manifest.json cannot be read"])
def test_where_none_can_be_used_nothing_begins_at_zero(
    reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(make(tmp_path, identity="that job" if "job" in reason else "this job"), 3)
    if "manifest" in reason:
        (tmp_path / "step-3" / "manifest.json").write_text("{")
    engine = OneRank()
    if "model" in reason:
        engine.value = torch.zeros(4)
    with pytest.raises(StageError, match=r"none of its 1 checkpoints can be used, .* delete the folder to begin at"):
        make(tmp_path).load_newest(engine)  # type: ignore[arg-type]
    assert f"step-3 is passed over: {reason}" in caplog.text


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"keep_checkpoints": 2}, [5, 6]),
        ({"keep_checkpoints": 1, "keep_every_steps": 3}, [3, 6]),
        ({"keep_checkpoints": 1, "keep_best": True}, [2, 6]),
    ],
)
def test_the_newest_every_so_many_and_the_best_are_kept(
    settings: dict[str, Any], kept: list[int], tmp_path: Path
) -> None:
    checkpoints = make(tmp_path, **settings)
    save(checkpoints, 1, 2, 3, 4, 5, 6, losses={1: 3.0, 2: 1.5, 3: 1.5, 4: 2.0, 5: float("nan"), 6: 2.0})
    assert steps_in(tmp_path) == kept


@pytest.mark.parametrize("damaged", ["state.json", "manifest.json"])
def test_a_damaged_one_does_not_outlive_those_that_are_written_after_it(damaged: str, tmp_path: Path) -> None:
    checkpoints = make(tmp_path, keep_checkpoints=1, keep_best=True)
    save(make(tmp_path), 8, 12)
    (tmp_path / "step-12" / damaged).write_text("{")
    assert load(checkpoints)[0] == 8
    save(checkpoints, 9)
    assert steps_in(tmp_path) == [9]


def test_once_the_stage_is_whole_only_chosen_ones_stay(tmp_path: Path) -> None:
    checkpoints = make(tmp_path)
    save(checkpoints, 1, 2)
    assert checkpoints.scratch() == [tmp_path]
    chosen = make(tmp_path, keep_every_steps=2)
    assert sorted(path.name for path in chosen.scratch()) == ["latest", "step-1"]


class FullDisk(OneRank):
    """The second file goes to a disk that takes nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def state_files(self) -> dict[str, Any]:
        (self.folder / "full").symlink_to("/dev/full")
        return {"value": self.value, "full": {"value": self.value}}


@pytest.mark.parametrize("background", [False, True])
def test_on_a_full_disk_the_training_goes_on_and_the_old_one_stays(
    background: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = make(tmp_path, background_checkpoints=background, keep_checkpoints=1)
    save(checkpoints, 1)
    full = FullDisk(tmp_path / "step-2")
    checkpoints.save(full, 2, {})  # type: ignore[arg-type]
    checkpoints.complete(full)  # type: ignore[arg-type]
    assert "no checkpoint behind step 2: [Errno 28] No space left on device" in caplog.text
    assert "the training goes on, the newest checkpoint is step-1" in caplog.text
    assert steps_in(tmp_path) == [1]
    assert load(make(tmp_path))[0] == 1
    save(checkpoints, 3)
    assert steps_in(tmp_path) == [3]


def test_where_the_last_one_would_not_fit_again_none_is_begun(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = make(tmp_path)
    save(checkpoints, 1)
    path = tmp_path / "step-1" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][0]["size_bytes"] = 10**18
    path.write_text(json.dumps(manifest))
    save(checkpoints, 2)
    assert "bytes free, the last one took 1,000,000,000,000,000," in caplog.text
    assert steps_in(tmp_path) == [1]


def test_tensors_that_share_a_storage_still_do_when_copied() -> None:
    whole = torch.arange(6.0, requires_grad=True)
    copied = detach({"a": [whole[:3]], "b": (whole.view(2, 3), "text")}, copy=True)
    with torch.no_grad():
        whole.zero_()
    assert copied["a"][0].tolist() == [0, 1, 2]
    assert copied["b"][0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert copied["b"][1] == "text"
    assert copied["a"][0].untyped_storage().data_ptr() == copied["b"][0].untyped_storage().data_ptr()
    assert not copied["a"][0].requires_grad
