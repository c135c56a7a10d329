"""Whole documents in sequences of T + 1 ids: best-fit decreasing (Ding et al. 2024, section 3).

A document longer than T + 1 is cut into pieces of T + 1 ids, each beginning with the last id of the one before, so that
every id but a document's first is a target once. All pieces, the longest first and those of one length in their order,
go each into the sequence with the least room that holds it, of several into that which came to have this room last; or
into a new one. In a sequence they stand in the order they came. What room is left is filled with end-of-text tokens,
whose targets count nothing. The first id of a document is a target where another document stands before it, as in
windows: a prompt, too, begins behind an end-of-text token. The first id of a later piece is none: it has been one.

Thus the sequences depend on the shards and T alone. O(n log T) for n pieces. A piece keeps 13 bytes and a sequence 8;
while they are made, another 40 a piece. Every shard is mapped once, for the borders of its documents alone.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpt_core.data.shard_set import ShardSet
from gpt_core.kernel import kernel

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Lengths = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Sequences:
    """Sequences of at most `width` ids: pieces `firsts[i]` to `firsts[i + 1]` are sequence i.

    A piece is `lengths` ids from `starts` on in the row of a set of shards; `cut` says that it does not begin its
    document.
    """

    width: int
    firsts: Numbers
    starts: Numbers
    lengths: Lengths
    cut: Flags

    def __len__(self) -> int:
        return len(self.firsts) - 1

    @property
    def padding(self) -> int:
        """Ids of padding in all sequences."""
        return len(self) * self.width - int(self.lengths.sum(dtype=np.int64))

    def count_targets(self, numbers: Numbers) -> int:
        """Targets that count in these sequences."""
        return int(_count_targets(numbers, self.firsts, self.lengths, self.cut))

    def gather(
        self, shards: ShardSet, numbers: Numbers, *, ignored: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(ids (B, width), targets (B, width - 1)) of these sequences; a target that counts nothing is `ignored`."""
        ids = np.full((len(numbers), self.width), shards.metadata.end_of_text_id, dtype=np.int64)
        pieces, places = _list_pieces(numbers, self.firsts, self.lengths, self.width)
        shards.gather_pieces(self.starts[pieces], self.lengths[pieces].astype(np.int64), places, ids)
        targets = ids[:, 1:].copy()
        _ignore(numbers, self.firsts, self.lengths, self.cut, targets, ignored)
        return ids, targets

    def stretches(self, number: int) -> list[tuple[int, int]]:
        """Where in the row of shards the pieces of a sequence begin and stop, in their order."""
        pieces = slice(*self.firsts[number : number + 2].tolist())
        starts, lengths = self.starts[pieces].tolist(), self.lengths[pieces].tolist()
        return [(start, start + length) for start, length in zip(starts, lengths, strict=True)]


def pack_documents(shards: ShardSet, numbers: range, *, width: int) -> Sequences:
    """The documents of the shards with these numbers, in sequences of at most `width` ids."""
    parts = []
    for number in numbers:
        parts.append(_cut(shards.shard(number).offsets, shards.borders[number], width))
    starts, lengths, cut = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    del parts
    order = _longest_first(lengths, width)
    homes, count = _place(lengths[order], width)
    firsts, order = _arrange(order, homes, count)
    return Sequences(width, firsts, starts[order], lengths[order], cut[order])


def join(parts: list[Sequences]) -> Sequences:
    """The sequences of all parts, which have one width, one part behind the other."""
    ends = np.cumsum([len(part.starts) for part in parts])
    firsts = [part.firsts[1:] + end - len(part.starts) for part, end in zip(parts, ends, strict=True)]
    return Sequences(
        width=parts[0].width,
        firsts=np.concatenate([np.zeros(1, dtype=np.int64), *firsts]),
        starts=np.concatenate([part.starts for part in parts]),
        lengths=np.concatenate([part.lengths for part in parts]),
        cut=np.concatenate([part.cut for part in parts]),
    )


@kernel
def _cut(offsets: Numbers, border: int, width: int) -> tuple[Numbers, Lengths, Flags]:
    """(starts, lengths, cut) of the pieces of a shard's documents, in their order."""
    count = 0
    for document in range(len(offsets) - 1):
        count += max(1, (offsets[document + 1] - offsets[document] - 2) // (width - 1) + 1)
    starts, lengths = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int32)
    cut = np.empty(count, dtype=np.bool_)
    piece = 0
    for document in range(len(offsets) - 1):
        begin, stop, later = offsets[document], offsets[document + 1], False
        while True:
            starts[piece], lengths[piece], cut[piece] = border + begin, min(width, stop - begin), later
            piece += 1
            if stop - begin <= width:
                break
            begin, later = begin + width - 1, True
    return starts, lengths, cut


@kernel
def _longest_first(lengths: Lengths, width: int) -> Numbers:
    """The pieces by falling length, those of one length in their order."""
    places = np.zeros(width + 1, dtype=np.int64)
    for length in lengths:
        places[length] += 1
    place = 0
    for length in range(width, -1, -1):
        place, places[length] = place + places[length], place
    order = np.empty(len(lengths), dtype=np.int64)
    for piece in range(len(lengths)):
        order[places[lengths[piece]]] = piece
        places[lengths[piece]] += 1
    return order


@kernel
def _place(lengths: Lengths, width: int) -> tuple[Numbers, int]:
    """(the sequence of each piece, sequences), best fit in the order given.

    `last[room]` is the sequence that came to have so much room last, `before[i]` the one that did before i. `filled` is
    a binary tree over rooms: the leaf size + room, and every node above it, is true where a sequence has that room.
    """
    size = 1
    while size <= width:
        size *= 2
    filled = np.zeros(2 * size, dtype=np.bool_)
    last = np.full(width + 1, -1, dtype=np.int64)
    homes, before = np.empty(len(lengths), dtype=np.int64), np.empty(len(lengths), dtype=np.int64)
    count = 0
    for piece in range(len(lengths)):
        node = size + lengths[piece]
        if not filled[node]:  # up to where a subtree of larger rooms stands on the right, then down to its least
            while node > 1 and (node % 2 == 1 or not filled[node + 1]):
                node //= 2
            node = node + 1 if node > 1 else 0
            while 0 < node < size:
                node = 2 * node if filled[2 * node] else 2 * node + 1
        if node == 0:
            home, room = count, width
            count += 1
        else:
            room = node - size
            home = last[room]
            last[room] = before[home]
            while last[room] < 0 and node >= 1 and (node >= size or not (filled[2 * node] or filled[2 * node + 1])):
                filled[node] = False
                node //= 2
        homes[piece] = home
        room -= lengths[piece]
        before[home] = last[room]
        last[room] = home
        node = size + room
        while node >= 1 and not filled[node]:
            filled[node] = True
            node //= 2
    return homes, count


@kernel
def _arrange(order: Numbers, homes: Numbers, count: int) -> tuple[Numbers, Numbers]:
    """(the first piece of each of `count` sequences and the end, the pieces by sequence, in the order they came)."""
    firsts = np.zeros(count + 1, dtype=np.int64)
    for home in homes:
        firsts[home + 1] += 1
    firsts = np.cumsum(firsts)
    places, arranged = firsts.copy(), np.empty(len(order), dtype=np.int64)
    for index in range(len(order)):
        arranged[places[homes[index]]] = order[index]
        places[homes[index]] += 1
    return firsts, arranged


@kernel
def _list_pieces(numbers: Numbers, firsts: Numbers, lengths: Lengths, width: int) -> tuple[Numbers, Numbers]:
    """(the pieces of these sequences, where each stands in a (B, width) array)."""
    count = 0
    for number in numbers:
        count += firsts[number + 1] - firsts[number]
    pieces, places = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    index = 0
    for row in range(len(numbers)):
        place = row * width
        for piece in range(firsts[numbers[row]], firsts[numbers[row] + 1]):
            pieces[index], places[index] = piece, place
            place += lengths[piece]
            index += 1
    return pieces, places


@kernel
def _count_targets(numbers: Numbers, firsts: Numbers, lengths: Lengths, cut: Flags) -> int:
    targets = 0
    for number in numbers:
        first = firsts[number]
        targets -= 1
        for piece in range(first, firsts[number + 1]):
            targets += lengths[piece] - (cut[piece] and piece > first)
    return targets


@kernel
def _ignore(
    numbers: Numbers, firsts: Numbers, lengths: Lengths, cut: Flags, targets: npt.NDArray[np.int64], ignored: int
) -> None:
    """The targets that count nothing are `ignored`: the first id of a later piece, and the padding."""
    for row in range(len(numbers)):
        place = 0
        for piece in range(firsts[numbers[row]], firsts[numbers[row] + 1]):
            if cut[piece] and place > 0:
                targets[row, place - 1] = ignored
            place += lengths[piece]
        targets[row, place - 1 :] = ignored
