# ruff: noqa: N806  dimensions are capitals
"""The decoder: token ids in, activations of the final block out. Three architectures, one body.

`gpt1` (Radford et al. 2018): post-LN blocks, learned positions, tanh GELU, biases, no final norm. `gpt2` (Radford et
al. 2019): the same with pre-LN blocks and a final norm. `qwen3` (Yang et al. 2025): RMSNorm, rotary positions, SwiGLU,
grouped-query attention with normalized queries and keys, no biases. All tie the output to the embedding and compute
what transformers' classes of that name compute.

Runs in fp32, under bf16 autocast, and as a bf16 module; norms accumulate in fp32 in all three. Dimensions:
B sequences, T tokens, C = n_embd, V = vocab_size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gpt_core.model.attention import Attention, KeyValueCache, RMSNorm, rotary_angles
from gpt_core.model.config import INIT_STD, LAYER_NORM_EPS, DecoderConfig
from gpt_core.model.document_mask import Mask, document_mask


class Mlp(nn.Module):
    """gpt1, gpt2: `down(gelu(up x))`. qwen3: `up` holds the gate and the value, `down(silu(gate) * value)`."""

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
    """Attention and MLP, each on the normalized residual stream and added to it; gpt1 normalizes each sum instead."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.post_norm = config.architecture == "gpt1"
        self.attention_norm = _norm(config)
        self.attention = Attention(config, layer)
        self.mlp_norm = _norm(config)
        self.mlp = Mlp(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, mask: Mask | None, cache: KeyValueCache | None
    ) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        if self.post_norm:
            x = self.attention_norm(x + self.dropout(self.attention(x, rotary, mask, cache)))
            normed: Tensor = self.mlp_norm(x + self.dropout(self.mlp(x)))
            return normed
        x = x + self.dropout(self.attention(self.attention_norm(x), rotary, mask, cache))
        out: Tensor = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return out


class Decoder(nn.Module):
    """The Transformer decoder. Made with arbitrary weights: `init_weights` or a load follows.

    With `activation_checkpointing` the backward pass of training computes each block anew from its input, which is
    all that was kept of it (Chen et al. 2016): a third more arithmetic, the same gradients.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        if config.architecture != "qwen3":
            self.positions = nn.Embedding(config.context_length, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = nn.Identity() if config.architecture == "gpt1" else _norm(config)

    def forward(self, ids: Tensor, *, positions: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """Activations after the final norm, if any, (B, T, C), of `ids` (B, T) int64 that follow the cached tokens.

        `positions` (B, T) int64 are the tokens' in their documents: a token at position p attends to itself and the p
        tokens before it. So 0 opens a document, and a token of padding on the left is one by itself. Default: all
        tokens of a row, cached ones in, are one document. Raises ValueError where they would not fit into the context.
        """
        T, limit = ids.size(1), self.config.context_length
        past = cache.length if cache is not None else 0
        if past + T > limit:
            raise ValueError(f"{past + T} tokens exceed the context of {limit}")
        mask = None
        if positions is None:
            positions = torch.arange(past, past + T, device=ids.device)
        else:
            flex = ids.device.type == "cuda" and cache is None and not (self.training and self.config.dropout)
            mask = document_mask(positions, past=past, flex=flex)
        x = self.embedding(ids)  # (B, T, C)
        rotary = None
        if self.config.architecture != "qwen3":
            x = self.dropout(x + self.positions(positions))
        else:
            rotary = rotary_angles(positions, self.config)
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, rotary, mask, cache, use_reentrant=False)
            else:
                x = block(x, rotary, mask, cache)
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

        Matrices and embeddings are normal(0, 0.02), biases 0, gains 1 (gpt1: Radford et al. 2018, section 4.1; qwen3:
        as OLMo 2, Walsh et al. 2025, which left scaling by depth for it). In gpt2 the matrices that write to the
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
    if config.architecture == "qwen3":
        return RMSNorm(config.n_embd)
    return nn.LayerNorm(config.n_embd, eps=LAYER_NORM_EPS)
