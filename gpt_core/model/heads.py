"""Heads on a decoder: the language model's likelihood and the classifier (Radford et al. 2018, eq. 1, 3 and 4).

The likelihood is the sum over tokens, not their mean: whoever trains divides by the number of tokens in the whole
global batch, so that ranks and micro-batches weigh tokens equally. It is computed in slices of rows, and the
gradient of a slice together with its loss: the (B * T, V) logits never stand at once, in any precision, and are
never computed twice.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_core.model.decoder import INIT_STD, Decoder

IGNORED = -100
# fp32 logits in a slice, 4 MiB: they stay in the cache. One thread, 2,048 rows, V 4,224, C 128, bf16, with gradients:
# 44 ms for slices of 2^17, 40 of 2^19, 36 of 2^20, 42 of 2^21, 55 of 2^22; the three products alone take 21.
SLICE_LOGITS = 2**20


class LanguageModel(nn.Module):
    """Next-token likelihood of a decoder whose output is tied to its embedding."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The sum of -log P(target), an fp32 scalar in nats, over the targets (B, T) that are not -100."""
        return token_cross_entropy(self.decoder(ids), self.decoder.embedding.weight, targets)


class SequenceClassifier(nn.Module):
    """A linear layer W_y on the activation of each sequence's last token. `seed` makes its normal(0, 0.02) weights."""

    def __init__(self, decoder: Decoder, n_labels: int, dropout: float, *, seed: int = 0) -> None:
        super().__init__()
        self.decoder = decoder
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(decoder.config.n_embd, n_labels, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.score.weight.copy_(torch.empty(self.score.weight.shape).normal_(0.0, INIT_STD, generator=generator))

    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, n_labels) and hidden (B, T, C) of `ids` (B, T), padded on the right to `lengths` (B,).

        The logits are pooled at position lengths - 1. `hidden` is for `token_cross_entropy`, the auxiliary
        objective. What the padding is does not matter: attention is causal.
        """
        hidden = self.decoder(ids)
        pooled = hidden[torch.arange(len(ids), device=ids.device), lengths - 1]  # (B, C)
        return self.score(self.dropout(pooled)), hidden


def token_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The sum of -log softmax(hidden weight^T)[target], an fp32 scalar in nats; targets of -100 count nothing.

    `hidden` (..., C), `weight` (V, C), `targets` (...) int64. Products run in the autocast dtype, if any, else in
    the weight's; softmax and sums in fp32. Beside the slice, gradients of the size of `hidden` and `weight` stand
    from here to the backward pass.
    """
    hidden, targets = hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1)  # (N, C), (N,)
    rows = (targets != IGNORED).nonzero().squeeze(1)
    if len(rows) < len(targets):
        hidden, targets = hidden[rows], targets[rows]
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    loss: Tensor = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, dtype, torch.is_grad_enabled()
    )
    return loss


class _CrossEntropy(torch.autograd.Function):
    """Sum of token cross-entropies; the gradients are made in the forward pass and scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype, with_gradient: bool
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            h, w = hidden.to(dtype), weight.to(dtype)
            loss = hidden.new_zeros((), dtype=torch.float32)
            h_grad = torch.empty_like(h) if with_gradient else None
            w_grad = torch.zeros_like(weight, dtype=torch.float32) if with_gradient else None
            size = max(1, SLICE_LOGITS // weight.size(0))
            for start in range(0, len(h), size):
                rows = slice(start, start + size)
                index = targets[rows, None]
                logits = F.linear(h[rows], w).float()  # (size, V)
                greatest = logits.amax(dim=-1, keepdim=True)
                target = logits.gather(1, index) - greatest
                odds = logits.sub_(greatest).exp_()
                total = odds.sum(dim=-1, keepdim=True)
                loss += (total.log() - target).sum()
                if h_grad is not None and w_grad is not None:
                    slope = odds.scatter_add_(1, index, -total).mul_(1.0 / total).to(dtype)  # softmax - one-hot
                    h_grad[rows] = slope @ w
                    w_grad += slope.T @ h[rows]
        ctx.save_for_backward(h_grad, w_grad)
        ctx.dtypes = hidden.dtype, weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        h_grad, w_grad = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        scale = gradients[0]
        return (h_grad * scale).to(hidden_dtype), (w_grad * scale).to(weight_dtype), None, None, None
