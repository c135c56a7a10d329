"""Learning the merges: byte-level BPE on a sample of documents (see sample.py).

The merges depend on the sample and the settings alone: training counts pieces of text, so that the order of the texts
does not matter. Cost: the trainer's count of distinct pieces.
"""

import logging
from collections.abc import Callable, Iterable, Iterator

import tokenizers

from gpt_core.errors import UserError
from gpt_core.recipe import Tokenizer as Settings
from gpt_core.tokenizer.alphabet import ALPHABET
from gpt_core.tokenizer.pretokenize import build_pre_tokenizer
from gpt_core.tokenizer.tokenizer import Tokenizer, build_backend, close_vocabulary

logger = logging.getLogger("gptmill")


def require_marks(settings: Settings) -> None:
    """No special token is a single piece of text, of which merges could make a token. Raises UserError for one."""
    split = build_pre_tokenizer(settings.pre_tokenizer)
    for field, mark in _marks(settings):
        if len(split.pre_tokenize_str(mark)) == 1:
            raise _mark_is_text(field, mark)


def train_tokenizer(
    batches: Iterable[list[str]], settings: Settings, *, seen: Callable[[int], None] = lambda _: None
) -> Tokenizer:
    """The tokenizer whose merges are learned from all texts; `seen` is told the documents of every batch read.

    Where the texts hold too few repeated pairs the vocabulary is smaller than asked for; a warning says so.
    Raises UserError for a special token that a text could spell as one token.
    """
    require_marks(settings)
    backend = build_backend(settings.pre_tokenizer)

    def watched() -> Iterator[list[str]]:
        for batch in batches:
            yield batch
            seen(len(batch))

    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=settings.vocab_size - 1 - len(settings.special_tokens),
        min_frequency=settings.min_frequency,
        initial_alphabet=ALPHABET,
        show_progress=False,
    )
    backend.train_from_iterator(watched(), trainer)
    for field, mark in _marks(settings):
        if mark in backend.get_vocab():  # it reads like other text that is spelled in bytes
            raise _mark_is_text(field, mark)
    tokenizer = close_vocabulary(backend, settings.end_of_text, special_tokens=settings.special_tokens)
    if tokenizer.vocab_size < settings.vocab_size:
        logger.warning(
            "the sample gives a vocabulary of %d tokens, tokenizer.vocab_size asks for %d: too few pairs occur "
            "tokenizer.min_frequency=%d times",
            tokenizer.vocab_size,
            settings.vocab_size,
            settings.min_frequency,
        )
    return tokenizer


def _marks(settings: Settings) -> list[tuple[str, str]]:
    """(field of the recipe, special token), in the order of their ids."""
    return [*(("special_tokens", mark) for mark in settings.special_tokens), ("end_of_text", settings.end_of_text)]


def _mark_is_text(field: str, mark: str) -> UserError:
    return UserError(
        f"tokenizer.{field}={mark!r} could be a token of text; take a mark of several parts, as <|endoftext|>"
    )
