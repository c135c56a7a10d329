# ruff: noqa: N806  dimensions are capitals
"""Who attends to whom where a row of tokens holds several documents, and the GPU's kernel that skips all others.

One rule for packed rows, for windows that cut documents and for prompts padded on the left: a token at position p of
its document attends to itself and to the p tokens before it. Made once a forward pass, outside what is compiled.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128  # tokens; flex_attention's own

Mask = Tensor | BlockMask


def document_mask(positions: Tensor, *, past: int, flex: bool) -> Mask:
    """The mask of the last T of past + T tokens, whose positions (B, T) are given.

    A bool mask (B, 1, T, past + T), true where a query attends; for `flex` a block mask, which needs past = 0.
    """
    if flex:
        return _block_mask(positions)
    T = positions.size(1)
    query = torch.arange(past, past + T, device=positions.device)[:, None]  # (T, 1)
    key = torch.arange(past + T, device=positions.device)  # (S,)
    return ((key <= query) & (key >= query - positions[..., None]))[:, None]


def _block_mask(positions: Tensor) -> BlockMask:
    """What torch's create_block_mask makes of the rule, without the B T T truth values that it makes on the way."""
    B, T = positions.shape
    n = -(-T // BLOCK)
    queries = torch.arange(n * BLOCK, device=positions.device).clamp_(max=T - 1)
    opens = (queries - positions[:, queries]).view(B, n, BLOCK)  # the first key of each query
    block = torch.arange(n, device=positions.device)
    before = block < block[:, None]  # (n, n), blocks of queries by blocks of keys
    touched = (before | (block == block[:, None])) & (block >= opens.amin(dim=-1)[..., None] // BLOCK)  # (B, n, n)
    whole = before & (block * BLOCK >= opens.amax(dim=-1)[..., None]) & ((block[:, None] + 1) * BLOCK <= T)

    def attends(b: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (key >= query - positions[b, query])

    return BlockMask.from_kv_blocks(
        *_listed(touched & ~whole), *_listed(whole), BLOCK_SIZE=BLOCK, mask_mod=attends, seq_lengths=(T, T)
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Of bools (B, n, n), how many are true in each row and their places, first among all; for all heads at once."""
    places = blocks.to(torch.int32).argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(dim=-1, dtype=torch.int32)[:, None], places.to(torch.int32)[:, None]


def masked_flex_attention(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask) -> Tensor:
    """Attention (B, H, T, D) of queries to keys (B, K, T, D), compiled here where no caller is."""
    flex: Any = flex_attention if torch.compiler.is_compiling() else compiled_flex_attention()
    q, k = q.to(v.dtype), k.to(v.dtype)  # autocast may have left normalized ones in fp32, which flex would refuse
    out: Tensor = flex(q, k, v, block_mask=mask, enable_gqa=q.size(1) > k.size(1))
    return out


@lru_cache(maxsize=1)
def compiled_flex_attention() -> Any:
    """The fused kernel, compiled at its first call; uncompiled, flex_attention would keep all scores."""
    return torch.compile(flex_attention, dynamic=False)
