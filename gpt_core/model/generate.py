"""Token generation: prompts of any lengths go on together, a token a row each round, with one key and value cache.

Rows are aligned on the right, so that all write the same column of the cache, and padded on the left; positions tell
the decoder where each begins. A row that has ended gives its place to the last one, and columns that no row has any
more are forgotten: a round costs what the rows that still go on need. B rows, T tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt_core.model.attention import KeyValueCache
from gpt_core.model.decoder import Decoder
from gpt_core.model.sampling import Sampling, choose_tokens


@dataclass
class _Row:
    """A prompt that still goes on."""

    number: int
    length: int  # tokens that the decoder has seen, or sees in this round
    draws: list[float]  # of the tokens to come, the next one last
    token: int = -1  # the last one chosen


class Generation:
    """Iterating, once, yields (number of a prompt, its next token) round by round, and None where it has ended.

    It ends at `stop_id`, which is not yielded, after `max_new_tokens`, where the context is full (nothing
    slides: every token shall have been predicted from all that stand before it), and when `end` is called.
    `n_candidates` bars the ids from there on, for the rows of the vocabulary that no tokenizer can decode.

    What a prompt gets depends on itself, on its one of `seeds` and on `sampling`; its neighbours change no more than
    the rounding of its logits. The decoder is in evaluation mode afterwards. Raises ValueError for a prompt that is
    empty or leaves no room in the context, and FloatingPointError for logits that are not finite.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        seeds: Sequence[int],
        stop_id: int | None = None,
        n_candidates: int | None = None,
    ) -> None:
        limit = decoder.config.context_length
        if max_new_tokens < 1:
            raise ValueError(f"{max_new_tokens=} must be at least 1")
        self._rows: list[_Row] = []
        for number, (ids, seed) in enumerate(zip(prompts, seeds, strict=True)):
            if not 0 < len(ids) < limit:
                raise ValueError(f"prompt {number} has {len(ids)} tokens; it must have 1 to {limit - 1}")
            generator = torch.Generator().manual_seed(seed)
            draws = torch.rand(min(max_new_tokens, limit - len(ids)), generator=generator, dtype=torch.float64)
            self._rows.append(_Row(number, len(ids), draws.flip(0).tolist()))
        self._prompts, self._ended = prompts, set[int]()
        self._decoder, self._sampling = decoder.eval(), sampling
        self._stop_id, self._n_candidates = stop_id, n_candidates

    def end(self, number: int) -> None:
        """The prompt `number` gets no more tokens."""
        self._ended.add(number)

    def __iter__(self) -> Iterator[tuple[int, int | None]]:
        longest = max((len(ids) for ids in self._prompts), default=0)
        rounds = max((len(row.draws) for row in self._rows), default=0)
        cache = KeyValueCache(self._decoder.config, capacity=longest + rounds - 1)  # the last token is never read
        ids = torch.tensor([[0] * (longest - len(ids)) + list(ids) for ids in self._prompts])
        while self._rows:
            self._choose(ids, cache)
            for row in self._rows:
                if row.token == self._stop_id:
                    self._ended.add(row.number)
                else:
                    yield row.number, row.token
            yield from [(number, None) for number in self._drop_ended(cache)]
            ids = torch.tensor([[row.token] for row in self._rows])
            for row in self._rows:
                row.length += 1

    @torch.inference_mode()
    def _choose(self, ids: Tensor, cache: KeyValueCache) -> None:
        """Every row has its next token, behind its last ones, `ids` (B, T)."""
        device = self._decoder.embedding.weight.device
        lengths = torch.tensor([row.length for row in self._rows])
        positions = None  # all alike: no mask
        if bool((lengths != lengths[0]).any()):
            positions = (lengths[:, None] + torch.arange(-ids.size(1), 0)).clamp(min=0).to(device)  # (B, T)
        hidden = self._decoder(ids.to(device), positions=positions, cache=cache)[:, -1]  # (B, C)
        logits = self._decoder.logits(hidden)[:, : self._n_candidates].float()
        draws = torch.tensor([row.draws.pop() for row in self._rows], dtype=torch.float64, device=device)
        for row, token in zip(self._rows, choose_tokens(logits, self._sampling, draws).tolist(), strict=True):
            row.token = token

    @torch.inference_mode()
    def _drop_ended(self, cache: KeyValueCache) -> list[int]:
        """The rows that go on stand alone in the batch; the numbers of the others."""
        rows, dropped = self._rows, []
        for place in reversed(range(len(rows))):
            if rows[place].number in self._ended or not rows[place].draws:
                dropped.append(rows[place].number)
                rows[place] = rows[-1]
                rows.pop()
                cache.drop(place)
        if rows:
            cache.forget(cache.length - max(row.length for row in rows))
        return dropped
