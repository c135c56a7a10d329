"""Pre-training that is killed anywhere, stopped, and goes on with other ranks: no sample lost, no step otherwise."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from forked_ranks import Blow, ForkedRanks, read_samples, told
from gpt_core.artifact import Artifact, open_artifact
from gpt_core.recipe import Recipe
from tiny_training import make_inputs, make_recipe

pytestmark = pytest.mark.train

STEPS, BATCH = 20, 6
EVERY = 4  # steps between checkpoints


@pytest.fixture(scope="module")
def ranks() -> Iterator[ForkedRanks]:
    server = ForkedRanks()
    yield server
    server.close()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Artifact]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def recipe_of(folder: Path, **train: Any) -> Recipe:
    return make_recipe(
        folder,
        pretrain={"tokens": 32 * BATCH * STEPS, "batch_sequences": BATCH, "validate_every_steps": 5},
        train={"zero_stage": 2, "checkpoint_every_steps": EVERY, "keep_checkpoints": 1, **train},
    )


def whole(output: Path) -> Artifact:
    artifact = open_artifact(output)
    assert artifact is not None, told(output)
    return artifact


def curve(output: Path, name: str) -> list[float]:
    return [value for _, value in json.loads(whole(output).file("curves.json").read_text())[name]]


def weights_digest(output: Path) -> str:
    (entry,) = [entry for entry in whole(output).manifest.files if entry.path == "model/model.safetensors"]
    return entry.sha256


def digests(output: Path, step: int) -> dict[str, str]:
    """Of a checkpoint's files, but the one that tells seconds."""
    manifest = json.loads((output / "checkpoints" / f"step-{step}" / "manifest.json").read_text())
    return {entry["path"]: entry["xxh3_128"] for entry in manifest["files"] if entry["path"] != "state.json"}


@pytest.fixture(scope="module")
def uninterrupted(ranks: ForkedRanks, inputs: Mapping[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks at ZeRO 2, never killed; its checkpoints of every eighth step stay."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert ranks.run(folder / "out", recipe_of(folder, keep_every_steps=8), inputs) == [0, 0], told(folder / "out")
    return folder / "out"


def test_the_checkpoints_asked_for_stay_when_the_stage_is_whole(uninterrupted: Path) -> None:
    assert sorted(path.name for path in (uninterrupted / "checkpoints").iterdir()) == ["step-16", "step-8"]
    assert not any(entry.path.startswith("checkpoints") for entry in whole(uninterrupted).manifest.files)


KILLS = (  # (blow, checkpoints that are whole behind it)
    (Blow(1, "file", 12), []),  # in the midst of the first checkpoint
    (Blow(0, "manifest", 2), [4]),
    (Blow(0, "pointer", 2), [8, 12]),
    (Blow(1, "step", 3), [8, 12]),
    (Blow(0, "file", 12), [8, 12]),
    (Blow(0, "clearing", 2), [12, 16]),  # of the half one, then of the first that is retired
)


def test_killed_anywhere_at_equal_size_it_ends_with_the_same_bits(
    ranks: ForkedRanks, inputs: Mapping[str, Artifact], uninterrupted: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    for number, (blow, left) in enumerate(KILLS):
        recipe = recipe_of(tmp_path, background_checkpoints=bool(number % 2))
        codes = ranks.run(output, recipe, inputs, blow=blow)
        assert codes[blow.rank] == -9, told(output)
        assert codes[1 - blow.rank] != 0
        assert open_artifact(output) is None
        manifests = output.glob("checkpoints/*/manifest.json")
        assert sorted(int(path.parent.name.removeprefix("step-")) for path in manifests) == left, blow
    assert ranks.run(output, recipe_of(tmp_path), inputs) == [0, 0], told(output)
    assert weights_digest(output) == weights_digest(uninterrupted)
    for name in ("train_loss", "gradient_norm", "validation_loss"):
        assert curve(output, name) == curve(uninterrupted, name), name


def test_sigterm_to_one_rank_stops_all_behind_the_same_step(
    ranks: ForkedRanks, inputs: Mapping[str, Artifact], uninterrupted: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    recipe = recipe_of(tmp_path, background_checkpoints=True, keep_every_steps=8)
    assert ranks.run(output, recipe, inputs, blow=Blow(1, "step", 11, "SIGTERM")) == [5, 5], told(output)
    error = json.loads((output / "error.json").read_text())
    message = "SIGTERM stopped it behind step 11; start it again to go on behind step 11"
    assert error == {"kind": "preempted", "message": message}
    assert ranks.run(output, recipe, inputs) == [0, 0], told(output)
    assert weights_digest(output) == weights_digest(uninterrupted)
    first, second = (sorted(steps) for steps in read_samples(output))
    assert first in (list(range(11)), list(range(12)))  # one step is fetched ahead
    assert second == list(range(11, STEPS))
    for step in (8, 16):  # in the background, and the latter behind a resumed start
        assert digests(output, step) == digests(uninterrupted, step)


CHAIN = (  # (ranks, ZeRO stage, the step of this start in which its last rank is killed)
    (2, 2, 6),
    (1, 1, 5),
    (3, 3, 5),
    (2, 0, 5),
    (1, 3, None),
)


def test_with_other_ranks_and_stages_it_goes_on_with_the_same_samples_and_losses(
    ranks: ForkedRanks, inputs: Mapping[str, Artifact], uninterrupted: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    for world_size, stage, killed_in in CHAIN:
        recipe = recipe_of(tmp_path, processes=world_size, zero_stage=stage, micro_batch_sequences=1 + world_size)
        blow = Blow(world_size - 1, "step", killed_in) if killed_in else None
        codes = ranks.run(output, recipe, inputs, blow=blow)
        assert codes[-1] == (-9 if killed_in else 0), told(output)
    starts = read_samples(output)
    assert [min(steps) for steps in starts] == [0, 4, 8, 12, 16]
    for steps in starts:
        for step, numbers in sorted(steps.items())[:-2]:  # the last that the kill may have cut, and one fetched ahead
            assert numbers == list(range(step * BATCH, (step + 1) * BATCH))
    for name in ("train_loss", "validation_loss"):
        assert curve(output, name) == pytest.approx(curve(uninterrupted, name), abs=1e-4), name
