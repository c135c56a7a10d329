"""The order of samples is a bijection that looks drawn at random and needs no memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.data.order import GroupedOrder, SampleOrder, derive_seed


@given(n=st.integers(1, 5000), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 2**20))
def test_every_epoch_has_every_window_once(n: int, seed: int, epoch: int) -> None:
    windows = SampleOrder(n, seed).take(np.arange(epoch * n, (epoch + 1) * n))
    assert windows.dtype == np.int64
    assert np.array_equal(np.sort(windows), np.arange(n))


@pytest.mark.parametrize("n", range(1, 70))
def test_every_small_size_is_a_bijection(n: int) -> None:
    assert sorted(SampleOrder(n, 0).take(np.arange(n)).tolist()) == list(range(n))


def test_the_order_never_changes_between_versions() -> None:
    assert SampleOrder(10, 0).take(np.arange(20)).tolist() == [
        8,
        1,
        4,
        9,
        3,
        2,
        7,
        5,
        0,
        6,
        4,
        0,
        3,
        8,
        5,
        1,
        7,
        6,
        9,
        2,
    ]


@given(n=st.integers(1, 2**62), seed=st.integers(0, 2**63 - 1), numbers=st.lists(st.integers(0, 2**62), max_size=20))
def test_a_number_gives_the_same_window_alone_and_among_others(n: int, seed: int, numbers: list[int]) -> None:
    order = SampleOrder(n, seed)
    taken = order.take(np.array(numbers, dtype=np.int64))
    assert taken.tolist() == [order.take(np.array([number]))[0] for number in numbers]
    assert all(0 <= window < n for window in taken.tolist())


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    n = 1000
    orders = [SampleOrder(n, seed).take(np.arange(n) + epoch * n) for seed in (0, 1, 2**62) for epoch in (0, 1, 2)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            agreements = np.count_nonzero(one == other)  # 1 is expected of random permutations
            assert agreements < 8
            assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(n)


@pytest.mark.parametrize("n", [999, 1000, 4096, 5003])
def test_place_and_window_are_not_correlated(n: int) -> None:
    for seed in range(10):
        windows = SampleOrder(n, seed).take(np.arange(n))
        assert abs(np.corrcoef(np.arange(n), windows)[0, 1]) < 4 / np.sqrt(n)
        assert abs(np.corrcoef(windows[:-1], windows[1:])[0, 1]) < 4 / np.sqrt(n)


@pytest.mark.parametrize("n", [3, 4, 5, 7, 16, 37])
def test_every_window_is_as_likely_in_every_place(n: int) -> None:
    trials = 4000
    numbers = np.arange(n * trials)  # place i of epoch e
    windows = SampleOrder(n, 11).take(numbers)
    observed = np.zeros((n, n))
    np.add.at(observed, (numbers % n, windows), 1)
    expected = trials / n
    # rows and columns both sum to `trials`, hence the factor (n - 1) / n to a chi-square of (n - 1)^2 degrees
    chi_square = float(np.sum((observed - expected) ** 2 / expected)) * (n - 1) / n
    freedom = (n - 1) ** 2
    assert abs(chi_square - freedom) < 4 * np.sqrt(2 * freedom)


def test_a_billion_samples_need_no_memory() -> None:
    windows = SampleOrder(10**12, 5).take(np.arange(10**11, 10**11 + 10_000))
    assert len(np.unique(windows)) == 10_000
    counts, _ = np.histogram(windows, bins=10, range=(0, 10**12))
    assert np.all(np.abs(counts - 1000) < 4 * np.sqrt(1000))


def test_senseless_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="n_samples=0 must be at least 1"):
        SampleOrder(0, 0)
    with pytest.raises(ValueError, match="sample number -1 is negative"):
        SampleOrder(5, 0).take(np.array([2, -1]))


SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)


@given(sizes=SIZES, seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 2**40))
def test_groups_come_one_after_the_other_each_whole(sizes: list[int], seed: int, epoch: int) -> None:
    n = sum(sizes)
    samples = GroupedOrder(sizes, seed).take(np.arange(epoch * n, (epoch + 1) * n))
    assert np.array_equal(np.sort(samples), np.arange(n))
    groups = np.searchsorted(np.cumsum(sizes), samples, side="right")
    assert np.count_nonzero(np.diff(groups)) == np.count_nonzero(sizes) - 1


@given(sizes=SIZES, seed=st.integers(0, 2**64 - 1), numbers=st.lists(st.integers(0, 2**50), max_size=20))
def test_a_number_gives_the_same_sample_of_groups_alone_and_among_others(
    sizes: list[int], seed: int, numbers: list[int]
) -> None:
    taken = GroupedOrder(sizes, seed).take(np.array(numbers, dtype=np.int64)).tolist()
    assert taken == [GroupedOrder(sizes, seed).take(np.array([number]))[0] for number in numbers]


def test_groups_and_what_is_in_them_have_fresh_orders_every_epoch() -> None:
    order = GroupedOrder([50] * 20, seed=3)
    epochs = order.take(np.arange(4 * 1000)).reshape(4, 20, 50)
    arrangements = [tuple(epoch[:, 0] // 50) for epoch in epochs]
    assert len(set(arrangements)) == 4
    within = {tuple(turn % 50) for epoch in epochs for turn in epoch}
    assert len(within) == 80  # no two groups, and no group in two epochs, have one order


def test_one_group_is_as_good_as_none_but_for_its_seed() -> None:
    numbers = np.arange(30)
    assert np.array_equal(GroupedOrder([10], 5).take(numbers), SampleOrder(10, derive_seed(5, 1)).take(numbers))


def test_the_order_of_groups_never_changes_between_versions() -> None:
    assert GroupedOrder([3, 0, 4, 2], 0).take(np.arange(18)).tolist() == [
        8,
        7,
        2,
        0,
        1,
        6,
        5,
        3,
        4,
        0,
        1,
        2,
        8,
        7,
        5,
        6,
        3,
        4,
    ]


def test_groups_without_a_sample_are_refused() -> None:
    with pytest.raises(ValueError, match="have no sample"):
        GroupedOrder([0, 0], 0)
    with pytest.raises(ValueError, match="sample number -2 is negative"):
        GroupedOrder([2], 0).take(np.array([-2]))
