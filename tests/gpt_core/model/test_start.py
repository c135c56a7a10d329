"""Pre-training begins with a folder's weights where the recipe's model is the folder's."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from tiny_decoder import VOCAB_SIZE, draw_ids, make_decoder

from gpt_core import recipe
from gpt_core.errors import InputError, RecipeError, UserError
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import SequenceClassifier
from gpt_core.model.hf import save_classifier, save_language_model
from gpt_core.model.start import load_with_padding, start_decoder


def model_of(decoder: Decoder, **fields: object) -> recipe.Model:
    """What a recipe says of this decoder, with `fields` changed."""
    names = ("architecture", "n_layer", "n_head", "n_embd", "n_inner", "context_length", "rope_theta")
    said: dict[str, object] = {name: getattr(decoder.config, name) for name in names}
    if decoder.config.architecture == "qwen3":
        said["n_kv_head"] = decoder.config.n_kv_head
    return recipe.Model.model_validate(said | fields)


def test_without_a_folder_weights_are_random_by_seed(decoder: Decoder) -> None:
    made = start_decoder(model_of(decoder), vocab_size=VOCAB_SIZE, init_from=None, seed=3)
    assert made.config == decoder.config
    decoder.init_weights(3)
    assert all(torch.equal(tensor, made.state_dict()[name]) for name, tensor in decoder.state_dict().items())


@pytest.mark.parametrize(("vocab_size", "pad_id"), [(VOCAB_SIZE, VOCAB_SIZE), (30, 30), (256, None)])
def test_a_folders_weights_and_rows_are_taken_as_they_are(
    decoder: Decoder, tmp_path: Path, vocab_size: int, pad_id: int | None
) -> None:
    save_language_model(decoder, tmp_path)
    dropout = 0.0 if decoder.config.architecture == "qwen3" else 0.25
    made = start_decoder(model_of(decoder, dropout=dropout), vocab_size=vocab_size, init_from=str(tmp_path), seed=3)
    assert (made.config.vocab_size, made.config.pad_id, made.config.dropout) == (256, pad_id, dropout)
    assert all(parameter.requires_grad and parameter.device.type == "cpu" for parameter in made.parameters())
    ids = draw_ids(2, 24)
    assert torch.equal(made.eval()(ids), decoder(ids))


def test_another_shape_is_refused_with_each_field_and_both_values(tmp_path: Path) -> None:
    save_language_model(make_decoder("qwen3"), tmp_path)
    other = model_of(make_decoder("qwen3"), n_layer=3, n_kv_head=4, rope_theta=700.0, context_length=32)
    with pytest.raises(RecipeError) as refusal:
        start_decoder(other, vocab_size=VOCAB_SIZE, init_from=str(tmp_path), seed=0)
    assert refusal.value.problems == [
        "model.n_layer: 3, but 2 in the folder",
        "model.n_kv_head: 4, but 2 in the folder",
        "model.context_length: 32, but 24 in the folder",
        "model.rope_theta: 700.0, but 500.0 in the folder",
    ]
    assert str(refusal.value).startswith(f"pretrain.init_from={tmp_path}: 4 problem(s)")


def test_fewer_rows_than_tokens_are_refused(tmp_path: Path) -> None:
    decoder = make_decoder("gpt2")
    save_language_model(decoder, tmp_path)
    with pytest.raises(UserError, match="256 rows of the vocabulary are fewer than the tokenizer's 257 tokens; set "):
        start_decoder(model_of(decoder), vocab_size=257, init_from=str(tmp_path), seed=0)


def test_a_model_without_a_free_row_gets_one_to_classify_padded_batches_with(architecture: str, tmp_path: Path) -> None:
    decoder = make_decoder(architecture, vocab_size=255)
    full = Decoder(replace(decoder.config, pad_id=None))
    full.load_state_dict(decoder.state_dict())
    save_language_model(full.eval(), tmp_path / "full")
    grown = load_with_padding(tmp_path / "full").eval()
    assert (grown.config.vocab_size, grown.config.pad_id) == (257, 256)
    ids = draw_ids(2, 24)
    logits = grown.logits(grown(ids))
    torch.testing.assert_close(logits[..., :256], full.logits(full(ids)), rtol=0, atol=1e-5)
    torch.testing.assert_close(logits[..., 256], logits[..., :256].mean(dim=-1), rtol=0, atol=1e-5)

    classifier = SequenceClassifier(grown, 2, dropout=0.0).eval()
    save_classifier(classifier, tmp_path / "classifier", ["a", "b"])
    peer = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier").eval()
    ids[1, 5:] = 256
    wanted = peer(ids, attention_mask=(ids != 256).long()).logits
    torch.testing.assert_close(classifier(ids, torch.tensor([24, 5]))[0], wanted, rtol=0, atol=1e-5)


def test_a_model_with_a_padding_row_is_loaded_as_it_is(decoder: Decoder, tmp_path: Path) -> None:
    save_language_model(decoder, tmp_path)
    loaded = load_with_padding(tmp_path)
    assert loaded.config.pad_id == VOCAB_SIZE
    assert torch.equal(loaded.embedding.weight, decoder.embedding.weight)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        start_decoder(recipe.Model(), vocab_size=257, init_from=str(tmp_path), seed=0)
