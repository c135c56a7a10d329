"""Training and evaluation from shards in a bucket: the same weights and figures as from shards beside them."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from object_store import ObjectStore, client, flip, object_uri, push, spoil

from gpt_core.artifact import Artifact, open_artifact
from gpt_core.data.remote import SHARD_FOLDERS, shard_entries
from tiny_training import finish, finish_telling, make_recipe, make_shards, make_tokenizer, start_training

pytestmark = pytest.mark.train

BUCKET = "s3://bucket/shards"


@dataclass(frozen=True)
class Places:
    """The same shards: all local, and local but for the shards themselves, which stand in a bucket."""

    store: ObjectStore
    local: Mapping[str, Artifact]
    remote: Mapping[str, Artifact]
    train: Mapping[str, object]  # the fields of cluster.train that read the bucket
    largest_bytes: int


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    shards = make_shards(tmp_path / "shards", tokenizer.root)
    with ObjectStore() as store:
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        client().mkdir("s3://bucket")
        push(shards, BUCKET)
        shutil.copytree(shards.root, tmp_path / "rest")
        for side in SHARD_FOLDERS:
            shutil.rmtree(tmp_path / "rest" / side)
        rest = open_artifact(tmp_path / "rest", elsewhere=SHARD_FOLDERS)
        assert rest is not None
        store.requests.clear()
        yield Places(
            store=store,
            local={"shards": shards, "tokenizer": tokenizer},
            remote={"shards": rest, "tokenizer": tokenizer},
            train={"shards_from": BUCKET, "shard_cache": str(tmp_path / "cache")},
            largest_bytes=max(entry.size_bytes for entry in shard_entries(shards.manifest)),
        )


def digests(artifact: Artifact) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in artifact.manifest.files if entry.path.startswith("model/")}


def test_weights_and_figures_are_those_of_local_shards(places: Places, tmp_path: Path) -> None:
    here, there = make_recipe(tmp_path), make_recipe(tmp_path, train=places.train)
    near = finish(start_training("pretrain", tmp_path / "near", here, places.local), tmp_path / "near")
    assert places.store.requests == []
    far = finish(start_training("pretrain", tmp_path / "far", there, places.remote), tmp_path / "far")
    assert digests(far) == digests(near)
    gets = [path for method, path in places.store.requests if method == "GET"]
    assert len(gets) == len(set(gets)) == 4  # two ranks, and each shard once

    inputs = {"shards": places.remote["shards"], "pretrain": far}
    evaluation = start_training("evaluate", tmp_path / "evaluate", there, inputs, processes=1)
    figures = finish(evaluation, tmp_path / "evaluate").manifest.figures
    assert figures["validation_loss"] == pytest.approx(near.manifest.figures["validation_loss"], rel=1e-3)
    assert places.store.count("GET", "") == 4  # it reads what training left in the cache


def test_a_bound_too_small_for_the_shuffle_warns_and_still_gives_the_same_weights(
    places: Places, tmp_path: Path
) -> None:
    bound = {"shard_cache_bytes": places.largest_bytes}
    steps = {"tokens": 8 * 32 * 4}
    here, there = (make_recipe(tmp_path, pretrain=steps, train=t) for t in ({}, {**places.train, **bound}))
    near = finish(start_training("pretrain", tmp_path / "near", here, places.local), tmp_path / "near")
    far, told = finish_telling(start_training("pretrain", tmp_path / "far", there, places.remote), tmp_path / "far")
    assert digests(far) == digests(near)
    assert f"cluster.train.shard_cache_bytes={places.largest_bytes} holds less than the " in told
    assert "so that they are fetched again and again; raise it, or set pretrain.shuffle_shards to 1 or less" in told
    cached = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.*"))
    assert cached <= places.largest_bytes


def test_a_flipped_byte_in_the_bucket_stops_the_training_with_its_name(places: Places, tmp_path: Path) -> None:
    shards = places.local["shards"]
    path = "train/land/shard-00000.arrow"
    spoil(shards, path, flip)
    job = start_training("pretrain", tmp_path / "out", make_recipe(tmp_path, train=places.train), places.remote)
    job.communicate()
    assert job.returncode != 0
    error = json.loads((tmp_path / "out" / "error.json").read_text())
    assert error["kind"] == "stage"
    assert error["message"].startswith(f"{object_uri(shards, path)}: has SHA-256 ")


def test_without_shards_from_missing_shards_are_named(places: Places, tmp_path: Path) -> None:
    job = start_training("pretrain", tmp_path / "out", make_recipe(tmp_path), places.remote)
    told, _ = job.communicate()
    assert "shard-00000.arrow: is missing, the manifest says" in told
