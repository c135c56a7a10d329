"""Which token comes next, chosen from the logits of every row of a batch."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """Tokens are drawn from softmax(logits / `temperature`) over the `top_k` best and, of these, the nucleus.

    The nucleus is the fewest best tokens that have at least `top_p` of the mass (Holtzman et al. 2020, eq. 2 and 3).
    Temperature 0 always takes the best; top_k 0 and top_p 1 bar nothing. Raises ValueError for other values.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.temperature < math.inf and self.top_k >= 0 and 0.0 < self.top_p <= 1.0):
            raise ValueError(f"{self}: temperature must be 0 or more, top_k too, and top_p over 0 and at most 1")


def choose_tokens(logits: Tensor, sampling: Sampling, draws: Tensor) -> Tensor:
    """One id a row, (B,) int64, of `logits` (B, V); `draws` (B,) float64 in [0, 1) says which, where it is drawn.

    A row's id is where the distribution function of its tokens, the best first (without top_k and top_p: in the order
    of their ids), passes its draw. So a logit that is rounded otherwise, as in a batch of another size, almost never
    gives another token. Raises FloatingPointError for logits that are not finite.
    """
    if not bool(logits.isfinite().all()):
        raise FloatingPointError("the decoder's logits are not finite")
    if sampling.temperature == 0.0:
        return logits.argmax(dim=-1)
    n_candidates = logits.size(-1)
    k = min(sampling.top_k or n_candidates, n_candidates)
    ids = None
    if k < n_candidates or sampling.top_p < 1.0:
        logits, ids = logits.topk(k)
    logits = logits.double()
    odds = torch.softmax((logits - logits.amax(dim=-1, keepdim=True)) / sampling.temperature, dim=-1)  # (B, k)
    mass = odds.cumsum(dim=-1)
    # a token is kept while the better ones have less than top_p: the best always is
    last = (mass - odds < sampling.top_p * mass[:, -1:]).sum(dim=-1, keepdim=True) - 1  # (B, 1)
    places = torch.searchsorted(mass, draws[:, None] * mass.gather(1, last), right=True)
    places = places.minimum(last)  # a GPU sums in parallel: by rounding, a sum may be less than the one before
    return (places if ids is None else ids.gather(1, places)).squeeze(1)
