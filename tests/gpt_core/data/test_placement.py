"""A document's source, its id and the seed alone decide where it goes."""

import numpy as np
import pyarrow as pa
import pytest

from gpt_core.data.placement import MOST_SOURCES, REST, Placement, SourceShards, folder_of
from gpt_core.data.runs import order_documents
from gpt_core.errors import ArtifactError
from gpt_core.recipe import Shards
from gpt_core.tokenizer.documents import hash_strings


def make_placement(train: int, validation: int, *, fraction: float = 0.2, seed: int = 0) -> Placement:
    return Placement(seed, fraction, (SourceShards("s", train, validation),))


def shards_of_ids(placement: Placement, ids: list[str], source: str = "s") -> np.ndarray:
    return placement.shards_of(hash_strings(pa.array(ids), seed=placement.seed), pa.array([source] * len(ids)))


def test_the_shards_of_a_source_follow_its_text_and_are_at_least_one_a_side() -> None:
    shards = Shards(validation_fraction=0.25, shard_text_bytes=1_000_000)
    placement = Placement.from_recipe(shards, text_bytes={"c": 8_000_002, "a": 1, "b": 8_000_000})
    assert placement.sources == (SourceShards("a", 1, 1), SourceShards("b", 6, 2), SourceShards("c", 7, 3))


def test_the_smallest_of_many_sources_share_shards() -> None:
    text_bytes = {f"source-{i:03d}": 1_000_000 * (i + 1) for i in range(MOST_SOURCES + 2)}
    placement = Placement.from_recipe(
        Shards(shard_text_bytes=1_000_000, validation_fraction=0.4), text_bytes=text_bytes
    )
    assert len(placement.sources) == MOST_SOURCES + 1
    assert placement.sources[0] == SourceShards(REST, 2, 2)  # the 3 MB of the two smallest
    names = [placement.source_of(int(shards_of_ids(placement, ["id"], name)[0])) for name in text_bytes]
    assert names == [REST, REST, *list(text_bytes)[2:]]


def test_a_hash_below_the_fraction_is_held_out() -> None:
    placement = make_placement(2, 1, fraction=0.25)
    quarter = 2**62
    hashes = np.array([0, quarter - 1, quarter, quarter | (2**32 - 1), 2**64 - 1], dtype=np.uint64)
    assert placement.shards_of(hashes, pa.array(["s"] * 5)).tolist() == [2, 2, 0, 1, 1]
    assert [placement.is_validation(shard) for shard in range(3)] == [False, False, True]


def test_a_shard_has_its_file_and_its_source() -> None:
    placement = Placement(0, 0.1, (SourceShards("", 1, 1), SourceShards("Web pages", 2, 1), SourceShards("b", 1, 2)))
    assert [placement.path_of(shard) for shard in range(8)] == [
        "train/_others/shard-00000.arrow",
        "train/_web-pages-42bd5dd1/shard-00000.arrow",
        "train/_web-pages-42bd5dd1/shard-00001.arrow",
        "train/b/shard-00000.arrow",
        "validation/_others/shard-00000.arrow",
        "validation/_web-pages-42bd5dd1/shard-00000.arrow",
        "validation/b/shard-00000.arrow",
        "validation/b/shard-00001.arrow",
    ]
    sources = ["", "Web pages", "Web pages", "b", "", "Web pages", "b", "b"]
    assert [placement.source_of(shard) for shard in range(8)] == sources
    hashes = np.array([2**64 - 1, 0, 2**64 - 1, 0], dtype=np.uint64)
    assert placement.shards_of(hashes, pa.array(["Web pages", "Web pages", "unheard of", "b"])).tolist() == [2, 5, 0, 6]


def test_a_source_without_shards_is_refused() -> None:
    with pytest.raises(ValueError, match="source 'other' has no shards"):
        shards_of_ids(make_placement(1, 1), ["id"], "other")


@pytest.mark.parametrize("source", ["../up", "a/b", "A", ".hidden", "x" * 64, "caf\u00e9", "_others", "con fig"])
def test_a_name_that_is_no_plain_folder_becomes_one_of_its_own(source: str) -> None:
    folder = folder_of(source)
    assert folder.startswith("_")
    assert folder.isascii()
    assert "/" not in folder
    assert folder != folder_of(source + "?")
    assert folder_of("c4-v1.2_en") == "c4-v1.2_en"


def test_the_sides_hold_their_share_and_the_shards_equal_parts() -> None:
    placement = make_placement(4, 2, fraction=0.1, seed=3)
    counts = np.bincount(shards_of_ids(placement, [f"document-{i}" for i in range(20_000)]), minlength=6)
    assert np.all(np.abs(counts[:4] - 4500) < 4 * np.sqrt(4500))
    assert np.all(np.abs(counts[4:] - 1000) < 4 * np.sqrt(1000))


def test_more_documents_and_more_shards_move_nothing_between_the_sides() -> None:
    small, large = make_placement(1, 1), make_placement(9, 3)
    ids = [f"id-{i}" for i in range(500)]
    held_out = [small.is_validation(shard) for shard in shards_of_ids(small, ids).tolist()]
    assert held_out == [large.is_validation(shard) for shard in shards_of_ids(large, [*ids, "new"])[:500].tolist()]


def test_another_seed_holds_out_others() -> None:
    ids = [f"id-{i}" for i in range(500)]
    one, other = (shards_of_ids(make_placement(1, 1, seed=seed), ids) for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_documents_stand_by_hash_then_id() -> None:
    hashes = np.array([5, 1, 5, 0], dtype=np.uint64)
    assert order_documents(hashes, pa.array(["b", "c", "a", "d"])).tolist() == [3, 1, 2, 0]


def test_two_documents_of_one_id_are_refused() -> None:
    with pytest.raises(ArtifactError, match="two documents have the id 'a'; run the stage dedup again"):
        order_documents(np.array([5, 1, 5], dtype=np.uint64), pa.array(["a", "c", "a"]))
