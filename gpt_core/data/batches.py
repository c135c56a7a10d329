"""Sequences of T + 1 token ids for training and validation: T inputs and, shifted by one, their T targets.

`windows`: the ids of all shards, or of one source of the mixture, stand in a row; window w is the T + 1 ids from w T
on, so that neighbours share one id and every id but the first is a target once an epoch. What is left behind the last
whole window, fewer than T + 1 ids, is not used. `best_fit`: gpt_core/data/packing.py.

Which sequence a sample number gets depends on the shards, the seed and the recipe alone: not on ranks, micro-batches,
workers or restarts. The only state is the step.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpt_core.data.gather import fill_positions
from gpt_core.data.mixture import Component, Interleaving, require_epochs, resolve_mixture
from gpt_core.data.order import GroupedOrder, Order, SampleOrder
from gpt_core.data.packing import Sequences, join, pack_documents
from gpt_core.data.shard_set import ShardSet
from gpt_core.errors import UserError
from gpt_core.recipe import OTHERS, MixtureSource, Pretrain

Numbers = npt.NDArray[np.int64]

logger = logging.getLogger("gptmill")


@dataclass(frozen=True)
class Batch:
    """B sequences. `targets` is the id behind each input, or `ignored` where it counts nothing.

    `positions`: of each input in its document, as far as the sequence shows it; 0 at its start and behind every
    end-of-text token. They restart at every document of a packed sequence; padding has 0.
    """

    ids: npt.NDArray[np.int64]  # (B, T + 1)
    targets: npt.NDArray[np.int64]  # (B, T)
    positions: npt.NDArray[np.int32] | None  # (B, T)


@dataclass(frozen=True)
class Row:
    """The sequences of one source, or of all."""

    name: str
    first: int  # windows: the token where the row begins; best_fit: the number of its first sequence
    n_tokens: int
    order: Order


class TrainingSamples:
    """Sample number -> T + 1 ids, as `settings` mixes, packs and shuffles the train shards.

    A target that counts nothing is `ignored`. Nothing is stored but, with best_fit, where documents stand. Raises
    UserError for a mixture that does not fit the shards, and for a source that has less than one window.
    """

    def __init__(self, shards: ShardSet, context_length: int, settings: Pretrain, *, ignored: int) -> None:
        self.context_length = context_length
        self.batch_sequences = settings.batch_sequences
        self._shuffle_shards = settings.shuffle_shards
        self._ignored = ignored
        self._components = _components(shards, settings)
        self.shards = shards.choose(number for part in self._components for number in part.shards)
        self._interleaving = None
        if len(self._components) > 1:
            self._interleaving = Interleaving([part.settings.weight for part in self._components])
        packed: list[Sequences] = []
        self.rows = self._make_rows(settings, packed)
        self._packed = join(packed) if packed else None
        self.n_sequences = sum(row.order.n_samples for row in self.rows)

    def _make_rows(self, settings: Pretrain, packed: list[Sequences]) -> list[Row]:
        """The rows of all components; with best_fit, `packed` has the sequences of every group of shards."""
        rows: list[Row] = []
        shard = 0
        for part in self._components:
            numbers = range(shard, shard := shard + len(part.shards))
            groups = self._groups(numbers)
            begin, end = self.shards.borders[[numbers.start, numbers.stop]].tolist()
            seed = settings.seed
            field = ""
            if settings.mixture is not None:
                seed, field = part.seed(seed), f"pretrain.mixture.{part.name}: "
            if settings.packing == "best_fit":
                first = sum(map(len, packed))
                packed += [pack_documents(self.shards, group, width=self.context_length + 1) for group in groups]
                sizes = [len(sequences) for sequences in packed[-len(groups) :]]
            else:
                first = begin
                count = count_windows(end - begin, self.context_length, side="train", field=field)
                starts = self.shards.borders[[group.start for group in groups]] - begin
                sizes = np.diff(np.minimum([*-(-starts // self.context_length), count], count)).tolist()
            order = GroupedOrder(sizes, seed) if settings.shuffle_shards else SampleOrder(sum(sizes), seed)
            rows.append(Row(part.name, first, end - begin, order))
        return rows

    def _groups(self, numbers: range) -> list[range]:
        """The shards of one component, in groups that are shuffled one after the other."""
        size = self._shuffle_shards or len(numbers)
        return [numbers[index : index + size] for index in range(0, len(numbers), size)]

    def bytes_together(self, size_bytes: Mapping[str, int]) -> int:
        """Most bytes of the shards that are shuffled together, one group of each source; `size_bytes` is by path."""
        sizes = [size_bytes[entry.path] for entry in self.shards.entries]
        together = first = 0
        for part in self._components:
            numbers = range(first, first := first + len(part.shards))
            together += max(sum(sizes[number] for number in group) for group in self._groups(numbers))
        return together

    @property
    def unused_tokens(self) -> int:
        """Ids that no sequence has."""
        if self._packed is not None:
            return 0
        return sum(row.n_tokens - (row.order.n_samples * self.context_length + 1) for row in self.rows)

    @property
    def padding(self) -> float:
        """Share of padding in all sequences."""
        if self._packed is None:
            return 0.0
        return self._packed.padding / (self.n_sequences * (self.context_length + 1))

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1, positions: bool = False) -> Batch:
        """This rank's part of the global batch of `step` (from 0).

        The global batch is the sample numbers step x batch_sequences and on; rank r takes the r-th of world_size equal
        parts, so that all ranks' parts in a row are the same for any world size.
        """
        if self.batch_sequences % world_size or not 0 <= rank < world_size:
            raise ValueError(f"{self.batch_sequences=} has no equal part for {rank=} of {world_size=}")
        share = self.batch_sequences // world_size
        first = step * self.batch_sequences + rank * share
        return self.take(np.arange(first, first + share), positions=positions)

    def take(self, numbers: Numbers, *, positions: bool = False) -> Batch:
        """The sequences of these sample numbers."""
        places = self._locate(numbers)
        if self._packed is not None:
            ids, targets = self._packed.gather(self.shards, places, ignored=self._ignored)
        else:
            ids = np.empty((len(numbers), self.context_length + 1), dtype=np.int64)
            self.shards.gather(places, self.context_length + 1, ids)
            targets = ids[:, 1:]
        return Batch(ids, targets, _positions(ids, self.shards) if positions else None)

    def stretches(self, number: int) -> list[tuple[int, int]]:
        """Where in the row of `shards` the ids of a sample begin and stop, in their order."""
        place = int(self._locate(np.array([number]))[0])
        if self._packed is not None:
            return self._packed.stretches(place)
        return [(place, place + self.context_length + 1)]

    def n_targets(self, step: int) -> int:
        """Targets that count in the global batch of `step`, over all ranks, without reading it."""
        if self._packed is None:
            return self.batch_sequences * self.context_length
        first = step * self.batch_sequences
        return self._packed.count_targets(self._locate(np.arange(first, first + self.batch_sequences)))

    def count_sequences(self, n: int) -> dict[str, int]:
        """How many of the first n samples each source has."""
        counts = [n] if self._interleaving is None else self._interleaving.count(n)
        return {row.name: count for row, count in zip(self.rows, counts, strict=True)}

    def require(self, steps: int) -> None:
        """Raises UserError where a step would see a sequence twice, or a source gives more epochs than it may."""
        in_step = self.count_sequences(self.batch_sequences)
        in_all = self.count_sequences(steps * self.batch_sequences)
        for part, row in zip(self._components, self.rows, strict=True):
            if in_step[row.name] > row.order.n_samples:
                of = "" if len(self.rows) == 1 else f" of pretrain.mixture.{row.name}"
                raise UserError(
                    f"pretrain.batch_sequences={self.batch_sequences} exceeds the {row.order.n_samples} sequences of "
                    f"model.context_length={self.context_length} in {row.n_tokens} train tokens{of}; "
                    "lower one of the two, or add to corpus.inputs"
                )
            require_epochs(part, samples=in_all[row.name], of=row.order.n_samples, total=steps * self.batch_sequences)

    def tell(self, steps: int) -> None:
        """The log has what the training reads of each source, what it leaves out and what it pads."""
        total = steps * self.batch_sequences
        for row in self.rows:
            count = self.count_sequences(total)[row.name]
            logger.info(
                "%s: %.1f %% of the training, %.2f epochs of %d tokens",
                "all sources" if row.name == OTHERS and len(self.rows) == 1 else row.name,
                100 * count / total,
                count / row.order.n_samples,
                row.n_tokens,
            )
        if self._packed is not None:
            logger.info("%d packed sequences, %.2f %% of them padding", self.n_sequences, 100 * self.padding)
        elif self.unused_tokens:
            logger.info("%d train tokens behind the last whole window are not used", self.unused_tokens)

    def _locate(self, numbers: Numbers) -> Numbers:
        """Of each sample number, the token where its window begins or the number of its packed sequence."""
        step = self.context_length if self._packed is None else 1
        if self._interleaving is None:
            (row,) = self.rows
            return row.first + step * row.order.take(numbers)
        sources, numbers = self._interleaving.take(numbers)
        places = np.empty_like(numbers)
        for source in np.unique(sources).tolist():
            mine, row = np.flatnonzero(sources == source), self.rows[source]
            places[mine] = row.first + step * row.order.take(numbers[mine])
        return places


def _components(shards: ShardSet, settings: Pretrain) -> list[Component]:
    """Those of the mixture; without one all shards are one component, as often as it takes."""
    if settings.mixture is not None:
        return resolve_mixture(settings.mixture, shards.entries)
    whole = MixtureSource(weight=1.0, max_epochs=None)
    return [Component(OTHERS, whole, tuple(range(len(shards.entries))))]


class ValidationWindows:
    """Windows of T + 1 ids in order, of at most `max_tokens` targets in all but at least one window.

    Where there are more, those chosen lie evenly over the shards, so that every source has its part. Raises UserError
    if the shards hold less than one window.
    """

    def __init__(self, shards: ShardSet, context_length: int, *, max_tokens: int | None = None) -> None:
        self.shards = shards
        self.context_length = context_length
        self._all = count_windows(shards.n_tokens, context_length, side="validation")
        self._count = self._all if max_tokens is None else min(self._all, max(1, max_tokens // context_length))

    def __len__(self) -> int:
        return self._count

    def take(self, numbers: Sequence[int] | Numbers) -> npt.NDArray[np.int64]:
        """The windows with these numbers, (B, T + 1)."""
        windows = np.asarray(numbers, dtype=np.int64) * self._all // self._count
        ids = np.empty((len(windows), self.context_length + 1), dtype=np.int64)
        self.shards.gather(windows * self.context_length, self.context_length + 1, ids)
        return ids

    def positions(self, windows: Numbers) -> npt.NDArray[np.int32]:
        """Of each input of `windows` (B, T + 1) in its document, (B, T), as in a training batch."""
        return _positions(windows, self.shards)


def _positions(ids: Numbers, shards: ShardSet) -> npt.NDArray[np.int32]:
    found = np.empty((len(ids), ids.shape[1] - 1), dtype=np.int32)
    fill_positions(ids, shards.metadata.end_of_text_id, found)
    return found


def count_windows(n_tokens: int, context_length: int, *, side: str, field: str = "") -> int:
    """Whole windows of `context_length` + 1 ids in a row. Raises UserError if there is none."""
    count = (n_tokens - 1) // context_length
    if count < 1:
        remedy = ", or raise shards.validation_fraction" if side == "validation" else ""
        raise UserError(
            f"{field}model.context_length={context_length} exceeds the {n_tokens} {side} tokens; lower it{remedy}, "
            "or add to corpus.inputs"
        )
    return count
