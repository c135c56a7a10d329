"""A prompt and a model folder in, text out, piece by piece."""

from collections.abc import Iterator
from pathlib import Path

from gpt_core.errors import InputError
from gpt_core.model.generate import generate
from gpt_core.model.hf import load_decoder
from gpt_core.tokenizer.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"  # what a cut UTF-8 sequence decodes to


def stream_text(
    folder: Path, prompt: str, *, max_new_tokens: int, temperature: float, top_k: int, seed: int
) -> Iterator[str]:
    """Yields the text that continues `prompt`, in pieces that are whole characters; joined, they are the decoded ids.

    `folder` holds a language model with its tokenizer, or is an output of pre-training. Ends at the end-of-text
    token. Raises InputError for a folder without a model and for a prompt that fills the context.
    """
    model = folder / "model" if (folder / "model" / "config.json").is_file() else folder
    if not (model / "config.json").is_file():
        raise InputError(
            f"{folder}: holds no model; give a folder with config.json, such as workspace/runs/demo/pretrain"
        )
    tokenizer, decoder = Tokenizer.load(model), load_decoder(model)
    ids = tokenizer.encode(prompt) or [tokenizer.end_of_text_id]
    if len(ids) >= decoder.config.context_length:
        raise InputError(f"--prompt: {len(ids)} tokens leave no room in a context of {decoder.config.context_length}")
    tokens = generate(
        decoder,
        ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        stop_id=tokenizer.end_of_text_id,
        n_candidates=tokenizer.vocab_size,
    )
    new: list[int] = []
    told = ""
    for token in tokens:
        new.append(token)
        text = tokenizer.decode(new)
        if not text.endswith(REPLACEMENT):
            yield text[len(told) :]
            told = text
    yield tokenizer.decode(new)[len(told) :]
