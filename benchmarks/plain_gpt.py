"""A plain GPT-2, as nanoGPT has it: a peer of the training benchmarks.

Pre-LN blocks over torch's scaled_dot_product_attention, one cross-entropy over all logits. It reads its first weights
from a GPT-2 in Hugging Face layout, so that every contestant starts alike.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


class PlainBlock(nn.Module):
    """Attention and MLP, each on the normalized stream and added to it; names are Hugging Face's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.attn_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.mlp_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape  # noqa: N806
        q, k, v = (
            part.view(B, T, self.heads, C // self.heads).transpose(1, 2)
            for part in self.c_attn(self.ln_1(x)).split(C, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_proj(y.transpose(1, 2).contiguous().view(B, T, C))
        out: Tensor = x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))
        return out


class PlainGpt(nn.Module):
    """Token ids and targets in, their mean cross-entropy out."""

    def __init__(self, *, vocabulary: int, context: int, layers: int, heads: int, width: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The mean of -log P(target) over `targets` (B, T)."""
        x = self.wte(ids) + self.wpe(torch.arange(ids.size(1), device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)  # (B, T, V)
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))

    @torch.no_grad()
    def load_hugging_face(self, folder: Path) -> None:
        """The weights of the GPT-2 in `folder`; its matrices stand there transposed."""
        stored = load_file(folder / "model.safetensors")
        for name, parameter in self.named_parameters():
            theirs = name.replace("blocks.", "h.").replace("c_attn", "attn.c_attn").replace("attn_proj", "attn.c_proj")
            theirs = theirs.replace("c_fc", "mlp.c_fc").replace("mlp_proj", "mlp.c_proj")
            value = stored[f"transformer.{theirs}"]
            matrix = name.startswith("blocks.") and parameter.ndim == 2
            parameter.copy_(value.T if matrix else value)
