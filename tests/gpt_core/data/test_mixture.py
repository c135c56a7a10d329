"""A mixture keeps its shares in every prefix, needs no state, and is refused where it does not fit the shards."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_core.data.index import ShardEntry
from gpt_core.data.mixture import PERIOD, Component, Interleaving, require_epochs, resolve_mixture, share_out
from gpt_core.errors import UserError
from gpt_core.recipe import MIN_MIXTURE_SHARE, MixtureSource

ENTRIES = [ShardEntry(f"train/{source}/{n}.arrow", source, 1, 10) for source in ("a", "b", "c") for n in (0, 1)]
SHARED = [ShardEntry("train/other/0.arrow", "", 1, 10), *ENTRIES]
WEIGHTS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12).filter(
    lambda weights: min(weights) >= MIN_MIXTURE_SHARE * sum(weights)
)


def weigh(**weights: float) -> dict[str, MixtureSource]:
    return {name.replace("others", "*"): MixtureSource(weight=weight) for name, weight in weights.items()}


@settings(max_examples=20)
@given(weights=WEIGHTS, data=st.data())
def test_every_prefix_has_its_shares(weights: list[float], data: st.DataObject) -> None:
    interleaving = Interleaving(weights)
    shares = np.array(weights) / sum(weights)
    sources, _ = interleaving.take(np.arange(PERIOD, dtype=np.int64))
    n = np.arange(1, PERIOD + 1)
    for source in range(len(weights)):
        assert np.all(np.abs(np.cumsum(sources == source) * PERIOD - interleaving.counts[source] * n) < PERIOD)
        expected = shares[source] * n
        allowed = np.maximum(0.01 * expected, 2)
        assert np.all(np.abs(np.cumsum(sources == source) - expected) <= allowed)
    far = data.draw(st.integers(0, 2**50))
    counts = interleaving.count(far)
    assert sum(counts) == far
    assert np.all(np.abs(counts - shares * far) <= np.maximum(0.01 * shares * far, 2))


@settings(max_examples=20)
@given(weights=WEIGHTS, start=st.integers(0, 2**40))
def test_each_sources_numbers_count_up_without_a_gap_from_anywhere(weights: list[float], start: int) -> None:
    interleaving = Interleaving(weights)
    sources, numbers = interleaving.take(np.arange(start, start + 3000))
    before, behind = interleaving.count(start), interleaving.count(start + 3000)
    for source in range(len(weights)):
        assert numbers[sources == source].tolist() == list(range(before[source], behind[source]))


def test_three_to_one_by_hand() -> None:
    sources, numbers = Interleaving([3, 1]).take(np.arange(8))
    assert sources.tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    assert numbers.tolist() == [0, 1, 2, 0, 3, 4, 5, 1]


def test_places_are_shared_out_by_the_largest_remainder() -> None:
    assert share_out([1, 1, 1]).tolist() == [349_526, 349_525, 349_525]
    assert share_out([2.0]).tolist() == [PERIOD]


def test_the_least_weight_that_the_recipe_allows_is_held() -> None:
    counts = share_out([MIN_MIXTURE_SHARE, 1 - MIN_MIXTURE_SHARE])
    assert counts[0] / PERIOD == pytest.approx(MIN_MIXTURE_SHARE, rel=0.005)


def test_components_stand_by_name_with_their_shards() -> None:
    found = resolve_mixture(weigh(others=1, b=2), ENTRIES)
    assert [(part.name, part.shards) for part in found] == [("*", (0, 1, 4, 5)), ("b", (2, 3))]


def test_weight_0_leaves_a_source_out() -> None:
    assert [part.name for part in resolve_mixture(weigh(a=1, b=0, c=3), ENTRIES)] == ["a", "c"]
    assert [part.shards for part in resolve_mixture(weigh(a=1, others=0), ENTRIES)] == [(0, 1)]


def test_small_sources_that_share_shards_are_among_all_others() -> None:
    (_, others) = resolve_mixture(weigh(a=1, b=0, c=0, others=1), SHARED)[::-1]
    assert others.shards == (0,)


@pytest.mark.parametrize(
    ("mixture", "entries", "message"),
    [
        (weigh(d=1, others=1), ENTRIES, r"pretrain\.mixture\.d: no train shard is of this source; there are: a, b, c$"),
        (
            weigh(d=1, others=1),
            SHARED,
            r"there are: small sources in shared shards \(only '\*' stands for them\), a",
        ),
        (weigh(b=1), ENTRIES, r"pretrain\.mixture: has no key for a, c; name every source, with weight 0 to leave it"),
        (weigh(a=1, b=1, c=1), SHARED, r"has no key for small sources in shared shards .*, or add '\*' for all others"),
        (
            weigh(a=1, b=1, c=1, others=1),
            ENTRIES,
            r"pretrain\.mixture\.\*: every source of the shards has a key",
        ),
    ],
)
def test_keys_and_sources_must_match(
    mixture: dict[str, MixtureSource], entries: list[ShardEntry], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        resolve_mixture(mixture, entries)


def test_more_epochs_than_allowed_are_refused_with_the_numbers() -> None:
    part = Component("a", MixtureSource(weight=3), (0,))
    require_epochs(part, samples=400, of=100, total=1000)
    with pytest.raises(
        UserError,
        match=r"pretrain\.mixture\.a\.weight=3 takes 500 of 1000 sequences, 5\.0 epochs of the 100 that the shards "
        r"have of it, more than max_epochs=4; lower the weight to 80% of that, lower pretrain\.tokens, raise max_epo",
    ):
        require_epochs(part, samples=500, of=100, total=1000)
    require_epochs(Component("a", MixtureSource(weight=3, max_epochs=None), (0,)), samples=500, of=1, total=1000)


def test_a_sources_seed_is_that_of_its_name() -> None:
    one, other = Component("a", MixtureSource(weight=3), (0,)), Component("a", MixtureSource(weight=1), (4,))
    assert one.seed(7) == other.seed(7) != one.seed(8)
    assert one.seed(7) != Component("b", MixtureSource(weight=3), (0,)).seed(7)
