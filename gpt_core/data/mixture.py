"""Mixtures of sources: which source a sample number takes, exact over any prefix, and computed.

A period of 2^20 sample numbers is laid out once: source k has c_k of its places, c_k / 2^20 being its weight within
half a percent, and its j-th place lies in [floor(j P / c_k), ceil((j + 1) P / c_k)). Among the sources that may come,
the one whose time ends first does; for one machine that meets all those bounds (Baruah et al. 1996, "Proportionate
progress"), so that no prefix has more or less of a source than its share by one. Sample number i is the place
i mod P of the period i // P, which is number (i // P) c_k + j of its source's own order: no state, and any sample at
the cost of the first.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from gpt_core.data.index import ShardEntry
from gpt_core.data.placement import REST
from gpt_core.errors import UserError
from gpt_core.kernel import kernel
from gpt_core.recipe import OTHERS, MixtureSource

PERIOD = 2**20

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Component:
    """What one key of the mixture stands for: a source, or with `*` all that no key names."""

    name: str
    settings: MixtureSource
    shards: tuple[int, ...]  # numbers of the entries

    def seed(self, seed: int) -> int:
        """Of its own order: other sources that come or go change it nothing."""
        return int(xxhash.xxh3_64_intdigest(self.name.encode(), seed))


def resolve_mixture(mixture: Mapping[str, MixtureSource], entries: Sequence[ShardEntry]) -> list[Component]:
    """The components that have a weight, by name. Raises UserError unless keys and sources of the shards match."""
    found = {entry.source for entry in entries}
    for name in mixture:
        if name != OTHERS and name not in found - {REST}:
            raise UserError(f"pretrain.mixture.{name}: no train shard is of this source; there are: {_tell(found)}")
    others = found - mixture.keys()
    if others and OTHERS not in mixture:
        raise UserError(
            f"pretrain.mixture: has no key for {_tell(others)}; name every source, with weight 0 to leave it out, "
            f"or add {OTHERS!r} for all others"
        )
    components = []
    for name, settings in sorted(mixture.items()):
        members = others if name == OTHERS else {name}
        shards = tuple(number for number, entry in enumerate(entries) if entry.source in members)
        if settings.weight > 0 and not shards:
            raise UserError(f"pretrain.mixture.{name}: every source of the shards has a key of its own; leave it out")
        if settings.weight > 0:
            components.append(Component(name, settings, shards))
    return components


class Interleaving:
    """Sample number -> (source, number in the source's own order), for sources of the given weights > 0."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.counts = share_out(weights)
        self._sources, self._ranks = _lay_out(self.counts)

    def take(self, numbers: Numbers) -> tuple[Numbers, Numbers]:
        """The source of each sample number >= 0, and the number in it; (n,) each."""
        periods, places = np.divmod(numbers, PERIOD)
        sources = self._sources[places].astype(np.int64)
        return sources, periods * self.counts[sources] + self._ranks[places]

    def count(self, n: int) -> list[int]:
        """How many of the sample numbers below n each source has."""
        periods, places = divmod(n, PERIOD)
        rest = np.bincount(self._sources[:places], minlength=len(self.counts))
        counts: list[int] = (periods * self.counts + rest).tolist()
        return counts


def share_out(weights: Sequence[float]) -> Numbers:
    """The places of a period that each source has: its share rounded down, and one more where most was cut off."""
    shares = np.array(weights, dtype=np.float64) / sum(weights) * PERIOD
    counts = np.floor(shares).astype(np.int64)
    for source in np.argsort(counts - shares, kind="stable")[: PERIOD - counts.sum()]:
        counts[source] += 1
    assert np.all(np.abs(counts - shares) <= 0.005 * shares), "the recipe refuses weights as small as that"
    return counts


def require_epochs(component: Component, *, samples: int, of: int, total: int) -> None:
    """Raises UserError if `samples` of the `total` are more passes over the component's `of` than are allowed."""
    most = component.settings.max_epochs
    if most is None or samples <= most * of:
        return
    weight = component.settings.weight
    raise UserError(
        f"pretrain.mixture.{component.name}.weight={weight:g} takes {samples} of {total} sequences, "
        f"{samples / of:.1f} epochs of the {of} that the shards have of it, more than max_epochs={most:g}; lower the "
        f"weight to {most * of / samples:.0%} of that, lower pretrain.tokens, raise max_epochs or add documents"
    )


def _tell(sources: Iterable[str]) -> str:
    """The sources' names, as a message lists them."""
    shared = f"small sources in shared shards (only {OTHERS!r} stands for them)"
    return ", ".join(source if source != REST else shared for source in sorted(sources))


@kernel
def _lay_out(counts: Numbers) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint32]]:
    """The source of every place of a period, and which of the source's places it is. `counts` sum up to the period."""
    period = counts.sum()
    sources = np.empty(period, dtype=np.uint16)
    ranks = np.empty(period, dtype=np.uint32)
    placed = np.zeros(len(counts), dtype=np.int64)
    first = np.full(period, -1, dtype=np.int64)  # source whose next turn may begin at a place; `after` is behind it
    after = np.full(len(counts), -1, dtype=np.int64)
    for source in range(len(counts)):
        after[source] = first[0]
        first[0] = source
    waiting = [(np.int64(0), np.int64(0)) for _ in range(0)]  # (where its turn ends, source)
    for place in range(period):
        comes = first[place]
        while comes >= 0:
            end = ((placed[comes] + 1) * period - 1) // counts[comes] + 1
            heapq.heappush(waiting, (end, comes))
            comes = after[comes]
        _, chosen = heapq.heappop(waiting)
        sources[place], ranks[place] = chosen, placed[chosen]
        placed[chosen] += 1
        if placed[chosen] < counts[chosen]:
            begin = max(place + 1, placed[chosen] * period // counts[chosen])
            after[chosen] = first[begin]
            first[begin] = chosen
    return sources, ranks
