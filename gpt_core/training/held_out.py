"""How likely a language model finds held-out text, in all and by source.

The validation shards stand in a row, source by source, and are cut into whole windows as in training: a window may
begin inside a document and run on into the next, and the first tokens behind a border have only what the window
shows as their context (with `document_mask` only what their own document shows). So the figures of all text are those
that pre-training validates by, and every target is counted once. A target belongs to the source whose shard holds it;
a window that two sources share is scored for each with the other's targets left out. The sums over sources are thus
the total's. What is left behind the last whole window is not scored.

Bits per byte are per UTF-8 byte of the text, of which the scored tokens have their share; the end of a document costs
nats and has no byte. They compare across tokenizers, as losses per token do not.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from gpt_core.data.batches import ValidationWindows
from gpt_core.data.shard_set import ShardSet
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import LanguageModel
from gpt_core.tasks.spec import IGNORED
from gpt_core.tokenizer.tokenizer import Tokenizer

BATCH_TOKENS = 8192  # in a forward pass

Report = Callable[[int, int], None]  # tokens done, tokens in all


@dataclass(frozen=True)
class LanguageScore:
    """Likelihood of a text. The loss is in nats a token, the perplexity its exponential."""

    loss: float
    bits_per_byte: float
    perplexity: float
    tokens: int

    @classmethod
    def of_sums(cls, nats: float, tokens: int, text_bytes: float) -> "LanguageScore":
        """The score of `tokens` tokens that stand for `text_bytes` bytes and cost `nats`."""
        loss = nats / tokens
        return cls(loss, nats / math.log(2) / text_bytes, math.exp(loss), tokens)


@dataclass(frozen=True)
class HeldOutScore:
    """All text, and each source that has a target in a window."""

    total: LanguageScore
    sources: dict[str, LanguageScore]


@dataclass(frozen=True)
class Stretch:
    """What one source has of the row: shards, and the tokens from `begin` to before `stop`."""

    source: str
    shards: range
    begin: int
    stop: int


def score_held_out(
    decoder: Decoder,
    shards: ShardSet,
    tokenizer: Tokenizer,
    report: Report,
    *,
    text_bytes: int,
    document_mask: bool = False,
) -> HeldOutScore:
    """The decoder's score on all whole windows of the validation `shards`, which hold `text_bytes` bytes of text.

    `tokenizer` made the shards. Raises UserError if there is no whole window.
    """
    windows = ValidationWindows(shards, decoder.config.context_length)
    scored = len(windows) * windows.context_length
    all_nats, done, sources = 0.0, 0, {}
    for stretch in stretches(shards):
        nats, tokens = 0.0, 0
        for more_nats, more_tokens in _score_stretch(decoder, windows, stretch, document_mask=document_mask):
            nats, tokens = nats + more_nats, tokens + more_tokens
            report(done + tokens, scored)
        all_nats, done = all_nats + nats, done + tokens
        if tokens:
            own_bytes = sum(count_text_bytes(shards, number, tokenizer) for number in stretch.shards)
            share = tokens / (stretch.stop - stretch.begin)
            sources[stretch.source] = LanguageScore.of_sums(nats, tokens, own_bytes * share)
    return HeldOutScore(LanguageScore.of_sums(all_nats, scored, text_bytes * scored / shards.n_tokens), sources)


def stretches(shards: ShardSet) -> Iterator[Stretch]:
    """The sources in the order of the row, in which the shards of each stand together."""
    first = 0
    for source, entries in groupby(shards.entries, key=lambda entry: entry.source):
        numbers = range(first, first := first + len(list(entries)))
        yield Stretch(source, numbers, *shards.borders[[numbers.start, numbers.stop]].tolist())


def count_text_bytes(shards: ShardSet, number: int, tokenizer: Tokenizer) -> int:
    """UTF-8 bytes of the documents in a shard; a byte-level tokenizer's by a table, others' by decoding them."""
    shard = shards.shard(number)
    if not tokenizer.is_byte_level:
        documents = np.split(shard.tokens, shard.offsets[1:-1])
        texts = tokenizer.decode_batch([ids[:-1].tolist() for ids in documents])  # the last is the end of text
        return sum(len(text.encode("utf-8")) for text in texts)
    sizes = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for token, value in tokenizer.token_bytes.items():
        sizes[token] = len(value)
    sizes[tokenizer.end_of_text_id] = 0
    return int(sizes @ np.bincount(shard.tokens, minlength=len(sizes)))


def _score_stretch(
    decoder: Decoder, windows: ValidationWindows, stretch: Stretch, *, document_mask: bool
) -> Iterator[tuple[float, int]]:
    """(nats, targets) of a source, some windows at a time. The targets of window w are tokens w T + 1 to w T + T."""
    T = windows.context_length  # noqa: N806
    model, device = LanguageModel(decoder), decoder.embedding.weight.device
    first = max(0, (stretch.begin - 1) // T)
    end = min(len(windows), (stretch.stop - 2) // T + 1)
    size = max(1, BATCH_TOKENS // T)
    for start in range(first, end, size):
        numbers = np.arange(start, min(start + size, end))
        taken = windows.take(numbers)  # (B, T + 1)
        places = numbers[:, None] * T + np.arange(1, T + 1)  # (B, T), of the targets in the row
        inside = (places >= stretch.begin) & (places < stretch.stop)
        ids, targets = torch.from_numpy(taken), torch.from_numpy(np.where(inside, taken[:, 1:], IGNORED))
        positions = torch.from_numpy(windows.positions(taken)).to(device).long() if document_mask else None
        with torch.inference_mode():
            nats = float(model(ids[:, :-1].to(device), targets.to(device), positions)[0])
        yield nats, int(inside.sum())
