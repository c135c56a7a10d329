"""What is minimized, as modules whose forward pass returns sums: L1 of pre-training, L2 and L1 of fine-tuning.

The products run in `precision`: `autocast` rounds them to bf16 while weights, gradients and optimizer stay in fp32;
a `bf16` objective has been made bf16 by the engine, which keeps fp32 weights beside it.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import LanguageModel, TaskModel, example_losses, token_cross_entropy
from gpt_core.tasks.spec import IGNORED, TaskSpec

Precision = Literal["fp32", "bf16", "autocast"]


def _products(device: torch.device, precision: Precision) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "autocast")


class LanguageObjective(nn.Module):
    """L1, summed: -sum log P(u_i | u_<i) (Radford et al. 2018, eq. 1), and what `z_loss` weighs."""

    def __init__(self, decoder: Decoder, precision: Precision, *, z_loss: float = 0.0) -> None:
        super().__init__()
        self.model = LanguageModel(decoder, z_loss=z_loss)
        self.precision = precision

    def forward(self, ids: Tensor, targets: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(nats, z) of `token_losses`: scalars over all targets that are not -100, to minimize as nats + z_loss z.

        `ids`, `targets` (B, T); `positions` (B, T) as the decoder's, where it attends within documents.
        """
        with _products(ids.device, self.precision):
            losses: tuple[Tensor, Tensor] = self.model(ids, targets, positions)
        return losses


class TaskObjective(nn.Module):
    """L2 and L1 of a task, each summed over examples, and what the model says (Radford et al. 2018, eq. 4 and 5)."""

    def __init__(
        self,
        model: TaskModel,
        spec: TaskSpec,
        precision: Precision,
        *,
        with_language_model: bool,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self.with_language_model = with_language_model
        self._target = spec.target
        self._class_weights = class_weights  # no buffer: an engine that makes the module bf16 would round it

    def forward(self, ids: Tensor, lengths: Tensor, targets: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(L2, L1, outputs): two fp32 scalars and the model's logits in fp32, without gradient.

        `ids`, `targets` (B, S, T), `lengths` (B, S); `labels` of class and choice (B,) int64, of classes (B, n_outputs)
        and of number (B,) float32. Targets and labels of -100, or NaN, count nothing. L2 is cross-entropy, weighted
        by the true class where there are weights, or over an example's choices; of classes the mean of their binary
        cross-entropies; of number the squared error. L1 is over all sequences, 0 where it is switched off.
        """
        with _products(ids.device, self.precision):
            logits, hidden = self.model(ids, lengths)
            l1 = hidden.new_zeros((), dtype=torch.float32)
            if self.with_language_model:
                l1 = token_cross_entropy(hidden, self.model.decoder.embedding.weight, targets)
        logits = logits.float()
        return self._loss(logits, labels), l1, logits.detach()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self._target in ("class", "choice"):
            weights = None if self._class_weights is None else self._class_weights.to(logits.device)
            return F.cross_entropy(logits, labels, weight=weights, ignore_index=IGNORED, reduction="sum")
        real = ~labels.isnan()
        logits, labels = logits[real], labels[real]
        if self._target == "number":
            return F.mse_loss(logits, labels, reduction="sum")
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / self.model.score.out_features


class CompletionObjective(nn.Module):
    """L2 of completions, which is the likelihood of their tokens, with the forward pass of `TaskObjective`."""

    def __init__(self, decoder: Decoder, precision: Precision) -> None:
        super().__init__()
        self.model = decoder
        self.precision = precision

    def forward(self, ids: Tensor, lengths: Tensor, targets: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002
        """(L2, 0, outputs): nats of all targets that are not -100, and (B, 2), nats and targets of each example."""
        B, S, T = ids.shape  # noqa: N806
        with _products(ids.device, self.precision):
            hidden = self.model(ids.view(B * S, T)).view(B, S, T, -1)
            nats, outputs = example_losses(hidden, self.model.embedding.weight, targets)
        return nats, torch.zeros_like(nats), outputs
