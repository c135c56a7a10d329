"""Windows cover the tokens; their order is that of the seed for any number of ranks."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.data.batches import TrainingWindows, validation_windows
from gpt_core.data.shard_set import ShardSet
from gpt_core.errors import UserError
from tiny_shards import count_up, open_train, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """103 tokens in three shards: 1, 2, ... with an end-of-text token 0 at the end of each shard."""
    return make_shards(tmp_path_factory.mktemp("shards"), sizes=[40, 33, 30])


def make_shards(folder: Path, *, sizes: list[int]) -> ShardSet:
    return open_train(folder, write_shards(folder, {"s": count_up(sizes)}))


def test_every_id_but_the_first_is_a_target_once_an_epoch(shards: ShardSet) -> None:
    windows = TrainingWindows(shards, 8, seed=1)
    assert windows.n_samples == 12  # 12 x 8 + 1 = 97 of 103
    assert windows.unused_tokens == 6
    epoch = windows.batch(0, batch_sequences=12)
    assert epoch.shape == (12, 9)
    assert epoch.dtype == np.int64
    row = shards.gather(np.array([0]), 103)[0].tolist()
    assert sorted(epoch.tolist()) == sorted(row[8 * i : 8 * i + 9] for i in range(12))


@given(
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 10_000),
    world_size=st.sampled_from([1, 2, 4, 8]),
    share=st.integers(1, 4),
)
def test_the_global_order_is_the_same_for_any_number_of_ranks(
    shards: ShardSet, seed: int, step: int, world_size: int, share: int
) -> None:
    windows, batch_sequences = TrainingWindows(shards, 8, seed=seed), 8 * share
    parts = [
        windows.batch(step, batch_sequences=batch_sequences, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert np.array_equal(np.concatenate(parts), windows.batch(step, batch_sequences=batch_sequences))


def test_a_steps_batch_does_not_depend_on_the_steps_before(shards: ShardSet) -> None:
    one, other = TrainingWindows(shards, 8, seed=3), TrainingWindows(shards, 8, seed=3)
    for step in range(5):
        one.batch(step, batch_sequences=4)
    assert np.array_equal(one.batch(5, batch_sequences=4), other.batch(5, batch_sequences=4))


def test_numbers_beyond_an_epoch_begin_a_fresh_one(shards: ShardSet) -> None:
    windows = TrainingWindows(shards, 8, seed=3)
    epochs = np.concatenate([windows.batch(step, batch_sequences=8) for step in range(3)])  # 24 = 2 epochs of 12
    first, second = epochs[:12].tolist(), epochs[12:].tolist()
    assert sorted(first) == sorted(second)
    assert first != second


def test_the_seed_decides_the_order(shards: ShardSet) -> None:
    batches = [TrainingWindows(shards, 8, seed=seed).batch(0, batch_sequences=12).tolist() for seed in (1, 1, 2)]
    assert batches[0] == batches[1] != batches[2]


@pytest.mark.parametrize(("rank", "world_size"), [(0, 3), (2, 2), (-1, 2)])
def test_unequal_parts_are_refused(shards: ShardSet, rank: int, world_size: int) -> None:
    with pytest.raises(ValueError, match="has no equal part"):
        TrainingWindows(shards, 8, seed=0).batch(0, batch_sequences=8, rank=rank, world_size=world_size)


def test_validation_reads_in_order_up_to_its_budget(shards: ShardSet) -> None:
    row = shards.gather(np.array([0]), 103)[0].tolist()
    expected = [row[8 * i : 8 * i + 9] for i in range(12)]
    found = list(validation_windows(shards, 8))
    assert [window.tolist() for window in found] == expected
    assert {window.dtype for window in found} == {np.dtype(np.int64)}
    assert [window.tolist() for window in validation_windows(shards, 8, 39)] == expected[:4]
    assert [window.tolist() for window in validation_windows(shards, 8, 3)] == expected[:1]


def test_exactly_one_window_suffices(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, sizes=[9])
    windows = TrainingWindows(shards, 8, seed=0)
    assert (windows.n_samples, windows.unused_tokens) == (1, 0)
    assert windows.batch(7, batch_sequences=2).tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 0]] * 2


def test_too_few_tokens_name_the_field(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, sizes=[8])
    with pytest.raises(UserError, match=r"model\.context_length=8 exceeds the 8 train tokens; lower it, or add"):
        TrainingWindows(shards, 8, seed=0)
    with pytest.raises(UserError, match=r"the 8 validation tokens; lower it, or raise shards\.validation_fraction"):
        validation_windows(shards, 8, 100)
