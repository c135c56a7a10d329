"""What learns in fine-tuning: `freeze` before, `thaw` behind.

Where the embedding is frozen, the marks' rows are a parameter of their own: an optimizer would keep moments, and an
engine reduce gradients, for the whole vocabulary, of which weight decay would move every row.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_core.errors import UserError
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import TaskModel
from gpt_core.model.lora import add_lora, merge_lora
from gpt_core.recipe import Finetune
from gpt_core.tasks.spec import Marks


class MarkedEmbedding(nn.Module):
    """An embedding (V, C) that is frozen but for the marks' rows."""

    def __init__(self, embedding: nn.Embedding, marks: Marks) -> None:
        super().__init__()
        self.first, self.end = marks.start, marks.pad + 1
        self.frozen = embedding.weight
        self.marks = nn.Parameter(embedding.weight[self.first : self.end].detach().clone())

    @property
    def weight(self) -> Tensor:
        """All rows, (V, C)."""
        rows = self.frozen
        return torch.cat((rows[: self.first], self.marks, rows[self.end :]))

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., C). The rows are looked up, not put together."""
        marked = (ids >= self.first) & (ids < self.end)
        place = (ids - self.first).clamp(0, self.end - self.first - 1)
        return torch.where(marked[..., None], F.embedding(place, self.marks), F.embedding(ids, self.frozen))

    def merge(self) -> nn.Embedding:
        """A plain embedding of all rows."""
        with torch.device("meta"):
            plain = nn.Embedding(*self.frozen.shape)
        plain.weight = nn.Parameter(self.weight.detach())
        return plain


def freeze(model: TaskModel | Decoder, settings: Finetune, marks: Marks | None) -> None:
    """Of the decoder learns what `settings.trainable` names, and the rows of `marks`; the head always learns.

    With LoRA, the matrices are wrapped. Raises UserError for more trainable blocks than there are.
    """
    if settings.trainable == "all":
        return
    decoder = _decoder_of(model)
    decoder.requires_grad_(False)
    if marks is not None:
        decoder.add_module("embedding", MarkedEmbedding(decoder.embedding, marks))
    if settings.trainable == "last_n":
        count, blocks = settings.trainable_blocks, len(decoder.blocks)
        assert count is not None
        if count > blocks:
            raise UserError(f"finetune.trainable_blocks={count}: the model has {blocks} blocks; give no more")
        decoder.blocks[-count:].requires_grad_(True)
    if settings.trainable == "lora":
        add_lora(decoder, rank=settings.lora_rank, alpha=settings.lora_alpha, seed=settings.seed)


def thaw(model: TaskModel | Decoder, learned: Mapping[str, Tensor]) -> None:
    """`model`, which was frozen as the one that was trained, has what that one `learned`, and its plain form again.

    `learned` are the weights that an engine gives, under their names in the model. Raises ValueError for other names.
    """
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if named.keys() != learned.keys():
        raise ValueError(f"weights of another training: {sorted(named.keys() ^ learned.keys())}")
    with torch.no_grad():
        for name, value in named.items():
            value.copy_(learned[name])
    decoder = _decoder_of(model)
    merge_lora(decoder)
    if isinstance(decoder.embedding, MarkedEmbedding):
        decoder.add_module("embedding", decoder.embedding.merge())
    model.requires_grad_(True)


def _decoder_of(model: TaskModel | Decoder) -> Decoder:
    return model.decoder if isinstance(model, TaskModel) else model
