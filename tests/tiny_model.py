"""A language model with random weights and a tokenizer of counted words, in a folder as it would be published."""

from pathlib import Path

from tiny_decoder import make_decoder

from gpt_core.model.hf import save_language_model
from gpt_core.tokenizer.tokenizer import Tokenizer
from tiny_training import make_tokenizer

CONTEXT = 64


def write_model(folder: Path) -> Path:
    """`folder` holds config.json, model.safetensors and the tokenizer's two files."""
    tokenizer = Tokenizer.load(make_tokenizer(folder.with_name(f"{folder.name}-tokenizer")).root)
    decoder = make_decoder("gpt2", vocab_size=tokenizer.vocab_size, context_length=CONTEXT)
    save_language_model(decoder, folder, end_of_text_id=tokenizer.end_of_text_id)
    tokenizer.save(folder)
    return folder
