"""A random decoder on validation shards of three sources, whose borders lie inside windows."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import torch.nn.functional as F
from tiny_decoder import make_decoder

from gpt_core.data.shard_set import ShardSet, locate_in
from gpt_core.data.shards import ShardMetadata
from gpt_core.errors import UserError
from gpt_core.model.decoder import Decoder
from gpt_core.tokenizer.tokenizer import Tokenizer, build_backend, close_vocabulary
from gpt_core.training import held_out
from gpt_core.training.held_out import HeldOutScore, score_held_out
from tiny_shards import write_shards

T = 16
SOURCES = {  # shards of documents; "" are small sources that share shards
    "": [["0123456789QXYZJ"]],  # with its end T tokens: the next source begins with the last target of a window
    "sea": [["the whale and the ship. "] * 5, ["the bird in the air by the sea"] * 2],
    "web": [["a hill and a na\u00efve hill, "] * 4],
}


@dataclass(frozen=True)
class HeldOut:
    """Text in shards, and a decoder to score it."""

    shards: ShardSet
    tokenizer: Tokenizer
    decoder: Decoder
    text_bytes: int

    def score(self, *, document_mask: bool = False) -> HeldOutScore:
        return score_held_out(
            self.decoder,
            self.shards,
            self.tokenizer,
            lambda *_: None,
            text_bytes=self.text_bytes,
            document_mask=document_mask,
        )


@pytest.fixture
def text(tmp_path: Path) -> HeldOut:
    backend = build_backend()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([text for shards in SOURCES.values() for texts in shards for text in texts], trainer)
    tokenizer = close_vocabulary(backend, "<|endoftext|>")
    metadata = ShardMetadata(tokenizer.digest, tokenizer.vocab_size, tokenizer.end_of_text_id, seed=0)
    encoded = {
        source: [[tokenizer.encode(text) for text in texts] for texts in shards] for source, shards in SOURCES.items()
    }
    index = write_shards(tmp_path, {}, encoded, metadata)
    decoder = make_decoder("gpt2", context_length=T, vocab_size=tokenizer.vocab_size)
    text_bytes = sum(count_bytes(source) for source in SOURCES)
    return HeldOut(ShardSet(index.validation, metadata, locate=locate_in(tmp_path)), tokenizer, decoder, text_bytes)


def count_bytes(source: str) -> int:
    return sum(len(text.encode()) for texts in SOURCES[source] for text in texts)


def nats_of_targets(text: HeldOut, *, document_mask: bool) -> np.ndarray:
    """Of every target in the whole windows of the row, which the first id is not."""
    row = np.concatenate([text.shards.shard(n).tokens for n in range(len(text.shards.entries))]).astype(np.int64)
    nats = []
    for start in range(0, len(row) - T, T):
        ids = torch.from_numpy(row[start : start + T + 1])
        positions = None
        if document_mask:
            counted, position = [], 0
            for token in ids[:-1].tolist():
                counted.append(position)
                position = 0 if token == text.tokenizer.end_of_text_id else position + 1
            positions = torch.tensor([counted])
        logits = text.decoder.logits(text.decoder(ids[None, :-1], positions=positions))[0]
        nats.append(F.cross_entropy(logits.float(), ids[1:], reduction="none").detach().numpy())
    return np.concatenate(nats)


@pytest.mark.parametrize("document_mask", [False, True])
@pytest.mark.parametrize("batch_tokens", [1, 3 * T, 10_000])
def test_every_target_counts_once_and_for_the_source_that_holds_it(
    text: HeldOut, monkeypatch: pytest.MonkeyPatch, batch_tokens: int, document_mask: bool
) -> None:
    monkeypatch.setattr(held_out, "BATCH_TOKENS", batch_tokens)
    score = text.score(document_mask=document_mask)
    nats = nats_of_targets(text, document_mask=document_mask)
    assert score.total.tokens == len(nats)
    assert score.total.loss == pytest.approx(nats.mean(), rel=1e-5)
    assert text.shards.borders[1] == T
    sources = [entry.source for entry in text.shards.entries for _ in range(entry.tokens)][1 : len(nats) + 1]
    assert list(score.sources) == ["", "sea", "web"]
    for source, found in score.sources.items():
        own = nats[np.array(sources) == source]
        assert found.tokens == len(own)
        assert found.loss == pytest.approx(own.mean(), rel=1e-5)


def test_a_model_that_knows_nothing_has_the_bits_per_byte_worked_by_hand(text: HeldOut) -> None:
    """Equal odds for the 384 rows of the embedding: ln 384 nats a token, of any source."""
    torch.nn.init.zeros_(text.decoder.embedding.weight)
    score = text.score()
    assert score.total.loss == pytest.approx(math.log(384))
    assert score.total.perplexity == pytest.approx(384)
    assert score.total.bits_per_byte == pytest.approx(math.log2(384) * text.shards.n_tokens / text.text_bytes)
    for source, found in score.sources.items():
        tokens = sum(entry.tokens for entry in text.shards.entries if entry.source == source)
        assert found.bits_per_byte == pytest.approx(math.log2(384) * tokens / count_bytes(source))


def test_bytes_are_counted_alike_by_table_and_by_decoding(text: HeldOut, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = range(len(text.shards.entries))
    by_table = [held_out.count_text_bytes(text.shards, number, text.tokenizer) for number in numbers]
    monkeypatch.setattr(text.tokenizer, "is_byte_level", False)
    assert [held_out.count_text_bytes(text.shards, number, text.tokenizer) for number in numbers] == by_table
    assert sum(by_table) == text.text_bytes


def test_progress_ends_at_all_targets(text: HeldOut) -> None:
    told: list[tuple[int, int]] = []
    score = score_held_out(
        text.decoder, text.shards, text.tokenizer, lambda *units: told.append(units), text_bytes=text.text_bytes
    )
    assert told == sorted(told)
    assert told[-1] == (score.total.tokens, score.total.tokens)


def test_a_text_shorter_than_a_window_is_refused(text: HeldOut) -> None:
    with pytest.raises(UserError, match=r"model\.context_length=16 exceeds the \d+ validation tokens"):
        score_held_out(text.decoder, text.shards.choose([0]), text.tokenizer, lambda *_: None, text_bytes=11)
