# ruff: noqa: N806  dimensions are capitals
"""The decoder: token ids in, activations of the final block out. Two architectures, one body.

`gpt2` (Radford et al. 2019): pre-LN blocks, learned positions, tanh GELU, biases. `qwen3` (Yang et al. 2025):
RMSNorm, rotary positions, SwiGLU, grouped-query attention with normalized queries and keys, no biases. Both tie
the output to the embedding and compute what transformers' classes of that name compute.

Runs in fp32, under bf16 autocast, and as a bf16 module; norms accumulate in fp32 in all three. Dimensions:
B sequences, T tokens, C = n_embd, H query heads, K key and value heads, D = head_dim, F = n_inner, V = vocab_size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_core.model.config import DecoderConfig

INIT_STD = 0.02
LAYER_NORM_EPS, RMS_NORM_EPS = 1e-5, 1e-6


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
        """(..., width) -> (..., width). The gain meets x in x's dtype: torch's fused norms refuse mixed ones."""
        return F.rms_norm(x, self.weight.shape, eps=RMS_NORM_EPS) * self.weight.to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention; `qkv` is one projection to H query, K key and K value heads."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        bias = config.architecture == "gpt2"
        heads = config.n_head + 2 * config.n_kv_head
        self.qkv = nn.Linear(config.n_embd, heads * config.head_dim, bias=bias)
        self.out = nn.Linear(config.n_embd, config.n_embd, bias=bias)
        if config.architecture == "qwen3":
            self.q_norm = RMSNorm(config.head_dim)
            self.k_norm = RMSNorm(config.head_dim)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, cache: KeyValueCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        H, K, D = self.config.n_head, self.config.n_kv_head, self.config.head_dim
        q, k, v = self.qkv(x).view(B, T, H + 2 * K, D).split([H, K, K], dim=2)
        if rotary is not None:
            q, k = _rotate(self.q_norm(q), rotary), _rotate(self.k_norm(k), rotary)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H or K, T, D)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        past = k.size(2) - T
        mask = torch.ones(T, past + T, dtype=torch.bool, device=x.device).tril(past) if past and T > 1 else None
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=self.config.dropout if self.training else 0.0,
            is_causal=past == 0,
            enable_gqa=K < H,
        )
        out: Tensor = self.out(y.transpose(1, 2).reshape(B, T, C))
        return out


class Mlp(nn.Module):
    """gpt2: `down(gelu(up x))`. qwen3: `up` holds the gate and the value, `down(silu(gate) * value)`."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gated = config.architecture == "qwen3"
        self.up = nn.Linear(config.n_embd, (1 + self.gated) * config.n_inner, bias=not self.gated)
        self.down = nn.Linear(config.n_inner, config.n_embd, bias=not self.gated)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = self.up(x)
        if self.gated:
            gate, value = x.chunk(2, dim=-1)
            x = F.silu(gate) * value
        else:
            x = F.gelu(x, approximate="tanh")
        out: Tensor = self.down(x)
        return out


class Block(nn.Module):
    """Attention and MLP, each on the normalized residual stream and added to it."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = Attention(config, layer)
        self.mlp_norm = _norm(config)
        self.mlp = Mlp(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, cache: KeyValueCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), rotary, cache))
        out: Tensor = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return out


class Decoder(nn.Module):
    """The Transformer decoder. Made with arbitrary weights: `init_weights` or a load follows."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        if config.architecture == "gpt2":
            self.positions = nn.Embedding(config.context_length, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = _norm(config)

    def forward(self, ids: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Activations after the final norm, (B, T, C), of `ids` (B, T) int64 that follow the cached tokens.

        Raises ValueError where they would not fit into the context.
        """
        config, T = self.config, ids.size(1)
        past = cache.length if cache is not None else 0
        if past + T > config.context_length:
            raise ValueError(f"{past + T} tokens exceed the context of {config.context_length}")
        positions = torch.arange(past, past + T, device=ids.device)
        x = self.embedding(ids)  # (B, T, C)
        rotary = None
        if config.architecture == "gpt2":
            x = self.dropout(x + self.positions(positions))
        else:
            rotary = _rotary(positions, config, x.dtype)
        for block in self.blocks:
            x = block(x, rotary, cache)
        if cache is not None:
            cache.length += T
        hidden: Tensor = self.norm(x)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits (..., V) of `hidden` (..., C). Padded rows of the vocabulary have theirs, too."""
        return F.linear(hidden, self.embedding.weight)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Weights depend on the config and `seed` alone, on any device.

        Matrices and embeddings are normal(0, 0.02), biases 0, gains 1. In gpt2 the matrices that write to the
        residual stream are scaled by 1 / sqrt(2 n_layer) (Radford et al. 2019, section 2.3).
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            std = INIT_STD
            if self.config.architecture == "gpt2" and name.endswith(("attention.out.weight", "mlp.down.weight")):
                std /= math.sqrt(2 * self.config.n_layer)
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))


def _norm(config: DecoderConfig) -> nn.Module:
    if config.architecture == "gpt2":
        return nn.LayerNorm(config.n_embd, eps=LAYER_NORM_EPS)
    return RMSNorm(config.n_embd)


def _rotary(positions: Tensor, config: DecoderConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (T, 1, D/2) (Su et al. 2021, eq. 34).

    Made anew in every forward pass: a buffer would be rounded when the module turns bf16, and the angles with it.
    """
    D = config.head_dim
    exponents = torch.arange(0, D, 2, device=positions.device, dtype=torch.float32) / D
    angles = positions.float()[:, None] * (1.0 / config.rope_theta**exponents)  # (T, D/2)
    return angles.cos()[:, None].to(dtype), angles.sin()[:, None].to(dtype)


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """`x` (B, T, heads, D), with the first and the second half of D as the coordinates that turn together."""
    cos, sin = rotary
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
