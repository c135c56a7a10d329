"""A stored model's config.json: the shape it says, and what it may not gainsay. Imports no torch.

A folder holds one of transformers' models of three kinds, as a language model or as a classifier.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_core import recipe
from gpt_core.errors import InputError, RecipeError
from gpt_core.fingerprint import Json
from gpt_core.model.config import INIT_STD, LAYER_NORM_EPS, RMS_NORM_EPS, DecoderConfig

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MODEL_TYPE = {"gpt1": "openai-gpt", "gpt2": "gpt2", "qwen3": "qwen3"}
LANGUAGE_MODEL = {"gpt1": "OpenAIGPTLMHeadModel", "gpt2": "GPT2LMHeadModel", "qwen3": "Qwen3ForCausalLM"}
CLASSIFIER = {
    "gpt1": "OpenAIGPTForSequenceClassification",
    "gpt2": "GPT2ForSequenceClassification",
    "qwen3": "Qwen3ForSequenceClassification",
}

# What the decoder computes and a config could gainsay: a stored config must say the same, or say nothing.
FIXED: dict[str, dict[str, Json]] = {
    "gpt1": {
        "afn": "gelu",  # by which transformers means its gelu_new here
        "layer_norm_epsilon": LAYER_NORM_EPS,
        "tie_word_embeddings": True,
    },
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
SHAPE = ("architecture", "n_layer", "n_head", "n_kv_head", "n_embd", "n_inner", "context_length", "rope_theta")


def config_fields(config: DecoderConfig, *, end_of_text_id: int | None) -> dict[str, Json]:
    """The fields of config.json that say the shape, in transformers' names, and the special tokens.

    Absent ids are written as null, because GPT2Config would assume 50,256.
    """
    fields: dict[str, Json] = {
        "model_type": MODEL_TYPE[config.architecture],
        "dtype": "float32",
        "vocab_size": config.vocab_size,
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
        "pad_token_id": config.pad_id,
        "initializer_range": INIT_STD,
        **FIXED[config.architecture],
    }
    if config.architecture != "qwen3":
        return fields | {
            "n_positions": config.context_length,
            "n_embd": config.n_embd,
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            **({"n_inner": config.n_inner} if config.architecture == "gpt2" else {}),
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


def read_config(folder: Path, classes: Mapping[str, str]) -> tuple[DecoderConfig, dict[str, Any]]:
    """The shape that the folder's config.json says, and all its fields; `classes` are the model's by architecture.

    Raises InputError that names the file and the field if it is missing, another kind of model or one that the
    decoder does not compute.
    """
    path = folder / CONFIG
    fields = _read_fields(path)
    kind = fields.get("model_type")
    architecture = next((name for name, stored in MODEL_TYPE.items() if stored == kind), None)
    if architecture is None:
        raise InputError(f"{path}: model_type is {kind!r}; this gptmill loads {', '.join(MODEL_TYPE.values())}")
    if fields.get("architectures") != [classes[architecture]]:
        raise InputError(f"{path}: architectures is {fields.get('architectures')!r}, not [{classes[architecture]!r}]")
    for name, value in FIXED[architecture].items():
        if fields.get(name, value) != value:
            raise InputError(f"{path}: {name} is {fields[name]!r}; the decoder computes {value!r} alone")
    try:
        return _qwen3_config(fields) if architecture == "qwen3" else _gpt_config(fields), fields
    except KeyError as error:
        raise InputError(f"{path}: the field {error.args[0]!r} is missing") from None
    except (AssertionError, ValueError) as error:
        raise InputError(f"{path}: its shape is not one of the decoder: {error}") from None


def require_shape(model: recipe.Model, folder: Path) -> DecoderConfig:
    """The shape of the language model in `folder`, where `model` describes the same; rows of the vocabulary aside.

    Raises RecipeError with every field that differs and both values, and InputError as `read_config`.
    """
    stored, _ = read_config(folder, LANGUAGE_MODEL)
    wanted = DecoderConfig.from_recipe(model, stored.vocab_size)
    fields = [name for name in SHAPE if name != "rope_theta" or stored.architecture == model.architecture == "qwen3"]
    problems = [
        f"model.{name}: {getattr(wanted, name)}, but {getattr(stored, name)} in the folder"
        for name in fields
        if getattr(wanted, name) != getattr(stored, name)
    ]
    if problems:
        raise RecipeError(problems, origin=f"pretrain.init_from={folder}")
    return stored


def _read_fields(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; give the folder of a model") from None
    except ValueError as error:
        raise InputError(f"{path}: is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InputError(f"{path}: is no JSON object")
    return fields


def _gpt_config(fields: dict[str, Any]) -> DecoderConfig:
    first = fields["model_type"] == MODEL_TYPE["gpt1"]
    rates = {name: fields.get(name, 0.1) for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop")}
    if len(set(rates.values())) != 1:
        raise ValueError(f"one dropout rate for all, not {rates}")
    own_width = not first and fields.get("n_inner") is not None
    return DecoderConfig(
        architecture="gpt1" if first else "gpt2",
        vocab_size=_count(fields, "vocab_size"),
        n_layer=_count(fields, "n_layer"),
        n_head=_count(fields, "n_head"),
        n_kv_head=_count(fields, "n_head"),
        n_embd=_count(fields, "n_embd"),
        n_inner=_count(fields, "n_inner") if own_width else 4 * _count(fields, "n_embd"),
        context_length=_count(fields, "n_positions"),
        dropout=rates["embd_pdrop"],
        rope_theta=10_000.0,
        pad_id=fields.get("pad_token_id"),
    )


def _qwen3_config(fields: dict[str, Any]) -> DecoderConfig:
    rotary = fields.get("rope_parameters") or {"rope_type": "default", "rope_theta": fields["rope_theta"]}
    if rotary.get("rope_type") != "default" or fields.get("rope_scaling") is not None:
        raise ValueError(f"plain rotary positions, not {fields.get('rope_scaling') or rotary}")
    config = DecoderConfig(
        architecture="qwen3",
        vocab_size=_count(fields, "vocab_size"),
        n_layer=_count(fields, "num_hidden_layers"),
        n_head=_count(fields, "num_attention_heads"),
        n_kv_head=_count(fields, "num_key_value_heads"),
        n_embd=_count(fields, "hidden_size"),
        n_inner=_count(fields, "intermediate_size"),
        context_length=_count(fields, "max_position_embeddings"),
        dropout=0.0,
        rope_theta=rotary["rope_theta"],
        pad_id=fields.get("pad_token_id"),
    )
    if fields["head_dim"] != config.head_dim:
        raise ValueError(f"heads as wide as hidden_size / num_attention_heads, not head_dim {fields['head_dim']}")
    return config


def _count(fields: dict[str, Any], name: str) -> int:
    value = fields[name]
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} {value!r} is no positive integer")
    return value
