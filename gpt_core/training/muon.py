"""Muon's update where ranks share the matrices: each is orthogonalized once, by one rank, in every layout of ZeRO.

ZeRO hands an optimizer this rank's part of a long vector in which the matrices stand one behind the other. What is
elementwise, momentum and decay, needs no more. Only matrices that a border cuts travel: their parts to one rank, and
the results back, twice the elements at most that data parallelism itself sends.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Self

import torch
from torch import Tensor

Shape = tuple[int, int]  # rows, columns
Span = tuple[int, int]  # start, elements

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: the steepest at 0
ITERATIONS = 5
EPS = 1e-7
GPU_BATCH_ELEMENTS = 2**26  # of equal matrices in one product; a thread of a CPU is no faster with two than with one


def orthogonalize(matrices: Tensor) -> Tensor:
    """U V^T of each U S V^T, about: singular values come to 0.7 to 1.2 by five Newton-Schulz iterations.

    `matrices` (..., rows, columns); the products run in their dtype (Jordan et al. 2024, "Muon").
    """
    a, b, c = COEFFICIENTS
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + EPS)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    orthogonal: Tensor = x.mT if tall else x
    return orthogonal


@dataclass(frozen=True)
class Layout:
    """Where matrices that stand one behind the other in a vector are held.

    `parts[rank]` lists (start in the vector, elements, start in the rank's own part), in order.
    """

    shapes: tuple[Shape, ...]
    parts: tuple[tuple[tuple[int, int, int], ...], ...]
    local_elements: int  # of a rank's part, padding included
    replicated: bool = False  # every rank holds all

    @classmethod
    def of_zero(cls, parameters: Sequence[Sequence[Shape]], *, stage: int, world_size: int) -> Self:
        """The layout in which ZeRO hands parameters to an optimizer, each given as the matrices that it fuses.

        Stage 0: all to every rank. Stage 1 and 2: one vector, cut evenly. Stage 3: each parameter cut evenly.
        """
        shapes = tuple(shape for matrices in parameters for shape in matrices)
        sizes = [sum(rows * columns for rows, columns in matrices) for matrices in parameters]
        total = sum(sizes)
        if stage == 0:
            return cls(shapes, (((0, total, 0),),) * world_size, total, replicated=True)
        if stage < 3:
            multiple = 2 * world_size  # DeepSpeed pads the vector to four bytes of bf16 on each rank
            each = -(-total // multiple) * 2
            return cls(shapes, tuple(((rank * each, each, 0),) for rank in range(world_size)), each)
        cuts = [-(-size // world_size) for size in sizes]
        spans = list(zip(accumulate(sizes, initial=0), sizes, cuts, accumulate(cuts, initial=0), strict=False))
        parts = tuple(
            tuple((start + rank * cut, min(cut, max(0, size - rank * cut)), own) for start, size, cut, own in spans)
            for rank in range(world_size)
        )
        return cls(shapes, parts, sum(cuts))

    def owners(self) -> list[int]:
        """The rank that orthogonalizes each matrix: of those that hold half as much of it as any, the least loaded."""
        loads = [0] * len(self.parts)
        owners = [0] * len(self.shapes)
        starts = self.starts()
        for index in sorted(range(len(self.shapes)), key=lambda index: -_cost(self.shapes[index])):
            held = [sum(n for _, _, n in self.cut(starts, index, rank)) for rank in range(len(self.parts))]
            able = [rank for rank, elements in enumerate(held) if 2 * elements >= max(held)]
            owners[index] = min(able, key=lambda rank: loads[rank])
            loads[owners[index]] += _cost(self.shapes[index])
        return owners

    def starts(self) -> list[int]:
        """Where each matrix starts in the vector, and the end of the last."""
        return list(accumulate((rows * columns for rows, columns in self.shapes), initial=0))

    def cut(self, starts: Sequence[int], index: int, rank: int) -> Iterator[tuple[int, int, int]]:
        """(start in the matrix, start in the rank's own part, elements) of what `rank` holds of the matrix."""
        parts = self.parts[rank]
        first, end = starts[index], starts[index + 1]
        for start, elements, own in parts[max(0, bisect_right(parts, first, key=lambda part: part[0]) - 1) :]:
            if start >= end:
                return
            low, high = max(start, first), min(start + elements, end)
            if low < high:
                yield low - first, own + low - start, high - low


def _cost(shape: Shape) -> int:
    return shape[0] * shape[1] * min(shape)


class SharedMatrices:
    """This rank's share of the work on the matrices of a layout."""

    def __init__(self, layout: Layout, *, rank: int) -> None:
        self.layout, self.rank = layout, rank
        world_size = len(layout.parts)
        self._shapes: list[Shape] = []  # of this rank's matrices, in the order in which they stand in its whole ones
        self._held: list[list[Span]] = [[] for _ in range(world_size)]  # by owner: where they stand in this rank's part
        self._whole: list[list[Span]] = [[] for _ in range(world_size)]  # by holder: where in this rank's whole ones
        self._elements = 0
        owners, starts = layout.owners(), layout.starts()
        # Sorted by shape, so that equal ones stand together; an owner and its holders go through them in one order.
        for index in sorted(range(len(owners)), key=lambda index: layout.shapes[index]):
            self._held[owners[index]] += [(own, n) for _, own, n in layout.cut(starts, index, rank)]
            if owners[index] == rank:
                for holder in range(world_size):
                    cut = layout.cut(starts, index, holder)
                    self._whole[holder] += [(self._elements + at, n) for at, _, n in cut]
                self._shapes.append(layout.shapes[index])
                self._elements += starts[index + 1] - starts[index]

    def orthogonalize_(self, part: Tensor, *, device: torch.device, dtype: torch.dtype) -> None:
        """This rank's `part` of the vector now holds its part of U V^T max(1, rows/columns)^0.5 of every matrix.

        The products run on `device` in `dtype`, which is also what ranks send each other. Every rank must call.
        """
        assert part.numel() == self.layout.local_elements, (part.numel(), self.layout.local_elements)
        whole = torch.empty(self._elements, dtype=dtype, device=device)
        self._move(part, self._held, whole, self._whole, wire=whole, within_rank=self.layout.replicated)
        for batch in self._batches(whole):
            rows, columns = batch.shape[1:]
            batch.copy_(orthogonalize(batch) * max(1.0, rows / columns) ** 0.5)
        self._move(whole, self._whole, part, self._held, wire=whole)

    def _batches(self, whole: Tensor) -> Iterator[Tensor]:
        """The whole matrices in views (n, rows, columns) of equal ones."""
        start = 0
        for (rows, columns), equal in groupby(self._shapes):
            size = rows * columns
            at_once = max(1, GPU_BATCH_ELEMENTS // size) if whole.is_cuda else 1
            elements = size * len(list(equal))
            for batch in torch.split(whole[start : start + elements], at_once * size):
                yield batch.view(-1, rows, columns)
            start += elements

    def _move(
        self,
        source: Tensor,
        there: Sequence[Sequence[Span]],
        target: Tensor,
        here: Sequence[Sequence[Span]],
        *,
        wire: Tensor,
        within_rank: bool = False,
    ) -> None:
        """Spans `there[rank]` of `source` fill `here[this rank]` of the rank's `target`, sent as `wire`'s dtype."""
        for (start, elements), (to, _) in zip(there[self.rank], here[self.rank], strict=True):
            target[to : to + elements] = source[start : start + elements]
        if within_rank or len(there) == 1:
            return
        going, coming = self._others(there), self._others(here)
        pieces = [source[start : start + elements] for spans in going for start, elements in spans]
        sent = torch.cat(pieces).to(wire) if pieces else wire.new_empty(0)
        sizes = [sum(elements for _, elements in spans) for spans in coming]
        received = wire.new_empty(sum(sizes))
        sent_sizes = [sum(elements for _, elements in spans) for spans in going]
        torch.distributed.all_to_all_single(received, sent, sizes, sent_sizes)
        spans = [span for spans in coming for span in spans]
        for (to, elements), piece in zip(
            spans, torch.split(received, [elements for _, elements in spans]), strict=True
        ):
            target[to : to + elements] = piece

    def _others(self, spans: Sequence[Sequence[Span]]) -> list[Sequence[Span]]:
        return [() if rank == self.rank else own for rank, own in enumerate(spans)]
