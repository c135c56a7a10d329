"""Models on disk, in Hugging Face's layout: config.json and model.safetensors, which transformers loads as they are.

Language models are GPT2LMHeadModel and Qwen3ForCausalLM, classifiers GPT2ForSequenceClassification and
Qwen3ForSequenceClassification, whose logits equal ours. Loading is strict: every tensor has its place and its
shape, and a config that means another computation than the decoder's is refused. Weights are stored in fp32 and
nothing is ever unpickled. The tokenizer's files beside them are the caller's concern.

transformers pools a classifier at the rightmost token that is not `pad_token_id`. Ours is pooled at an end-of-text
token, so padding has an id of its own: `DecoderConfig.pad_id`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gpt_core.artifact import write_json
from gpt_core.errors import InputError
from gpt_core.fingerprint import Json
from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import SequenceClassifier
from gpt_core.model.hf_layout import CLASSIFIER, FIXED, LANGUAGE_MODEL, config_fields, stored_tensors

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SCORE = "score.weight"


def save_language_model(decoder: Decoder, folder: Path, *, end_of_text_id: int | None = None) -> list[Path]:
    """`folder` holds the decoder as a causal language model; both files are returned.

    `end_of_text_id` is what transformers' generation starts from and stops at.
    """
    fields: dict[str, Json] = {"architectures": [LANGUAGE_MODEL[decoder.config.architecture]]}
    fields |= config_fields(decoder.config, end_of_text_id=end_of_text_id)
    return _save(folder, fields, _split(decoder))


def save_classifier(
    classifier: SequenceClassifier, folder: Path, labels: list[str], *, end_of_text_id: int | None = None
) -> list[Path]:
    """`folder` holds the classifier, whose class i is called `labels[i]`; both files are returned."""
    if len(labels) != classifier.score.out_features:
        raise ValueError(f"{len(labels)} labels for {classifier.score.out_features} classes")
    decoder = classifier.decoder
    fields: dict[str, Json] = {"architectures": [CLASSIFIER[decoder.config.architecture]]}
    fields |= config_fields(decoder.config, end_of_text_id=end_of_text_id)
    fields |= {
        "problem_type": "single_label_classification",
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    return _save(folder, fields, _split(decoder) | {SCORE: classifier.score.weight.detach()})


def load_decoder(folder: Path) -> Decoder:
    """The decoder of the causal language model in `folder`, fp32, on the CPU, in training mode.

    Raises InputError that names the file and the field or tensor for anything missing, unexpected or unlike.
    """
    fields = _read_config(folder)
    config = _read_decoder_config(folder / CONFIG, fields, LANGUAGE_MODEL)
    decoder = Decoder(config)
    stored = _read_tensors(folder / WEIGHTS, _split(decoder))
    _join(decoder, stored)
    return decoder


def load_classifier(folder: Path) -> tuple[SequenceClassifier, list[str]]:
    """The classifier in `folder`, without dropout before its score, and its labels. Raises as `load_decoder`."""
    fields = _read_config(folder)
    config = _read_decoder_config(folder / CONFIG, fields, CLASSIFIER)
    names = fields.get("id2label")
    if not isinstance(names, dict) or list(names) != [str(index) for index in range(len(names))]:
        raise InputError(f"{folder / CONFIG}: id2label does not number the labels from 0; give {{'0': ..., '1': ...}}")
    labels = [str(name) for name in names.values()]
    classifier = SequenceClassifier(Decoder(config), len(labels), dropout=0.0)
    expected = _split(classifier.decoder) | {SCORE: classifier.score.weight.detach()}
    stored = _read_tensors(folder / WEIGHTS, expected)
    _join(classifier.decoder, stored)
    with torch.no_grad():
        classifier.score.weight.copy_(stored[SCORE])
    return classifier, labels


def _split(decoder: Decoder) -> dict[str, Tensor]:
    """The decoder's tensors under their stored names."""
    ours = decoder.state_dict()
    return {name: t for entry in stored_tensors(decoder.config) for name, t in entry.split(ours[entry.ours]).items()}


def _join(decoder: Decoder, stored: Mapping[str, Tensor]) -> None:
    """The decoder has the stored weights."""
    decoder.load_state_dict({entry.ours: entry.join(stored) for entry in stored_tensors(decoder.config)})


def _save(folder: Path, fields: dict[str, Json], tensors: Mapping[str, Tensor]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()}
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    return [write_json(folder / CONFIG, fields), folder / WEIGHTS]


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; give the folder of a model") from None
    except ValueError as error:
        raise InputError(f"{path}: is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InputError(f"{path}: is no JSON object")
    return fields


def _read_decoder_config(path: Path, fields: dict[str, Any], classes: dict[str, str]) -> DecoderConfig:
    """The shape that config.json says, if the decoder can be it."""
    kind = fields.get("model_type")
    if kind not in classes:
        raise InputError(f"{path}: model_type is {kind!r}; this gptmill loads {' and '.join(classes)}")
    if fields.get("architectures") != [classes[kind]]:
        raise InputError(f"{path}: architectures is {fields.get('architectures')!r}, not [{classes[kind]!r}]")
    for name, value in FIXED[kind].items():
        if fields.get(name, value) != value:
            raise InputError(f"{path}: {name} is {fields[name]!r}; the decoder computes {value!r} alone")
    try:
        config = _gpt2_config(fields) if kind == "gpt2" else _qwen3_config(fields)
    except KeyError as error:
        raise InputError(f"{path}: the field {error.args[0]!r} is missing") from None
    except (AssertionError, ValueError) as error:
        raise InputError(f"{path}: its shape is not one of the decoder: {error}") from None
    return config


def _gpt2_config(fields: dict[str, Any]) -> DecoderConfig:
    rates = {name: fields.get(name, 0.1) for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop")}
    if len(set(rates.values())) != 1:
        raise ValueError(f"one dropout rate for all, not {rates}")
    return DecoderConfig(
        architecture="gpt2",
        vocab_size=_count(fields, "vocab_size"),
        n_layer=_count(fields, "n_layer"),
        n_head=_count(fields, "n_head"),
        n_kv_head=_count(fields, "n_head"),
        n_embd=_count(fields, "n_embd"),
        n_inner=_count(fields, "n_inner") if fields.get("n_inner") is not None else 4 * _count(fields, "n_embd"),
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


def _read_tensors(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the file: the names and shapes of `expected`, no more and no fewer."""
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for name in sorted(expected.keys() | names):
                if name not in names:
                    raise InputError(f"{path}: the tensor {name!r} is missing")
                if name not in expected:
                    raise InputError(f"{path}: the tensor {name!r} has no place in the model of its config.json")
                shape = list(file.get_slice(name).get_shape())
                if shape != list(expected[name].shape):
                    raise InputError(f"{path}: the tensor {name!r} has shape {shape}, not {list(expected[name].shape)}")
            return {name: file.get_tensor(name) for name in expected}
    except FileNotFoundError:
        raise InputError(f"{path}: is missing; a model is one {CONFIG} and one {WEIGHTS}") from None
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: is not a safetensors file: {error}") from None
