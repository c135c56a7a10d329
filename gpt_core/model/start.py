"""What training begins with: random weights, or those of a language model in Hugging Face layout."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gpt_core import recipe
from gpt_core.errors import UserError
from gpt_core.model.config import INIT_STD, DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.model.hf import load_decoder
from gpt_core.model.hf_config import require_shape
from gpt_core.tasks.spec import Marks


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
    return _make(replace(stored, dropout=model.dropout, pad_id=pad_id), load_decoder(folder).state_dict())


def load_for_task(folder: Path, tokenizer_vocab_size: int, *, seed: int = 0) -> Decoder:
    """The decoder in `folder` with a row for each of the marks behind the tokenizer's tokens; `pad_id` is the last's.

    Rows that the model has beyond those tokens are taken as they are. A new one is the mean of the tokens' rows, plus
    normal(0, 0.02) by `seed`: its logit is near their mean, where a random row's would outweigh a model whose logits
    are far below 0, as GPT-2's are. Raises as `load_decoder`, and UserError for fewer rows than tokens.
    """
    decoder = load_decoder(folder)
    state = decoder.state_dict()
    rows = state["embedding.weight"]
    if len(rows) < tokenizer_vocab_size:
        raise UserError(
            f"{folder}: {len(rows)} rows of the vocabulary are fewer than the {tokenizer_vocab_size} tokens of the "
            "tokenizer beside it; give the folder of a model with its own tokenizer"
        )
    pad_id = Marks.behind(tokenizer_vocab_size).pad
    lacking = max(0, pad_id + 1 - len(rows))
    new = torch.empty(lacking, rows.size(1)).normal_(0.0, INIT_STD, generator=torch.Generator().manual_seed(seed))
    state["embedding.weight"] = torch.cat((rows, rows[:tokenizer_vocab_size].mean(dim=0) + new))
    return _make(replace(decoder.config, vocab_size=len(rows) + lacking, pad_id=pad_id), state)


def _make(config: DecoderConfig, state: dict[str, Tensor]) -> Decoder:
    """A decoder of these tensors, which are not copied."""
    with torch.device("meta"):
        decoder = Decoder(config)
    decoder.load_state_dict(state, assign=True)
    return decoder
