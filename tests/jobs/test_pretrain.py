"""Pre-training under torchrun with real DeepSpeed: the same weights however the batch is cut, killed or not."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from gpt_core.artifact import Artifact
from gpt_core.training.curves import read_steps
from tiny_training import finish, finish_telling, make_inputs, make_recipe, start_training

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Artifact]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def two_ranks(inputs: Mapping[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The run that the others are held to: two ranks, ZeRO 2, one micro-batch a step."""
    folder = tmp_path_factory.mktemp("two_ranks")
    return finish(start_training("pretrain", folder / "out", make_recipe(folder), inputs), folder / "out")


def curve(artifact: Artifact, name: str) -> list[float]:
    return [value for _, value in json.loads(artifact.file("curves.json").read_text())[name]]


def weights_digest(artifact: Artifact) -> str:
    (entry,) = [entry for entry in artifact.manifest.files if entry.path == "model/model.safetensors"]
    return entry.sha256


def samples(artifact: Artifact) -> list[tuple[int, str]]:
    return [(sample["step"], sample["text"]) for sample in json.loads(artifact.file("samples.json").read_text())]


def test_every_figure_of_the_steps_is_kept(two_ranks: Artifact) -> None:
    entries = list(read_steps(two_ranks.file("steps.jsonl")))
    assert [entry.step for entry in entries if "train_loss" in entry.figures] == list(range(1, 25))
    assert [entry.step for entry in entries if "mfu" in entry.figures] == [10, 20, 24]
    last = {name: value for entry in entries if entry.step == 24 for name, value in entry.figures.items()}
    assert 0 < last["mfu"] < 1
    assert 0 <= last["data_wait"] < 1
    assert 50e6 < last["memory_bytes"] < 50e9
    assert last["seconds_left"] == 0
    for name, points in json.loads(two_ranks.file("curves.json").read_text()).items():
        assert points == [[e.step, e.figures[name]] for e in entries if name in e.figures], name


def test_bits_per_byte_are_the_validation_loss_over_the_bytes_of_its_text(
    two_ranks: Artifact, inputs: Mapping[str, Artifact]
) -> None:
    counts = inputs["shards"].manifest.counts
    for loss, bits in zip(
        curve(two_ranks, "validation_loss"), curve(two_ranks, "validation_bits_per_byte"), strict=True
    ):
        assert bits == pytest.approx(
            loss * 1.442695 * counts["validation_tokens"] / counts["validation_bytes"], rel=1e-6
        )


def test_behind_every_validation_the_model_writes(two_ranks: Artifact) -> None:
    assert [step for step, _ in samples(two_ranks)] == [12, 24]
    assert all(text for _, text in samples(two_ranks))


def test_the_loss_falls_and_the_manifest_says_how_far(two_ranks: Artifact) -> None:
    manifest = two_ranks.manifest
    assert manifest.counts["steps"] == 24
    assert manifest.counts["tokens"] == 24 * 8 * 32
    assert manifest.counts["unused_tokens"] < 32
    assert curve(two_ranks, "train_loss")[0] > 5.5  # ln 384 = 5.95
    assert manifest.figures["validation_loss"] < 4.5
    assert len(curve(two_ranks, "validation_loss")) == 2
    assert not (two_ranks.root / "checkpoints").exists()


@pytest.mark.parametrize(
    ("processes", "train"),
    [
        (1, {"processes": 1, "zero_stage": 1}),
        (2, {"zero_stage": 3}),
        (2, {"zero_stage": 2, "micro_batch_sequences": 1}),
        (1, {"processes": 1, "zero_stage": 0, "micro_batch_sequences": 2}),
    ],
    ids=["one rank", "ZeRO 3", "accumulated", "one rank accumulated without ZeRO"],
)
def test_ranks_stages_and_micro_batches_change_nothing(
    processes: int, train: Mapping[str, int], inputs: Mapping[str, Artifact], two_ranks: Artifact, tmp_path: Path
) -> None:
    job = start_training("pretrain", tmp_path / "out", make_recipe(tmp_path, train=train), inputs, processes=processes)
    other = finish(job, tmp_path / "out")
    for name in ("train_loss", "gradient_norm", "validation_loss"):
        assert curve(other, name) == pytest.approx(curve(two_ranks, name), rel=2e-3), name
    assert curve(other, "train_loss")[:5] == pytest.approx(curve(two_ranks, "train_loss")[:5], rel=1e-5)
    assert samples(other) == samples(two_ranks)


MIXED = {
    "mixture": {"sea": {"weight": 3}, "*": {"weight": 1}},
    "packing": "best_fit",
    "shuffle_shards": 1,
    "tokens": 32 * 8 * 12,
}


@pytest.fixture(scope="module")
def mixed(inputs: Mapping[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, str]:
    """A mixture of packed documents on two ranks, and what the job told."""
    folder = tmp_path_factory.mktemp("mixed")
    job = start_training("pretrain", folder / "out", make_recipe(folder, pretrain=MIXED), inputs)
    return finish_telling(job, folder / "out")


def test_a_mixture_of_packed_documents_is_trained_on_and_told(mixed: tuple[Artifact, str]) -> None:
    artifact, told = mixed
    counts = artifact.manifest.counts
    assert counts["tokens"] == 12 * 8 * 32
    assert (counts["tokens.sea"], counts["tokens.*"]) == (9 * 8 * 32, 3 * 8 * 32)
    assert counts["unused_tokens"] == 0
    assert 0 < artifact.manifest.figures["padding"] < 0.5
    assert told.count("sea: 75.0 % of the training, ") == 1
    assert told.count("packed sequences, ") == 1


def test_packed_documents_weigh_the_same_on_one_rank(
    mixed: tuple[Artifact, str], inputs: Mapping[str, Artifact], tmp_path: Path
) -> None:
    recipe = make_recipe(tmp_path, pretrain=MIXED, train={"processes": 1, "micro_batch_sequences": 2})
    one = finish(start_training("pretrain", tmp_path / "out", recipe, inputs, processes=1), tmp_path / "out")
    for name in ("train_loss", "gradient_norm", "validation_loss"):
        assert curve(one, name) == pytest.approx(curve(mixed[0], name), rel=2e-3), name
    assert curve(one, "train_loss")[:5] == pytest.approx(curve(mixed[0], "train_loss")[:5], rel=1e-5)
    assert curve(one, "train_loss")[0] == pytest.approx(5.95, rel=0.02)  # ln 384: a mean over the targets that count


def test_a_mixture_that_does_not_fit_the_shards_is_the_users_error(
    inputs: Mapping[str, Artifact], tmp_path: Path
) -> None:
    recipe = make_recipe(tmp_path, pretrain={"mixture": {"air": {"weight": 1}, "*": {"weight": 1}}})
    start_training("pretrain", tmp_path / "out", recipe, inputs).communicate()
    error = json.loads((tmp_path / "out" / "error.json").read_text())
    assert error["kind"] == "user"
    assert "pretrain.mixture.air: no train shard is of this source; there are: land, sea" in error["message"]


def test_killed_behind_a_checkpoint_it_ends_with_the_same_bits(
    inputs: Mapping[str, Artifact], two_ranks: Artifact, tmp_path: Path
) -> None:
    recipe = make_recipe(tmp_path)
    killed = start_training("pretrain", tmp_path / "out", recipe, inputs)
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / "checkpoints" / "latest").exists():
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for process in [*psutil.Process(killed.pid).children(recursive=True), psutil.Process(killed.pid)]:
        process.kill()
    killed.communicate()
    assert not (tmp_path / "out" / "manifest.json").exists()

    again = start_training("pretrain", tmp_path / "out", recipe, inputs)
    resumed, told = finish_telling(again, tmp_path / "out")
    assert "resumed behind step" in told
    assert weights_digest(resumed) == weights_digest(two_ranks)
    for name in ("train_loss", "gradient_norm", "learning_rate", "validation_loss"):
        assert curve(resumed, name) == curve(two_ranks, name), name
    assert samples(resumed) == samples(two_ranks)
    assert [entry.step for entry in read_steps(resumed.file("steps.jsonl"))] == [
        entry.step for entry in read_steps(two_ranks.file("steps.jsonl"))
    ]


def test_qwen3_under_autocast_trains(inputs: Mapping[str, Artifact], tmp_path: Path) -> None:
    model, silent = {"architecture": "qwen3", "n_kv_head": 1}, {"sample_tokens": 0}
    recipe = make_recipe(tmp_path, model=model, pretrain={"precision": "autocast"}, tracking=silent)
    artifact = finish(start_training("pretrain", tmp_path / "out", recipe, inputs), tmp_path / "out")
    assert artifact.manifest.figures["validation_loss"] < 4.5
    assert samples(artifact) == []


def test_an_exploding_loss_stops_with_its_step_and_the_way_out(inputs: Mapping[str, Artifact], tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, pretrain={"learning_rate": 1e30, "gradient_clip": 0.0})
    job = start_training("pretrain", tmp_path / "out", recipe, inputs)
    job.communicate()
    assert job.returncode != 0
    error = json.loads((tmp_path / "out" / "error.json").read_text())
    assert error["kind"] == "stage"
    assert "the loss is nan and the gradient norm" in error["message"]
    assert "step 5 of its kind in a row; lower the learning rate" in error["message"]


def test_a_step_longer_than_an_epoch_is_the_users_error(inputs: Mapping[str, Artifact], tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, pretrain={"batch_sequences": 4096, "tokens": 4096 * 32})
    job = start_training("pretrain", tmp_path / "out", recipe, inputs)
    job.communicate()
    error = json.loads((tmp_path / "out" / "error.json").read_text())
    assert error["kind"] == "user"
    assert "pretrain.batch_sequences=4096 exceeds the" in error["message"]


def test_a_context_longer_than_the_validation_text_is_the_users_error(
    inputs: Mapping[str, Artifact], tmp_path: Path
) -> None:
    recipe = make_recipe(tmp_path, model={"context_length": 2048}, pretrain={"tokens": 2048 * 8})
    job = start_training("pretrain", tmp_path / "out", recipe, inputs)
    job.communicate()
    error = json.loads((tmp_path / "out" / "error.json").read_text())
    assert error["kind"] == "user"
    assert "model.context_length=2048 exceeds" in error["message"]
