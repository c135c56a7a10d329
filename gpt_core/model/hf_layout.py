"""How transformers names the tensors that we hold, those of OpenAIGPT*, GPT2* and Qwen3*.

Ours is one decoder; theirs are three. The GPTs keep the matrices of their blocks transposed (their Conv1D layer),
Qwen3 keeps apart what we project at once: queries, keys and values, and the two halves of the gated MLP.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt_core.model.config import DecoderConfig

BODY = {"gpt1": "transformer.", "gpt2": "transformer.", "qwen3": "model."}  # before every tensor but the heads'
OUTPUT, SCORE = "lm_head.weight", "score.weight"
# Causal masks and the score of what they hide: constants, which older files of the GPTs keep among the weights.
BUFFER = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")


@dataclass(frozen=True)
class StoredTensor:
    """One of our tensors and what stands for it in a file: its rows, cut in pieces of `rows`, in that order."""

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...] = ()
    transposed: bool = False

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """The stored tensors of ours, contiguous."""
        pieces = torch.split(tensor, list(self.rows)) if self.rows else (tensor,)
        return {
            name: (piece.T if self.transposed else piece).contiguous()
            for name, piece in zip(self.theirs, pieces, strict=True)
        }

    def join(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Our tensor of the stored ones."""
        pieces = [stored[name].T if self.transposed else stored[name] for name in self.theirs]
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


def stored_tensors(config: DecoderConfig) -> list[StoredTensor]:
    """Every tensor of a decoder of this config, once. A language model's tied output is not stored."""
    return _qwen3_tensors(config) if config.architecture == "qwen3" else _gpt_tensors(config)


def stored_names(names: Iterable[str], config: DecoderConfig) -> dict[str, str]:
    """Our name of each tensor of a file -> its name there, without the masks that older files keep.

    A file of the body alone, as the first releases of the GPTs are, names its tensors without `BODY`.
    """
    body, names = BODY[config.architecture], list(names)
    bare = not any(name.startswith(body) for name in names)
    full = {body + name if bare and name not in (OUTPUT, SCORE) else name: name for name in names}
    return {name: there for name, there in full.items() if not BUFFER.fullmatch(name)}


def _gpt_tensors(config: DecoderConfig) -> list[StoredTensor]:
    first = config.architecture == "gpt1"
    tensors = [
        StoredTensor("embedding.weight", (f"transformer.{'tokens_embed' if first else 'wte'}.weight",)),
        StoredTensor("positions.weight", (f"transformer.{'positions_embed' if first else 'wpe'}.weight",)),
    ]
    if not first:
        tensors += [StoredTensor(f"norm.{kind}", (f"transformer.ln_f.{kind}",)) for kind in ("weight", "bias")]
    names = {
        "attention_norm": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.out": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    }
    for layer in range(config.n_layer):
        for ours, theirs in names.items():
            prefix, stored = f"blocks.{layer}.{ours}", f"transformer.h.{layer}.{theirs}"
            matrix = not ours.endswith("norm")
            tensors.append(StoredTensor(f"{prefix}.weight", (f"{stored}.weight",), transposed=matrix))
            tensors.append(StoredTensor(f"{prefix}.bias", (f"{stored}.bias",)))
    return tensors


def _qwen3_tensors(config: DecoderConfig) -> list[StoredTensor]:
    tensors = [
        StoredTensor("embedding.weight", ("model.embed_tokens.weight",)),
        StoredTensor("norm.weight", ("model.norm.weight",)),
    ]
    kv = config.n_kv_head * config.head_dim
    parts: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
        "attention_norm": (("input_layernorm",), ()),
        "attention.qkv": (
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            (config.n_embd, kv, kv),
        ),
        "attention.q_norm": (("self_attn.q_norm",), ()),
        "attention.k_norm": (("self_attn.k_norm",), ()),
        "attention.out": (("self_attn.o_proj",), ()),
        "mlp_norm": (("post_attention_layernorm",), ()),
        "mlp.up": (("mlp.gate_proj", "mlp.up_proj"), (config.n_inner, config.n_inner)),
        "mlp.down": (("mlp.down_proj",), ()),
    }
    for layer in range(config.n_layer):
        for ours, (theirs, rows) in parts.items():
            stored = tuple(f"model.layers.{layer}.{name}.weight" for name in theirs)
            tensors.append(StoredTensor(f"blocks.{layer}.{ours}.weight", stored, rows))
    return tensors
