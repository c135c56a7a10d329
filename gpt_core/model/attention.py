# ruff: noqa: N806  dimensions are capitals
"""Causal self-attention with a key and value cache, rotary positions and the kernel that is fastest for each case.

Dimensions: B sequences, T tokens, C = n_embd, H query heads, K key and value heads, D = head_dim.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from gpt_core.model.config import RMS_NORM_EPS, DecoderConfig
from gpt_core.model.document_mask import Mask, masked_flex_attention

SLICE_QUERIES = 128
SLICED_CONTEXT = 1024  # beyond it, what the sliced kernel keeps for the backward pass, B H T T / 2, grows large


class KeyValueCache:
    """Keys and values of the first `length` tokens of B sequences, for each layer: (B, K, context_length, D)."""

    def __init__(self, config: DecoderConfig) -> None:
        self.capacity = config.context_length
        self.length = 0
        self._layers: list[tuple[Tensor, Tensor] | None] = [None] * config.n_layer

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of the layer so far, (B, K, length + T, D), with the new `k` and `v` at the end.

        `length` itself moves once all layers have been extended: the decoder does that.
        """
        B, K, T, D = k.shape
        stored = self._layers[layer]
        if stored is None:
            stored = self._layers[layer] = (k.new_empty(B, K, self.capacity, D), v.new_empty(B, K, self.capacity, D))
        end = self.length + T
        stored[0][:, :, self.length : end] = k
        stored[1][:, :, self.length : end] = v
        return stored[0][:, :, :end], stored[1][:, :, :end]


class RMSNorm(nn.Module):
    """x / rms(x) * gain over the last dimension, in the dtype of x (Zhang and Sennrich 2019, eq. 4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return rms_norm(x, self.weight)


class Attention(nn.Module):
    """`qkv` is one projection to H query, K key and K value heads; qwen3 normalizes each query and key head."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        bias = config.architecture != "qwen3"
        heads = config.n_head + 2 * config.n_kv_head
        self.qkv = nn.Linear(config.n_embd, heads * config.head_dim, bias=bias)
        self.out = nn.Linear(config.n_embd, config.n_embd, bias=bias)
        if config.architecture == "qwen3":
            self.q_norm = RMSNorm(config.head_dim)
            self.k_norm = RMSNorm(config.head_dim)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, mask: Mask | None, cache: KeyValueCache | None
    ) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        H, K, D = self.config.n_head, self.config.n_kv_head, self.config.head_dim
        qk, v = self.qkv(x).view(B, T, H + 2 * K, D).split([H + K, K], dim=2)  # (B, T, heads, D)
        if rotary is not None:  # queries and keys at once: half the small operations
            gain = torch.cat((self.q_norm.weight.expand(H, D), self.k_norm.weight.expand(K, D)))
            qk = rotate(rms_norm(qk, gain), rotary)
        q, k = qk.split([H, K], dim=2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H or K, T, D)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        dropout = self.config.dropout if self.training else 0.0
        y = causal_attention(q, k, v, dropout=dropout, mask=mask)  # (B, H, T, D)
        out: Tensor = self.out(y.transpose(1, 2).reshape(B, T, C))
        return out


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, dropout: float, mask: Mask | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, where the T queries (B, H, T, D) are the last of the keys' S tokens (B, K, S, D).

    `mask` is that of `document_mask`, which is causal itself; None is causal over all keys.
    """
    if isinstance(mask, BlockMask):
        return masked_flex_attention(q, k, v, mask)
    T, S, groups = q.size(2), k.size(2), q.size(1) // k.size(1)
    sliced = q.device.type == "cpu" and q.dtype == torch.bfloat16 and T == S <= SLICED_CONTEXT and not dropout
    if sliced:
        return _sliced_attention(q, k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1), mask)
    causal = mask is None and T == S
    if mask is None and 1 < T < S:
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, enable_gqa=groups > 1
    )


def _sliced_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Causal attention (B, H, T, D) by slices of queries, each against the keys up to its end alone.

    torch's CPU kernel spends its time converting bf16 in the backward pass. One thread, B 8, H 4, D 32, forward and
    backward: 6.4 ms against 17.3 at T 256 (14 against 38 with H 6, D 64), 2.2 against 13.5 at B 16, T 96, and
    102 against 158 at B 2, H 12, T 1024, D 64. In fp32 both take the same time, and torch keeps less.
    """
    B, H, T, D = q.shape
    q, k, v = (q * D**-0.5).reshape(B * H, T, D), k.reshape(B * H, T, D), v.reshape(B * H, T, D)
    if mask is None:
        bias = q.new_full((T, T), -math.inf).triu(1)
    else:
        bias = q.new_zeros(mask.shape).masked_fill_(~mask, -math.inf)  # (B, 1, T, T)
    slices = []
    for start in range(0, T, SLICE_QUERIES):
        end = min(start + SLICE_QUERIES, T)
        rows, keys = q[:, start:end], k[:, :end].transpose(1, 2)
        if mask is None:
            scores = torch.baddbmm(bias[start:end, :end], rows, keys)
        else:  # a view: baddbmm would need the bias once a head
            scores = (rows @ keys).view(B, H, -1, end).add_(bias[..., start:end, :end]).view(B * H, -1, end)
        slices.append(scores.softmax(dim=-1) @ v[:, :end])
    return torch.cat(slices, dim=1).view(B, H, T, D)


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """x / rms(x) * gain over the last dimension, in the dtype of x. torch's fused norm refuses mixed dtypes."""
    return F.rms_norm(x, x.shape[-1:], eps=RMS_NORM_EPS) * gain.to(x.dtype)


def rotary_angles(positions: Tensor, config: DecoderConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines of `positions` (..., T), each (..., T, 1, D/2) fp32 (Su et al. 2021, eq. 34).

    Made anew in every forward pass: a buffer would be rounded when the module turns bf16, and the angles with it.
    """
    D = config.head_dim
    exponents = torch.arange(0, D, 2, device=positions.device, dtype=torch.float32) / D
    angles = positions.float()[..., None, None] * (1.0 / config.rope_theta**exponents)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """`x` (B, T, heads, D) turned by its positions; coordinate i of the first half of D turns with i of the second."""
    cos, sin = (angles.to(x.dtype) for angles in rotary)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
