"""A document's id and the seed alone decide where it goes."""

import numpy as np
import pyarrow as pa

from gpt_core.data.placement import Placement, order_documents
from gpt_core.recipe import Shards
from gpt_core.tokenizer.documents import hash_strings


def shards_of_ids(placement: Placement, ids: list[str]) -> np.ndarray:
    return placement.shards_of(hash_strings(pa.array(ids), seed=placement.seed))


def test_the_shards_follow_the_text_and_are_at_least_one_a_side() -> None:
    shards = Shards(validation_fraction=0.25, shard_text_bytes=1_000_000)
    placements = [Placement.from_recipe(shards, text_bytes=text_bytes) for text_bytes in (1, 8_000_000, 8_000_002)]
    assert [(p.train_shards, p.validation_shards) for p in placements] == [(1, 1), (6, 2), (7, 3)]


def test_a_hash_below_the_fraction_is_held_out() -> None:
    placement = Placement(seed=0, validation_fraction=0.25, train_shards=2, validation_shards=1)
    quarter = 2**62
    hashes = np.array([0, quarter - 1, quarter, quarter | (2**32 - 1), 2**64 - 1], dtype=np.uint64)
    assert placement.shards_of(hashes).tolist() == [2, 2, 0, 1, 1]
    assert [placement.is_validation(shard) for shard in range(placement.n_shards)] == [False, False, True]


def test_a_shard_has_its_file() -> None:
    placement = Placement(seed=0, validation_fraction=0.1, train_shards=2, validation_shards=2)
    assert [placement.path_of(shard) for shard in range(4)] == [
        "train/shard-00000.arrow",
        "train/shard-00001.arrow",
        "validation/shard-00000.arrow",
        "validation/shard-00001.arrow",
    ]


def test_the_sides_hold_their_share_and_the_shards_equal_parts() -> None:
    placement = Placement(seed=3, validation_fraction=0.1, train_shards=4, validation_shards=2)
    counts = np.bincount(shards_of_ids(placement, [f"document-{i}" for i in range(20_000)]), minlength=6)
    assert np.all(np.abs(counts[:4] - 4500) < 4 * np.sqrt(4500))
    assert np.all(np.abs(counts[4:] - 1000) < 4 * np.sqrt(1000))


def test_more_documents_and_more_shards_move_nothing_between_the_sides() -> None:
    small = Placement(seed=0, validation_fraction=0.2, train_shards=1, validation_shards=1)
    large = Placement(seed=0, validation_fraction=0.2, train_shards=9, validation_shards=3)
    ids = [f"id-{i}" for i in range(500)]
    held_out = [small.is_validation(shard) for shard in shards_of_ids(small, ids).tolist()]
    assert held_out == [large.is_validation(shard) for shard in shards_of_ids(large, [*ids, "new"])[:500].tolist()]


def test_another_seed_holds_out_others() -> None:
    ids = [f"id-{i}" for i in range(500)]
    one, other = (
        shards_of_ids(Placement(seed=seed, validation_fraction=0.2, train_shards=1, validation_shards=1), ids)
        for seed in (0, 1)
    )
    assert not np.array_equal(one, other)


def test_documents_stand_by_hash_then_id_then_text() -> None:
    hashes = np.array([5, 1, 5, 5], dtype=np.uint64)
    texts = np.array([1, 1, 9, 2], dtype=np.uint64)
    assert order_documents(hashes, ["b", "c", "a", "b"], texts) == [1, 2, 0, 3]
