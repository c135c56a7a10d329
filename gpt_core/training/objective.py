"""What is minimized, as modules whose forward pass returns sums: L1 of pre-training, L2 and L1 of fine-tuning.

The products run in `precision`: `autocast` rounds them to bf16 while weights, gradients and optimizer stay in fp32;
a `bf16` objective has been made bf16 by the engine, which keeps fp32 weights beside it.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_core.model.config import IGNORED
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import LanguageModel, SequenceClassifier, token_cross_entropy

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


class ClassificationObjective(nn.Module):
    """L2 and L1, each summed, and which labels come out right (Radford et al. 2018, eq. 4 and 5)."""

    def __init__(self, classifier: SequenceClassifier, precision: Precision, *, with_language_model: bool) -> None:
        super().__init__()
        self.classifier = classifier
        self.precision = precision
        self.with_language_model = with_language_model

    def forward(self, ids: Tensor, lengths: Tensor, targets: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(L2, L1, correct): nats, nats and a count, scalars. `ids`, `targets` (B, T); `lengths`, `labels` (B,).

        Labels and targets of -100 count nothing. L1 is 0 where the language model is switched off.
        """
        with _products(ids.device, self.precision):
            logits, hidden = self.classifier(ids, lengths)
            weight = self.classifier.decoder.embedding.weight
            lm_loss = token_cross_entropy(hidden, weight, targets) if self.with_language_model else hidden.new_zeros(())
        loss = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
        correct = (logits.argmax(dim=-1) == labels).sum()
        return loss, lm_loss.float(), correct
