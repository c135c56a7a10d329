"""Tiny decoders with weights that hide nothing: every gain, bias and matrix is random and large."""

import torch

from gpt_core import recipe
from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder

VOCAB_SIZE = 200  # of the tokenizer; the decoder's is 256


def make_decoder(
    architecture: str, *, seed: int = 0, context_length: int = 24, vocab_size: int = VOCAB_SIZE
) -> Decoder:
    model = recipe.Model(
        architecture=architecture,
        n_layer=2,
        n_head=4,
        n_kv_head=2 if architecture == "qwen3" else None,
        n_embd=32,
        context_length=context_length,
        rope_theta=500.0,
    )
    decoder = Decoder(DecoderConfig.from_recipe(model, vocab_size))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.normal_(1.0 if gain else 0.0, 0.2, generator=generator)
    return decoder.eval()


def draw_ids(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(seed))
