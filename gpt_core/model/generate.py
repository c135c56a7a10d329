"""Text generation: one token at a time, with a key and value cache."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gpt_core.model.attention import KeyValueCache
from gpt_core.model.decoder import Decoder


def generate(
    decoder: Decoder,
    ids: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    stop_id: int | None = None,
    n_candidates: int | None = None,
) -> Iterator[int]:
    """Yields the tokens that continue `ids`, one by one, and ends at `stop_id`, which it does not yield.

    It also ends after `max_new_tokens`, and where the context is full: nothing slides, because every token shall
    have been predicted from all that stand before it. Tokens are drawn from softmax(logits / `temperature`) over
    the `top_k` best (0: all); temperature 0 always takes the best. `n_candidates` bars the ids from there on, for
    the rows of the vocabulary that no tokenizer can decode. The same arguments give the same tokens.

    The decoder is in evaluation mode afterwards. Raises ValueError for an empty prompt or one that leaves no room in
    the context.
    """
    room = decoder.config.context_length - len(ids)
    if not ids or room < 1:
        raise ValueError(f"a prompt of {len(ids)} tokens; it must have 1 to {decoder.config.context_length - 1}")
    decoder.eval()

    def tokens() -> Iterator[int]:
        generator = torch.Generator().manual_seed(seed)
        cache = KeyValueCache(decoder.config)
        new = list(ids)  # the prompt, then one token at a time
        for _ in range(min(max_new_tokens, room)):
            with torch.inference_mode():
                hidden = decoder(torch.tensor([new], device=decoder.embedding.weight.device), cache=cache)
                logits = decoder.logits(hidden[0, -1])[:n_candidates].float().cpu()  # (V,)
            token = _choose(logits, temperature=temperature, top_k=top_k, generator=generator)
            if token == stop_id:
                return
            yield token
            new = [token]

    return tokens()


def _choose(logits: Tensor, *, temperature: float, top_k: int, generator: torch.Generator) -> int:
    """One id drawn from `logits` (V,) fp32."""
    if temperature == 0.0:
        return int(logits.argmax())
    if 0 < top_k < len(logits):
        best, candidates = logits.topk(top_k)
    else:
        best, candidates = logits, torch.arange(len(logits))
    probabilities = torch.softmax(best / temperature, dim=-1)
    return int(candidates[torch.multinomial(probabilities, 1, generator=generator)])
