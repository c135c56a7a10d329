"""Token ids out of mapped shards: compiled passes over the addresses of their buffers.

The ids of all shards stand in a row; `borders` (n_shards + 1,) says where each begins in it and `addresses` where its
ids stand in memory, 0 for one that is not mapped. A piece is `lengths[i]` ids from `starts[i]` on. Whoever calls keeps
the buffers alive, and has checked the bounds with `find_unmapped`.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpt_core.kernel import kernel

Numbers = npt.NDArray[np.int64]
# Of the next piece, while one is copied, at its begin and where its next page begins, at which the processor's own
# prefetch ends. Random reads of 2,049 uint16 into int64: without 0.92 million a CPU-second, with a line 1.06, with 16
# lines 1.13, with 16 of both pages 1.29; with the whole piece no more.
LINES_AHEAD = 16
LINE_BYTES, PAGE_BYTES = 64, 4096


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(_: Any, __: Any, like: Any) -> Any:
    """(address, like) -> the integer `address` as a pointer to items of the array `like`."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.uint64, like), build


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(_: Any, __: Any) -> Any:
    """(address) -> the cache line there is on its way; an address that is none does no harm."""

    def build(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        pointer, number = cgutils.voidptr_t, ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        for_reading, keep, data = number(0), number(3), number(1)
        builder.call(function, [builder.inttoptr(arguments[0], pointer), for_reading, keep, data])
        return context.get_dummy_value()

    return types.void(types.uint64), build


@kernel
def find_unmapped(
    starts: Numbers,
    lengths: Numbers,
    borders: Numbers,
    addresses: npt.NDArray[np.uint64],
    used: Numbers,
    tick: int,
) -> tuple[int, Numbers]:
    """(the first piece that leaves the row, or -1; the shards that the pieces touch and that are not mapped).

    `used` is `tick` for every shard that a piece touches. Where a piece leaves the row, the rest is unfinished.
    """
    missing = [np.int64(0) for _ in range(0)]
    for piece in range(len(starts)):
        begin, stop = starts[piece], starts[piece] + lengths[piece]
        if begin < 0 or stop > borders[-1] or stop < begin:
            return piece, np.array(missing, dtype=np.int64)
        shard = np.searchsorted(borders, begin, side="right") - 1
        while begin < stop:
            if borders[shard + 1] > begin and used[shard] != tick:
                used[shard] = tick
                if addresses[shard] == 0:
                    missing.append(np.int64(shard))
            shard += 1
            begin = borders[shard]
    return -1, np.array(missing, dtype=np.int64)


@kernel
def copy_pieces(
    starts: Numbers,
    lengths: Numbers,
    places: Numbers,
    borders: Numbers,
    addresses: npt.NDArray[np.uint64],
    like: npt.NDArray[np.unsignedinteger],
    out: npt.NDArray[np.integer],
) -> None:
    """Piece i stands in `out[places[i] : places[i] + lengths[i]]`; all shards that it touches are mapped.

    `like` is an array of the shards' dtype, `out` (n,) has theirs or a wider one.
    """
    width = like.itemsize
    for piece in range(len(starts)):
        if piece + 1 < len(starts):
            shard = min(np.searchsorted(borders, starts[piece + 1], side="right"), len(addresses)) - 1
            address = addresses[shard] + np.uint64((starts[piece + 1] - borders[shard]) * width)
            page = address - address % np.uint64(PAGE_BYTES) + np.uint64(PAGE_BYTES)
            for line in range(LINES_AHEAD):
                _prefetch(address + np.uint64(line * LINE_BYTES))
                _prefetch(page + np.uint64(line * LINE_BYTES))
        begin, place, rest = starts[piece], places[piece], lengths[piece]
        shard = np.searchsorted(borders, begin, side="right") - 1
        while rest > 0:
            count = min(rest, borders[shard + 1] - begin)
            address = addresses[shard] + np.uint64((begin - borders[shard]) * width)
            ids = numba.carray(_pointer(address, like), count)
            for index in range(count):
                out[place + index] = ids[index]
            rest -= count
            place += count
            shard += 1
            begin = borders[shard]


@kernel
def fill_positions(ids: npt.NDArray[np.integer], end_of_text_id: int, positions: npt.NDArray[np.int32]) -> None:
    """`positions` (B, T) of the inputs `ids[:, :T]`: 0 at a row's start and behind every end-of-text token, then on."""
    for row in range(len(positions)):
        position = np.int32(0)
        for place in range(positions.shape[1]):
            positions[row, place] = position
            position = np.int32(0) if ids[row, place] == end_of_text_id else position + np.int32(1)
