"""The decoder that pre-training begins with: random weights, or those of a language model in Hugging Face layout."""

from dataclasses import replace
from pathlib import Path

import torch

from gpt_core import recipe
from gpt_core.errors import UserError
from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.model.hf import load_decoder
from gpt_core.model.hf_config import require_shape


def start_decoder(model: recipe.Model, *, vocab_size: int, init_from: str | None, seed: int) -> Decoder:
    """The decoder of `model` for a tokenizer of `vocab_size` tokens: random by `seed`, or with `init_from`'s weights.

    A folder's rows of the vocabulary are taken as they are: the first behind the tokenizer's tokens pads, if there is
    one. Dropout is the recipe's. Raises RecipeError for a folder of another shape, UserError for one with fewer rows
    than tokens, InputError for one that cannot be loaded.
    """
    if init_from is None:
        decoder = Decoder(DecoderConfig.from_recipe(model, vocab_size))
        decoder.init_weights(seed)
        return decoder
    folder = Path(init_from)
    stored = require_shape(model, folder)
    if stored.vocab_size < vocab_size:
        raise UserError(
            f"pretrain.init_from={folder}: {stored.vocab_size} rows of the vocabulary are fewer than the tokenizer's "
            f"{vocab_size} tokens; set tokenizer.path to the tokenizer of that model"
        )
    pad_id = vocab_size if vocab_size < stored.vocab_size else None
    with torch.device("meta"):
        decoder = Decoder(replace(stored, dropout=model.dropout, pad_id=pad_id))
    decoder.load_state_dict(load_decoder(folder).state_dict(), assign=True)
    return decoder
