import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from tiny_decoder import VOCAB_SIZE, draw_ids, make_decoder

from gpt_core.errors import InputError
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import LanguageModel
from gpt_core.model.hf import load_decoder, save_language_model
from gpt_core.model.hf_layout import stored_tensors


def make_peer(architecture: str) -> transformers.PreTrainedModel:
    """transformers' own causal language model, every parameter random and large."""
    config: transformers.PretrainedConfig
    if architecture == "gpt1":
        config = transformers.OpenAIGPTConfig(vocab_size=256, n_positions=24, n_embd=32, n_layer=2, n_head=4)
    elif architecture == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=256, n_positions=24, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
        )
    else:
        config = transformers.Qwen3Config(
            vocab_size=256,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=24,
            rope_parameters={"rope_type": "default", "rope_theta": 700.0},
            tie_word_embeddings=True,
        )
    peer = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.normal_(1.0 if gain else 0.0, 0.2, generator=generator)
    return peer.eval()


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_transformers_computes_our_logits_from_our_files(decoder: Decoder, tmp_path: Path) -> None:
    save_language_model(decoder, tmp_path)
    peer, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = draw_ids(3, 24)
    torch.testing.assert_close(decoder.logits(decoder(ids)), peer(ids).logits, rtol=0, atol=1e-5)


def test_we_compute_the_logits_of_transformers_from_its_files(architecture: str, tmp_path: Path) -> None:
    peer = make_peer(architecture)
    peer.save_pretrained(tmp_path)
    decoder = load_decoder(tmp_path).eval()
    ids = draw_ids(3, 24)
    torch.testing.assert_close(decoder.logits(decoder(ids)), peer(ids).logits, rtol=0, atol=1e-5)


def test_our_gradients_equal_those_of_transformers(architecture: str, tmp_path: Path) -> None:
    peer = make_peer(architecture)
    peer.save_pretrained(tmp_path)
    decoder = load_decoder(tmp_path).eval()
    ids, targets = draw_ids(2, 16), draw_ids(2, 16, seed=2)
    LanguageModel(decoder)(ids, targets)[0].backward()
    F.cross_entropy(peer(ids).logits.flatten(0, 1), targets.flatten(), reduction="sum").backward()
    ours = {name: parameter.grad for name, parameter in decoder.named_parameters()}
    theirs = {name: parameter.grad for name, parameter in peer.named_parameters()}
    entries = stored_tensors(decoder.config)
    assert {entry.ours for entry in entries} == ours.keys()
    for entry in entries:
        wanted = entry.join(theirs)
        assert (ours[entry.ours] - wanted).norm() <= 1e-5 * wanted.norm(), entry.ours


def test_a_saved_decoder_loads_as_it_was(decoder: Decoder, tmp_path: Path) -> None:
    files = save_language_model(decoder, tmp_path / "new" / "folder")
    assert sorted(path.name for path in files) == ["config.json", "model.safetensors"]
    loaded = load_decoder(tmp_path / "new" / "folder")
    assert loaded.config.n_parameters == decoder.config.n_parameters
    assert loaded.config.pad_id == decoder.config.pad_id == VOCAB_SIZE
    for (name, a), (_, b) in zip(loaded.named_parameters(), decoder.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_bf16_weights_are_stored_in_fp32(decoder: Decoder, tmp_path: Path) -> None:
    rounded = copy.deepcopy(decoder).bfloat16()
    save_language_model(rounded, tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}
    assert torch.equal(load_decoder(tmp_path).embedding.weight, rounded.embedding.weight.float())


def test_the_likelihood_ignores_what_the_padding_row_holds(decoder: Decoder) -> None:
    ids = draw_ids(1, 8)
    padded = torch.cat((ids, torch.full((1, 3), decoder.config.pad_id)), dim=1)
    torch.testing.assert_close(decoder(padded)[:, :8], decoder(ids), rtol=0, atol=1e-5)


def test_a_tensor_too_few_is_named(decoder: Decoder, tmp_path: Path) -> None:
    save_language_model(decoder, tmp_path)
    name = stored_tensors(decoder.config)[-1].theirs[-1]
    edit_tensors(tmp_path, lambda tensors: tensors.pop(name))
    with pytest.raises(InputError, match=rf"model\.safetensors: the tensor '{name}' is missing"):
        load_decoder(tmp_path)


def test_a_tensor_too_many_is_named(decoder: Decoder, tmp_path: Path) -> None:
    save_language_model(decoder, tmp_path)
    edit_tensors(tmp_path, lambda tensors: tensors.update({"lm_head.bias": torch.zeros(2)}))
    with pytest.raises(InputError, match=r"model\.safetensors: the tensor 'lm_head.bias' has no place in the model"):
        load_decoder(tmp_path)


def name_as_the_first_releases(tensors: dict[str, torch.Tensor]) -> None:
    """Without the body's name before each tensor, and with the causal masks of the attention."""
    for name in list(tensors):
        tensors[name.removeprefix("transformer.")] = tensors.pop(name)
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 24, 24).tril()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)


@pytest.mark.parametrize("architecture", ["gpt1", "gpt2"])
def test_a_file_of_the_first_releases_is_the_same_model(architecture: str, tmp_path: Path) -> None:
    decoder = make_decoder(architecture)
    save_language_model(decoder, tmp_path)
    edit_tensors(tmp_path, name_as_the_first_releases)
    loaded = load_decoder(tmp_path).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in decoder.state_dict().items())
    edit_tensors(tmp_path, lambda tensors: tensors.update({"h.0.attn.extra": torch.zeros(2)}))
    with pytest.raises(InputError, match=r"the tensor 'h\.0\.attn\.extra' has no place in the model"):
        load_decoder(tmp_path)


def test_a_stored_output_must_be_the_embedding(decoder: Decoder, tmp_path: Path) -> None:
    save_language_model(decoder, tmp_path)
    output = decoder.embedding.weight.detach().clone()
    edit_tensors(tmp_path, lambda tensors: tensors.update({"lm_head.weight": output}))
    assert torch.equal(load_decoder(tmp_path).embedding.weight, output)
    output[3, 4] += 1e-3
    edit_tensors(tmp_path, lambda tensors: tensors.update({"lm_head.weight": output}))
    with pytest.raises(
        InputError, match=r"'lm_head\.weight' differs from '[a-z_.]+\.weight', to which the decoder ties its output"
    ):
        load_decoder(tmp_path)


def test_a_tensor_of_another_shape_is_named(architecture: str, tmp_path: Path) -> None:
    save_language_model(make_decoder(architecture), tmp_path)
    edit_config(tmp_path, vocab_size=128, pad_token_id=None)
    with pytest.raises(
        InputError, match=r"(tokens_embed|wte|embed_tokens)\.weight' has shape \[256, 32\], not \[128, 32\]"
    ):
        load_decoder(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "llama"}, r"config\.json: model_type is 'llama'; this gptmill loads openai-gpt, gpt2, qwen3"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False; the decoder computes True alone"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-05; the decoder computes 1e-06 alone"),
        ({"head_dim": 16}, "heads as wide as hidden_size / num_attention_heads, not head_dim 16"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers 'two' is no positive integer"),
        ({"num_attention_heads": 3}, "its shape is not one of the decoder"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "plain rotary positions, not .*yarn"),
    ],
)
def test_a_config_of_another_computation_is_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_language_model(make_decoder("qwen3"), tmp_path)
    edit_config(tmp_path, **fields)
    with pytest.raises(InputError, match=message):
        load_decoder(tmp_path)


def test_unlike_dropout_rates_are_refused(tmp_path: Path) -> None:
    save_language_model(make_decoder("gpt2"), tmp_path)
    edit_config(tmp_path, attn_pdrop=0.3)
    with pytest.raises(InputError, match="one dropout rate for all"):
        load_decoder(tmp_path)


def test_what_is_no_model_is_refused_by_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: cannot be read: No such file"):
        load_decoder(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="is no JSON object"):
        load_decoder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        load_decoder(tmp_path)
    save_language_model(make_decoder("gpt2"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["n_layer"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="the field 'n_layer' is missing"):
        load_decoder(tmp_path)


def test_weights_are_never_unpickled(tmp_path: Path) -> None:
    save_language_model(make_decoder("gpt2"), tmp_path)
    weights = tmp_path / "model.safetensors"
    torch.save({"a": torch.zeros(1)}, weights)
    with pytest.raises(InputError, match=r"model\.safetensors: is not a safetensors file"):
        load_decoder(tmp_path)
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"model\.safetensors: is missing"):
        load_decoder(tmp_path)
