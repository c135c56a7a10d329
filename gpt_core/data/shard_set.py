"""Shards as one long row of token ids, mapped one by one when a token of theirs is asked for.

The row is the shards of index.json side by side, in its order. Opening reads the index alone: ten thousand shards are
a list of names and sizes. Where shards lie is what `locate` says, so that they may as well be copies of remote ones
in a bounded cache; `max_open` bounds the mappings then.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpt_core.artifact import Artifact
from gpt_core.data.gather import copy_pieces, find_unmapped
from gpt_core.data.index import INDEX, ShardEntry, Side, read_index
from gpt_core.data.shards import ShardMetadata, TokenShard
from gpt_core.errors import ArtifactError, UserError

Locate = Callable[[ShardEntry], AbstractContextManager[Path]]  # inside it, the file stays where it is


def locate_in(root: Path) -> Locate:
    """Shards that stand below the folder `root`, which nobody changes."""
    return lambda entry: nullcontext(root / entry.path)


class ShardSet:
    """Shards of one tokenizer as one row of token ids. Nothing is opened before it is read.

    `borders` (n_shards + 1,) int64 says where each shard begins in the row. `locate(entry)` gives the file of a shard
    and may take its time; it is called whenever the shard is mapped. With `max_open`, the mappings used least recently
    are dropped beyond so many, never one that the read in the making needs. Several threads may read.
    """

    def __init__(
        self, entries: Sequence[ShardEntry], metadata: ShardMetadata, *, locate: Locate, max_open: int | None = None
    ) -> None:
        if not entries:
            raise ArtifactError("there is no token shard to read; run the stage shards again")
        self.entries = tuple(entries)
        self.metadata = metadata
        self.dtype = metadata.dtype
        self.borders: npt.NDArray[np.int64] = np.zeros(len(self.entries) + 1, dtype=np.int64)
        np.cumsum([entry.tokens for entry in self.entries], out=self.borders[1:])
        self.n_tokens = int(self.borders[-1])
        self.n_documents = sum(entry.documents for entry in self.entries)
        self._locate, self._max_open = locate, max_open
        self._mapped: dict[int, TokenShard] = {}
        self._addresses = np.zeros(len(self.entries), dtype=np.uint64)
        self._used = np.zeros(len(self.entries), dtype=np.int64)  # tick of the last read
        self._tick = 0
        self._like = np.empty(0, dtype=self.dtype)
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        artifact: Artifact,
        side: Side,
        *,
        source: str | None = None,
        tokenizer_digest: str | None = None,
        locate: Locate | None = None,
        max_open: int | None = None,
    ) -> "ShardSet":
        """One side of a shards output, or what one source has of it.

        Raises ArtifactError if there is no shard, or not of the tokenizer wanted; UserError for an unknown source.
        """
        index = read_index(artifact.file(INDEX))
        if tokenizer_digest not in (None, index.metadata.tokenizer_digest):
            raise ArtifactError(
                f"{artifact.root / INDEX}: its shards were made with the tokenizer "
                f"{index.metadata.tokenizer_digest[:12]}, not {tokenizer_digest:.12}; run the stage shards again"
            )
        entries = index.side(side)
        if source is not None:
            sources = sorted({entry.source for entry in entries})
            if source not in sources:
                raise UserError(f"no {side} shard holds the source {source!r}; there are: {', '.join(sources)}")
            entries = tuple(entry for entry in entries if entry.source == source)
        return cls(entries, index.metadata, locate=locate or locate_in(artifact.root), max_open=max_open)

    def choose(self, numbers: Iterable[int]) -> "ShardSet":
        """The shards with these numbers, in this order, as a set of their own. Nothing is opened."""
        entries = [self.entries[number] for number in numbers]
        return ShardSet(entries, self.metadata, locate=self._locate, max_open=self._max_open)

    def shard(self, number: int) -> TokenShard:
        """The shard with this number, mapped."""
        with self._lock:
            self._tick += 1
            self._used[number] = self._tick
            if number not in self._mapped:
                self._drop_idle(coming=1)
                self._map(number)
            return self._mapped[number]

    def gather(
        self, starts: npt.NDArray[np.int64], length: int, out: npt.NDArray[np.integer] | None = None
    ) -> npt.NDArray[np.integer]:
        """The windows of `length` ids that begin at `starts` (B,), anywhere in the row: (B, length).

        int64, or what `out` is: contiguous, int64 or of the shards' own dtype. Raises IndexError for a window that
        leaves the row, ArtifactError for a shard that is not what the index says.
        """
        if out is None:
            out = np.empty((len(starts), length), dtype=np.int64)
        if out.shape != (len(starts), length):
            raise ValueError(f"out has the shape {out.shape}, the windows {(len(starts), length)}")
        places = np.arange(len(starts), dtype=np.int64) * length
        self.gather_pieces(starts, np.full(len(starts), length, dtype=np.int64), places, out)
        return out

    def gather_pieces(
        self,
        starts: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        places: npt.NDArray[np.int64],
        out: npt.NDArray[np.integer],
    ) -> None:
        """`lengths[i]` ids from `starts[i]` on stand at `places[i]` and behind in `out`, seen as one row.

        Raises as `gather` does, before anything is written.
        """
        if out.dtype not in (np.dtype(np.int64), self.dtype) or not out.flags.c_contiguous:
            raise ValueError(f"out must be contiguous and int64 or {self.dtype}, not {out.dtype}")
        if len(places) and (places.min() < 0 or (places + lengths).max() > out.size):
            raise ValueError(f"pieces leave the {out.size} places of out")
        with self._lock:
            self._tick += 1
            outside, missing = find_unmapped(starts, lengths, self.borders, self._addresses, self._used, self._tick)
            if outside >= 0:
                start, length = starts[outside], lengths[outside]
                raise IndexError(f"tokens {start} to {start + length} of {self.n_tokens}")
            self._drop_idle(coming=len(missing))
            for number in missing.tolist():
                self._map(number)
            copy_pieces(starts, lengths, places, self.borders, self._addresses, self._like, out.reshape(-1))

    def _map(self, number: int) -> None:
        """The shard is mapped and is what the index says, or ArtifactError names it."""
        entry = self.entries[number]
        with self._locate(entry) as path:
            shard = TokenShard(path)
        for what, found, wanted in (
            ("tokenizer", shard.metadata.tokenizer_digest[:12], self.metadata.tokenizer_digest[:12]),
            ("vocabulary", shard.metadata.vocab_size, self.metadata.vocab_size),
            ("end-of-text token", shard.metadata.end_of_text_id, self.metadata.end_of_text_id),
            ("token count", len(shard.tokens), entry.tokens),
            ("document count", len(shard.doc_ids), entry.documents),
        ):
            if found != wanted:
                raise ArtifactError(
                    f"{shard.path}: its {what} is {found}, {INDEX} says {wanted}; run the stage shards again"
                )
        self._mapped[number] = shard
        self._addresses[number] = shard.tokens.ctypes.data

    def _drop_idle(self, *, coming: int) -> None:
        """At most `max_open` mappings stand once `coming` more do, or those of this read alone."""
        excess = len(self._mapped) + coming - self._max_open if self._max_open is not None else 0
        if excess <= 0:
            return
        idle = sorted((number for number in self._mapped if self._used[number] != self._tick), key=self._used.item)
        for number in idle[:excess]:
            self._addresses[number] = 0
            del self._mapped[number]
