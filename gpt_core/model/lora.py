"""Low-rank additions to frozen matrices (Hu et al. 2021): W x + alpha / rank B A x, of which A and B alone learn.

Wrapped are all matrices of the blocks, each as the decoder holds it: queries, keys and values share an A, and so do
the halves of a gated MLP. A of rank r costs r (in + out) weights instead of in x out. B begins with 0, so the model
begins as it was. Merged, it is the decoder that it was before, at no cost.
"""

import torch
from torch import Tensor, nn

from gpt_core.model.decoder import Decoder


class LoraLinear(nn.Module):
    """`linear` x + scale B A x. A is uniform within 1 / sqrt(in), as in the paper's own code; B is 0."""

    def __init__(self, linear: nn.Linear, *, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = linear
        self.a = nn.Linear(linear.in_features, rank, bias=False)
        self.b = nn.Linear(rank, linear.out_features, bias=False)
        self.scale = alpha / rank
        bound = linear.in_features**-0.5
        with torch.no_grad():
            self.a.weight.copy_(torch.empty(self.a.weight.shape).uniform_(-bound, bound, generator=generator))
            self.b.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        out: Tensor = self.linear(x) + self.scale * self.b(self.a(x))
        return out

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """The wrapped layer, to whose weight the addition is added."""
        self.linear.weight += self.scale * self.b.weight @ self.a.weight
        return self.linear


def add_lora(decoder: Decoder, *, rank: int, alpha: float, seed: int) -> None:
    """Every matrix of the blocks is wrapped. What learns is the caller's concern; A depends on `seed` alone."""
    generator = torch.Generator().manual_seed(seed)
    for parent in list(decoder.blocks.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                wrapped = LoraLinear(child, rank=rank, alpha=alpha, generator=generator)
                parent.add_module(name, wrapped)


def merge_lora(decoder: Decoder) -> None:
    """No matrix is wrapped any more; the decoder computes what it computed, but for rounding."""
    for parent in list(decoder.blocks.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLinear):
                parent.add_module(name, child.merge())
