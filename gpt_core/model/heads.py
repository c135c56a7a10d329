# ruff: noqa: N806  dimensions are capitals
"""Heads on a decoder: the language model's likelihood and a task's (Radford et al. 2018, eq. 1, 3 and 4).

The likelihood is the sum over tokens, not their mean: whoever trains divides by the number of tokens in the whole
global batch, so that ranks and micro-batches weigh tokens equally. It is computed in slices of rows, the gradient of
a slice together with its loss: logits are made once, take 64 MiB at most (on a CPU) and are never all fp32 at once.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_core.model.config import INIT_STD
from gpt_core.model.decoder import Decoder
from gpt_core.tasks.spec import IGNORED, Target

# Logits stand in slices, in the dtype of the products; their softmax is taken in fp32 pieces that stay in the cache.
# One thread, 2,048 rows, V 50,304, C 384, bf16, with gradients: 2.6 s for slices of 2^23 bytes, 1.7 of 2^24, 1.4 of
# 2^25, 1.15 of 2^26, 0.97 at once (206 MB); smaller slices add to the weight's gradient (77 MB) too often. With
# V 4,224, C 128: 28 ms, of which the three products take 21; without pieces 38 ms. A GPU wants long kernels instead.
SLICE_BYTES, GPU_SLICE_BYTES = 2**26, 2**28
PIECE_LOGITS = 2**19


class LanguageModel(nn.Module):
    """Next-token likelihood of a decoder whose output is tied to its embedding."""

    def __init__(self, decoder: Decoder, *, z_loss: float = 0.0) -> None:
        super().__init__()
        self.decoder = decoder
        self.z_loss = z_loss

    def forward(self, ids: Tensor, targets: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(nats, z) of `token_losses` over the targets (B, T) that are not -100; `positions` as the decoder's."""
        hidden = self.decoder(ids, positions=positions)
        return token_losses(hidden, self.decoder.embedding.weight, targets, z_loss=self.z_loss)


class TaskModel(nn.Module):
    """A linear layer W_y on the activations of an example's sequences at their last tokens, for every target but text.

    `seed` makes its normal(0, 0.02) weights.
    """

    def __init__(self, decoder: Decoder, *, n_outputs: int, target: Target, dropout: float, seed: int = 0) -> None:
        super().__init__()
        self.decoder = decoder
        self.target = target
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(decoder.config.n_embd, n_outputs, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.score.weight.copy_(torch.empty(self.score.weight.shape).normal_(0.0, INIT_STD, generator=generator))

    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of B examples and hidden (B, S, T, C) of `ids` (B, S, T), padded on the right to `lengths` (B, S).

        A sequence is pooled at position lengths - 1; one of length 0 is none. An example's pooled activations are
        summed (Radford et al. 2018, section 3.3) before W_y: logits (B, n_outputs), of a number (B,). Of a choice each
        sequence is scored by itself: (B, S), -inf where there is none. `hidden` is for the auxiliary objective. What
        the padding is does not matter: attention is causal.
        """
        B, S, T = ids.shape
        hidden = self.decoder(ids.view(B * S, T)).view(B, S, T, -1)
        last = (lengths - 1).clamp(min=0)[..., None, None].expand(B, S, 1, hidden.size(-1))
        pooled = hidden.gather(2, last).squeeze(2)  # (B, S, C)
        none = lengths == 0
        if self.target == "choice":
            scores = self.score(self.dropout(pooled)).squeeze(-1)
            return scores.masked_fill(none, -math.inf), hidden
        logits = self.score(self.dropout(pooled.masked_fill(none[..., None], 0.0).sum(dim=1)))
        return logits.squeeze(-1) if self.target == "number" else logits, hidden


def token_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The first of `token_losses`, without z-loss."""
    return token_losses(hidden, weight, targets, z_loss=0.0)[0]


def example_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The first of `token_losses`, and what it is made of: (B, 2) fp32, nats and targets of each example.

    `hidden` (B, ..., C), `targets` (B, ...). The second has no gradient.
    """
    nats, _, each, rows = _losses(hidden, weight, targets, z_loss=0.0)
    outputs = each.new_zeros((len(targets), 2))
    example = rows // targets[0].numel()
    return nats, outputs.index_add_(0, example, torch.stack((each, torch.ones_like(each)), dim=1))


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, *, z_loss: float) -> tuple[Tensor, Tensor]:
    """(nats, z): fp32 sums of -log softmax(hidden weight^T)[target] and of log(Z)^2; targets of -100 count nothing.

    Z is the softmax's normalizer, sum(exp(logits)) (Chowdhery et al. 2022, section 5); z is 0 without `z_loss`. The
    gradient of nats is that of nats + `z_loss` z, and z has none, because one pass over the logits makes one gradient:
    minimize nats + z_loss z, at any scale, and its gradient is exact.

    `hidden` (..., C), `weight` (V, C), `targets` (...) int64. Products run in the autocast dtype, if any, else in
    the weight's; softmax and sums in fp32. Beside a slice of logits, gradients of the size of `hidden` and of a
    `weight` that learns stand from here to the backward pass.
    """
    return _losses(hidden, weight, targets, z_loss=z_loss)[:2]


def _losses(hidden: Tensor, weight: Tensor, targets: Tensor, *, z_loss: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(nats, z) of `token_losses`; nats of each target that counts, (n,), and its number among all, (n,)."""
    hidden, targets = hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1)  # (N, C), (N,)
    rows = (targets != IGNORED).nonzero().squeeze(1)
    if len(rows) < len(targets):
        hidden, targets = hidden[rows], targets[rows]
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    nats, z, each = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, dtype, z_loss, torch.is_grad_enabled()
    )
    return nats, z, each, rows


class _CrossEntropy(torch.autograd.Function):
    """Sums of token losses; the gradients are made in the forward pass and scaled in the backward pass.

    d/dlogits of -log p[target] is p - 1[target], and that of log(Z)^2 is 2 log(Z) p. p is never written: its
    numerators stand in the logits' place, their sum scales what the products take or give, and 1[target] is a row each.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        z_loss: float,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            h, w = hidden.to(dtype), weight.to(dtype)
            nats, z = (hidden.new_zeros((), dtype=torch.float32) for _ in range(2))
            each = torch.empty_like(targets, dtype=torch.float32)
            h_grad = torch.empty_like(h) if with_gradient else None
            weight_learns = with_gradient and ctx.needs_input_grad[1]
            w_grad = None
            size, piece = _slice_rows(w)
            for start in range(0, len(h), size):
                rows = slice(start, start + size)
                part, target = h[rows], targets[rows]
                logits = F.linear(part, w)  # (size, V)
                aim = logits.gather(1, target[:, None]).float()
                log_z, share = _exponentiate(logits, piece)  # (size, 1) both
                torch.sub(log_z, aim, out=each[rows, None])
                nats += each[rows].sum()
                if z_loss:
                    z += log_z.square().sum()
                    share *= 1.0 + 2.0 * z_loss * log_z
                if h_grad is not None:
                    h_grad[rows] = torch.mm(logits, w) * share - weight[target]
                if weight_learns:
                    new = logits.T @ (part * share).to(dtype)
                    w_grad = new.float() if w_grad is None else w_grad.add_(new)
            if w_grad is not None:
                w_grad.index_add_(0, targets, hidden.float(), alpha=-1.0)
            elif weight_learns:
                w_grad = torch.zeros_like(weight, dtype=torch.float32)
        ctx.save_for_backward(h_grad, w_grad)
        ctx.dtypes = hidden.dtype, weight.dtype
        ctx.mark_non_differentiable(z, each)
        return nats, z, each

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        h_grad, w_grad = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        scale = gradients[0]  # in place: the weight's gradient is as large as the weight, and nobody asks twice
        of_weight = None if w_grad is None else w_grad.mul_(scale).to(weight_dtype)
        return h_grad.mul_(scale).to(hidden_dtype), of_weight, None, None, None, None


def _slice_rows(weight: Tensor) -> tuple[int, int]:
    """Rows of logits that stand at once, and those whose softmax is taken at once."""
    vocabulary = len(weight)
    if weight.device.type != "cpu":
        size = max(1, GPU_SLICE_BYTES // (vocabulary * weight.itemsize))
        return size, size
    return max(1, SLICE_BYTES // (vocabulary * weight.itemsize)), max(1, PIECE_LOGITS // vocabulary)


def _exponentiate(logits: Tensor, piece: int) -> tuple[Tensor, Tensor]:
    """`logits` (rows, V) have become exp(logits - the row's greatest); returns log Z and 1 / their sum, (rows, 1)."""
    greatest, total = (logits.new_empty((len(logits), 1), dtype=torch.float32) for _ in range(2))
    for part, most, sums in zip(*(torch.split(each, piece) for each in (logits, greatest, total)), strict=True):
        x = part.float()
        torch.amax(x, dim=-1, keepdim=True, out=most)
        torch.sum(x.sub_(most).exp_(), dim=-1, keepdim=True, out=sums)
        part.copy_(x)
    return total.log() + greatest, 1.0 / total
