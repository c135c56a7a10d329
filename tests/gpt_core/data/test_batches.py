"""What a step reads: the seed's order for any number of ranks, mixed, packed and shuffled as the recipe says."""

import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_core.data.batches import Batch, TrainingSamples, ValidationWindows
from gpt_core.data.index import ShardEntry
from gpt_core.data.order import SampleOrder
from gpt_core.data.shard_set import ShardSet
from gpt_core.errors import UserError
from gpt_core.recipe import MixtureSource, Pretrain
from tiny_shards import count_up, open_train, write_shards

T, IGNORED = 8, -100
MIXTURE = {"a": MixtureSource(weight=3), "*": MixtureSource(weight=1, max_epochs=None)}
VARIANTS: dict[str, dict[str, object]] = {
    "windows": {},
    "mixture": {"mixture": MIXTURE},
    "groups": {"shuffle_shards": 2},
    "packed": {"packing": "best_fit"},
    "all": {"mixture": MIXTURE, "shuffle_shards": 2, "packing": "best_fit"},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """103 tokens in three shards: 1, 2, ... with an end-of-text token 0 at the end of each shard."""
    return make_shards(tmp_path_factory.mktemp("shards"), sizes=[40, 33, 30])


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Sources a, b and c of 3, 2 and 1 shards, 90 documents of 1 to 20 ids each; no id but 0 stands there twice."""
    folder = tmp_path_factory.mktemp("sources")
    random, number = np.random.default_rng(0), iter(range(1, 60_000))
    documents = {
        name: [[[next(number) for _ in range(size)] for size in random.integers(0, 20, 90)] for _ in range(count)]
        for name, count in (("a", 3), ("b", 2), ("c", 1))
    }
    return open_train(folder, write_shards(folder, documents))


def make_shards(folder: Path, *, sizes: list[int]) -> ShardSet:
    return open_train(folder, write_shards(folder, {"s": count_up(sizes)}))


def make(shards: ShardSet, **settings_: object) -> TrainingSamples:
    pretrain = Pretrain.model_validate({"batch_sequences": 4, "seed": 1, **settings_})
    return TrainingSamples(shards, T, pretrain, ignored=IGNORED)


def row_of(shards: ShardSet) -> list[int]:
    row: list[int] = shards.gather(np.array([0]), shards.n_tokens)[0].tolist()
    return row


def test_every_id_but_the_first_is_a_target_once_an_epoch(shards: ShardSet) -> None:
    samples = make(shards, batch_sequences=12)
    assert samples.n_sequences == 12  # 12 x 8 + 1 = 97 of 103
    assert samples.unused_tokens == 6
    epoch = samples.batch(0)
    assert epoch.ids.shape == (12, 9)
    assert epoch.ids.dtype == np.int64
    row = row_of(shards)
    assert sorted(epoch.ids.tolist()) == sorted(row[8 * i : 8 * i + 9] for i in range(12))
    assert epoch.targets.tolist() == epoch.ids[:, 1:].tolist()
    assert epoch.positions is None
    assert samples.n_targets(5) == 96


def test_the_bytes_shuffled_together_are_those_of_the_largest_groups(sources: ShardSet) -> None:
    sizes = {entry.path: 10**number for number, entry in enumerate(sources.entries)}  # a: 1, 10, 100; b: 1000, ...
    assert make(sources).bytes_together(sizes) == 111_111
    assert make(sources, shuffle_shards=2).bytes_together(sizes) == 110_000
    mixed = {"a": MixtureSource(weight=3), "b": MixtureSource(weight=1), "c": MixtureSource(weight=0)}
    assert make(sources, mixture=mixed).bytes_together(sizes) == 11_111
    assert make(sources, mixture=mixed, shuffle_shards=2).bytes_together(sizes) == 100 + 11_000
    assert make(sources, mixture=mixed, shuffle_shards=1).bytes_together(sizes) == 100 + 10_000


def test_windows_come_in_the_order_of_the_seed(shards: ShardSet) -> None:
    windows = SampleOrder(12, seed=5).take(np.arange(30)) * 8
    assert make(shards, seed=5).take(np.arange(30)).ids.tolist() == shards.gather(windows, 9).tolist()


@settings(max_examples=30)
@given(
    variant=st.sampled_from(sorted(VARIANTS)),
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 2**40),
    world_size=st.sampled_from([1, 2, 3, 4, 8]),
    micro=st.integers(1, 24),
)
def test_the_global_order_is_the_same_for_any_ranks_micro_batches_and_restarts(
    sources: ShardSet, variant: str, seed: int, step: int, world_size: int, micro: int
) -> None:
    one, other = (make(sources, batch_sequences=24, seed=seed, **VARIANTS[variant]) for _ in range(2))
    whole = one.take(np.arange(step * 24, (step + 2) * 24), positions=True)  # two steps at once
    parts = []
    for now in (step, step + 1):
        for rank in range(world_size):
            batch = other.batch(now, rank=rank, world_size=world_size, positions=True)
            assert batch.positions is not None
            slices = [slice(start, start + micro) for start in range(0, len(batch.ids), micro)]
            parts += [(batch.ids[part], batch.targets[part], batch.positions[part]) for part in slices]
        targets = [part[1] for part in parts]
        assert one.n_targets(now) == np.count_nonzero(np.concatenate(targets)[-24:] != IGNORED)
    found = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
    for expected, got in zip((whole.ids, whole.targets, whole.positions), found, strict=True):
        assert np.array_equal(expected, got)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_an_epoch_has_every_sequence_once(sources: ShardSet, variant: str) -> None:
    samples = make(sources, **{**VARIANTS[variant], "mixture": None})
    n = samples.n_sequences
    epochs = [sorted(samples.take(np.arange(e * n, (e + 1) * n)).ids.tolist()) for e in range(2)]
    assert epochs[0] == epochs[1]
    assert len({tuple(ids) for ids in epochs[0]}) > 0.98 * n  # those of empty documents alone are alike
    if variant == "packed":
        assert samples.unused_tokens == 0
        ids = np.concatenate([np.array(row) for row in epochs[0]])
        assert set(ids.tolist()) == set(row_of(sources))


def source_of(sources: ShardSet, batch: Batch) -> list[str]:
    """The source of each sequence, by its ids other than 0: they are numbered through."""
    ends = [int(sources.gather(sources.borders[[end]] - 40, 40).max()) for end in (3, 5, 6)]
    return [["a", "b", "c"][int(np.searchsorted(ends, row.max()))] for row in batch.ids]


@pytest.mark.parametrize("packing", ["windows", "best_fit"])
def test_a_mixture_has_its_shares_and_each_source_its_own_epochs(sources: ShardSet, packing: str) -> None:
    samples = make(sources, mixture=MIXTURE, packing=packing)
    names = [row.name for row in samples.rows]
    assert names == ["*", "a"]
    found = source_of(sources, samples.take(np.arange(400)))
    assert found.count("a") == 300
    assert samples.count_sequences(400) == {"*": 100, "a": 300}
    rest, a = (row.order.n_samples for row in samples.rows)
    wanted = a + (a - 1) // 3 + 1
    batch = samples.take(np.arange(wanted))
    mine = [tuple(ids) for ids, name in zip(batch.ids.tolist(), source_of(sources, batch), strict=True) if name == "a"]
    assert len(set(mine[:a])) == len(mine[:a]) == a
    assert rest + a == samples.n_sequences


def test_a_window_of_a_mixture_holds_one_source(sources: ShardSet) -> None:
    samples = make(sources, mixture={name: MixtureSource(weight=1) for name in "abc"})
    ids = samples.take(np.arange(300)).ids
    for low, high in ((0, 3), (3, 5), (5, 6)):
        own = sources.gather(sources.borders[[low]], int(sources.borders[high] - sources.borders[low]))
        assert np.count_nonzero(np.all(np.isin(ids, own), axis=1)) == 100


def test_what_a_source_reads_does_not_depend_on_the_others(sources: ShardSet) -> None:
    one = make(sources, mixture={"a": MixtureSource(weight=1), "*": MixtureSource(weight=0)})
    other = make(
        sources, mixture={"a": MixtureSource(weight=1), "b": MixtureSource(weight=1), "c": MixtureSource(weight=0)}
    )
    batch = other.take(np.arange(100))
    mine = [ids for ids, name in zip(batch.ids.tolist(), source_of(sources, batch), strict=True) if name == "a"]
    assert mine == one.take(np.arange(50)).ids.tolist()


def test_a_group_of_shards_is_left_when_it_is_read(sources: ShardSet) -> None:
    samples = make(sources, shuffle_shards=2)
    n = samples.n_sequences
    starts = [samples.take(np.array([i])).ids[0] for i in range(n)]
    groups = [
        sources.gather(sources.borders[[low]], int(sources.borders[low + 2] - sources.borders[low]))
        for low in (0, 2, 4)
    ]
    seen = [next(g for g, ids in enumerate(groups) if np.isin(row[row > 0][0], ids)) for row in starts]
    assert np.count_nonzero(np.diff(seen)) == 2
    assert sorted(set(seen)) == [0, 1, 2]


def test_groups_bound_the_shards_that_are_mapped(tmp_path: Path) -> None:
    located: list[str] = []
    index = write_shards(tmp_path, {"s": count_up([100] * 12)})

    def locate(entry: ShardEntry) -> AbstractContextManager[Path]:
        located.append(entry.path)
        return nullcontext(tmp_path / entry.path)

    shards = ShardSet(index.train, index.metadata, locate=locate, max_open=4)
    samples = make(shards, shuffle_shards=3)
    for number in range(samples.n_sequences):
        samples.take(np.array([number]))
    assert len(located) <= 12 + 3  # each once, and the neighbour that a group's last window reaches into
    shards = ShardSet(index.train, index.metadata, locate=locate, max_open=4)
    del located[:]
    samples = make(shards)
    for number in range(samples.n_sequences):
        samples.take(np.array([number]))
    assert len(located) > 60


def test_positions_begin_anew_behind_every_end_of_text(sources: ShardSet) -> None:
    for variant in ("windows", "packed"):
        batch = make(sources, **VARIANTS[variant]).take(np.arange(200), positions=True)
        assert batch.positions is not None
        assert (batch.positions.dtype, batch.positions.shape) == (np.int32, (200, T))
        for ids, positions in zip(batch.ids.tolist(), batch.positions.tolist(), strict=True):
            position = 0
            for token, found in zip(ids, positions, strict=False):
                assert found == position
                position = 0 if token == 0 else position + 1


def test_a_steps_batch_does_not_depend_on_the_steps_before(shards: ShardSet) -> None:
    one, other = make(shards), make(shards)
    for step in range(5):
        one.batch(step)
    assert np.array_equal(one.batch(5).ids, other.batch(5).ids)


def test_numbers_beyond_an_epoch_begin_a_fresh_one(shards: ShardSet) -> None:
    epochs = make(shards, seed=3).take(np.arange(24)).ids.tolist()  # 2 epochs of 12
    assert sorted(epochs[:12]) == sorted(epochs[12:])
    assert epochs[:12] != epochs[12:]


def test_the_seed_decides_the_order(shards: ShardSet) -> None:
    batches = [make(shards, seed=seed).take(np.arange(12)).ids.tolist() for seed in (1, 1, 2)]
    assert batches[0] == batches[1] != batches[2]


@pytest.mark.parametrize(("rank", "world_size"), [(0, 3), (2, 2), (-1, 2)])
def test_unequal_parts_are_refused(shards: ShardSet, rank: int, world_size: int) -> None:
    with pytest.raises(ValueError, match="has no equal part"):
        make(shards, batch_sequences=8).batch(0, rank=rank, world_size=world_size)


def test_exactly_one_window_suffices(tmp_path: Path) -> None:
    samples = make(make_shards(tmp_path, sizes=[9]), batch_sequences=2)
    assert (samples.n_sequences, samples.unused_tokens) == (1, 0)
    assert samples.batch(7).ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 0]] * 2


def test_too_few_tokens_name_the_field(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, sizes=[8])
    with pytest.raises(UserError, match=r"^model\.context_length=8 exceeds the 8 train tokens; lower it, or add"):
        make(shards)
    with pytest.raises(UserError, match=r"^pretrain\.mixture\.s: model\.context_length=8 exceeds the 8 train tokens"):
        make(shards, mixture={"s": MixtureSource(weight=1)})
    with pytest.raises(UserError, match=r"the 8 validation tokens; lower it, or raise shards\.validation_fraction"):
        ValidationWindows(shards, T, max_tokens=100)


def test_a_step_that_sees_a_sequence_twice_is_refused(shards: ShardSet, sources: ShardSet) -> None:
    make(shards, batch_sequences=12).require(100)
    with pytest.raises(
        UserError,
        match=r"pretrain\.batch_sequences=13 exceeds the 12 sequences of model\.context_length=8 in 103 train tokens; "
        r"lower one of the two, or add to corpus\.inputs",
    ):
        make(shards, batch_sequences=13).require(1)
    mixture = {name: MixtureSource(weight=1, max_epochs=None) for name in "abc"}
    with pytest.raises(UserError, match=r"exceeds the \d+ sequences of .* train tokens of pretrain\.mixture\.c; lower"):
        make(sources, batch_sequences=600, mixture=mixture).require(1)


def test_a_source_that_would_be_repeated_too_often_is_refused(sources: ShardSet) -> None:
    samples = make(sources, mixture=MIXTURE)
    a = samples.rows[1].order.n_samples
    steps = 4 * a // 3  # 4 sequences a step, 3 of them of a
    samples.require(steps)
    with pytest.raises(UserError, match=r"pretrain\.mixture\.a\.weight=3 takes .* more than max_epochs=4"):
        samples.require(steps + 1)


def test_the_log_says_what_is_read(shards: ShardSet, sources: ShardSet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gptmill")
    make(shards).tell(6)
    make(sources, mixture=MIXTURE, packing="best_fit").tell(100)
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "all sources: 100.0 % of the training, 2.00 epochs of 103 tokens"
    assert told[1] == "6 train tokens behind the last whole window are not used"
    assert told[2].startswith("*: 25.0 % of the training, 0.")
    assert told[3].startswith("a: 75.0 % of the training, ")
    assert "packed sequences, " in told[4]
    assert len(told) == 5


def test_validation_reads_in_order_and_evenly_within_its_budget(shards: ShardSet) -> None:
    row = row_of(shards)
    expected = [row[8 * i : 8 * i + 9] for i in range(12)]
    windows = ValidationWindows(shards, T)
    assert len(windows) == 12
    assert windows.take(range(12)).tolist() == expected
    assert windows.take(range(3, 5)).tolist() == expected[3:5]
    assert windows.take([]).shape == (0, 9)
    assert windows.take(range(12)).dtype == np.int64
    few = ValidationWindows(shards, T, max_tokens=39)
    assert few.take(range(len(few))).tolist() == [expected[i] for i in (0, 3, 6, 9)]
    one = ValidationWindows(shards, T, max_tokens=3)
    assert one.take(range(len(one))).tolist() == expected[:1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_stretches_of_a_sample_are_where_its_ids_stand(sources: ShardSet, variant: str) -> None:
    samples = make(sources, **VARIANTS[variant])
    numbers = [0, 1, 7, samples.n_sequences + 3]
    for number, ids in zip(numbers, samples.take(np.array(numbers)).ids.tolist(), strict=True):
        found = [
            token
            for start, stop in samples.stretches(number)
            for token in samples.shards.gather(np.array([start]), stop - start)[0].tolist()
        ]
        assert ids == found + [0] * (T + 1 - len(found))
        assert found
