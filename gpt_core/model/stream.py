"""Prompts and a language model in, text out, piece by piece."""

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gpt_core.errors import InputError
from gpt_core.model.decoder import Decoder
from gpt_core.model.generate import Generation
from gpt_core.model.hf import load_decoder
from gpt_core.model.sampling import Sampling
from gpt_core.tokenizer.existing import open_model_tokenizer
from gpt_core.tokenizer.tokenizer import Tokenizer

BATCH_TOKENS = 8192  # of prompts that go on together, new tokens and padding in; 0.6 GB of keys and values in gpt2-124m
REPLACEMENT = "\ufffd"  # what a cut UTF-8 sequence decodes to


@dataclass(frozen=True)
class Piece:
    """The next characters of the text that continues the prompt `number`. Every text has one last piece."""

    number: int
    text: str
    last: bool


class Writer:
    """Tokens in, text out: whole characters, up to the first stop string, which is left out.

    What may still become a stop string is held back. Of several the one that is complete first counts, and of those
    the longest: how tokens cut the text makes no difference.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self.stopped = False
        self._tokenizer, self._stop = tokenizer, stop
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._tokens: list[int] = []  # of a tokenizer that knows whole texts alone
        self._told = ""
        self._held = ""

    def feed(self, token: int) -> str:
        """The text that is certain now and was not before."""
        return self._advance(self._decode(token))

    def close(self) -> str:
        """The rest, where no more tokens come: what was held back, and U+FFFD for half a character."""
        if self.stopped:
            return ""
        rest = self._bytes.decode(b"", final=True)
        if self._tokens:
            rest = self._tokenizer.decode(self._tokens)[len(self._told) :]
        text = self._advance(rest)
        return text if self.stopped else text + self._held

    def _decode(self, token: int) -> str:
        """The whole characters that end with this token."""
        if self._tokenizer.is_byte_level:
            return self._bytes.decode(self._tokenizer.decode_bytes([token]))
        self._tokens.append(token)
        text = self._tokenizer.decode(self._tokens)
        if text.endswith(REPLACEMENT):
            return ""
        new, self._told = text[len(self._told) :], text
        return new

    def _advance(self, new: str) -> str:
        text = self._held + new
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)[1]]
        kept = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def _overlap(text: str, stop: str) -> int:
    """The most characters at the end of `text` with which `stop` begins."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def open_language_model(folder: Path) -> tuple[Decoder, Tokenizer]:
    """The language model and the tokenizer in `folder`, or in its `model`, as in an output of pre-training.

    The decoder is on the GPU where there is one. Raises InputError for a folder without a model.
    """
    model = folder / "model" if (folder / "model" / "config.json").is_file() else folder
    if not (model / "config.json").is_file():
        raise InputError(
            f"{folder}: holds no model; give a folder with config.json, such as workspace/runs/demo/pretrain"
        )
    return load_decoder(model).to("cuda" if torch.cuda.is_available() else "cpu"), open_model_tokenizer(model)


def encode_prompts(prompts: Sequence[str], tokenizer: Tokenizer, *, context_length: int) -> list[list[int]]:
    """The ids of every prompt; an empty one begins a document. Raises InputError for one that fills the context."""
    encoded = [tokenizer.encode(prompt) or [tokenizer.end_of_text_id] for prompt in prompts]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if len(ids) >= context_length:
            raise InputError(
                f"the prompt {prompt[:32]!r}...: {len(ids)} tokens leave no room in a context of {context_length}; "
                "shorten it"
            )
    return encoded


def stream_texts(
    decoder: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
    stop: Sequence[str] = (),
) -> Iterator[Piece]:
    """Yields the texts that continue `prompts`, token ids, in pieces as they come: those of all prompts mixed.

    A text ends at the end-of-text token, before a stop string, after `max_new_tokens`, and where the context is full.
    Prompt i is drawn with `seed` + i. As many prompts go on together as BATCH_TOKENS allows. Raises ValueError for a
    prompt that is empty or leaves no room in the context.
    """
    limit = decoder.config.context_length
    for numbers in _batches([min(len(ids) + max_new_tokens, limit) for ids in prompts]):
        generation = Generation(
            decoder,
            [prompts[number] for number in numbers],
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            seeds=[seed + number for number in numbers],
            stop_id=tokenizer.end_of_text_id,
            n_candidates=tokenizer.vocab_size,
        )
        writers = [Writer(tokenizer, stop) for _ in numbers]
        for row, token in generation:
            text = writers[row].close() if token is None else writers[row].feed(token)
            if writers[row].stopped:
                generation.end(row)
            if text or token is None:
                yield Piece(numbers[row], text, last=token is None)


def in_turn(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same pieces text by text, in the order of their numbers, each as soon as those before it are whole."""
    waiting: dict[int, list[Piece]] = {}
    turn = 0
    for piece in pieces:
        waiting.setdefault(piece.number, []).append(piece)
        while turn in waiting:
            ready = waiting.pop(turn)
            yield from ready
            turn += ready[-1].last


def _batches(lengths: Sequence[int]) -> Iterator[range]:
    """The numbers of neighbours that go together, where number i has lengths[i] tokens: at least one of them."""
    start = longest = 0
    for number, length in enumerate(lengths):
        longest = max(longest, length)
        if number > start and longest * (number + 1 - start) > BATCH_TOKENS:
            yield range(start, number)
            start, longest = number, length
    yield range(start, len(lengths))
