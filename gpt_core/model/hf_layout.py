"""How transformers names what we hold: tensors and config fields of GPT2* and Qwen3*.

Ours is one decoder; theirs are two. GPT-2 keeps the matrices of its blocks transposed (its Conv1D layer), Qwen3
keeps apart what we project at once: queries, keys and values, and the two halves of the gated MLP.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt_core.fingerprint import Json
from gpt_core.model.attention import RMS_NORM_EPS
from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import INIT_STD, LAYER_NORM_EPS

LANGUAGE_MODEL = {"gpt2": "GPT2LMHeadModel", "qwen3": "Qwen3ForCausalLM"}
CLASSIFIER = {"gpt2": "GPT2ForSequenceClassification", "qwen3": "Qwen3ForSequenceClassification"}

# What the decoder computes and a config could gainsay: a stored config must say the same, or say nothing.
FIXED: dict[str, dict[str, Json]] = {
    "gpt2": {
        "activation_function": "gelu_new",
        "layer_norm_epsilon": LAYER_NORM_EPS,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    "qwen3": {
        "hidden_act": "silu",
        "rms_norm_eps": RMS_NORM_EPS,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
    },
}


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
    return _gpt2_tensors(config) if config.architecture == "gpt2" else _qwen3_tensors(config)


def _gpt2_tensors(config: DecoderConfig) -> list[StoredTensor]:
    tensors = [
        StoredTensor("embedding.weight", ("transformer.wte.weight",)),
        StoredTensor("positions.weight", ("transformer.wpe.weight",)),
        StoredTensor("norm.weight", ("transformer.ln_f.weight",)),
        StoredTensor("norm.bias", ("transformer.ln_f.bias",)),
    ]
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


def config_fields(config: DecoderConfig, *, end_of_text_id: int | None) -> dict[str, Json]:
    """The fields of config.json that say the shape, in transformers' names, and the special tokens.

    Absent ids are written as null, because GPT2Config would assume 50,256.
    """
    fields: dict[str, Json] = {
        "model_type": config.architecture,
        "dtype": "float32",
        "vocab_size": config.vocab_size,
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
        "pad_token_id": config.pad_id,
        "initializer_range": INIT_STD,
        **FIXED[config.architecture],
    }
    if config.architecture == "gpt2":
        return fields | {
            "n_positions": config.context_length,
            "n_embd": config.n_embd,
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            "n_inner": config.n_inner,
            "embd_pdrop": config.dropout,
            "attn_pdrop": config.dropout,
            "resid_pdrop": config.dropout,
        }
    return fields | {
        "max_position_embeddings": config.context_length,
        "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "head_dim": config.head_dim,
        "intermediate_size": config.n_inner,
        "rope_theta": config.rope_theta,  # transformers 4
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},  # transformers 5
    }
