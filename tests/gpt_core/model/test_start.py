"""Pre-training begins with a folder's weights where the recipe's model is the folder's."""

from pathlib import Path

import pytest
import torch
from tiny_decoder import VOCAB_SIZE, draw_ids, make_decoder

from gpt_core import recipe
from gpt_core.errors import InputError, RecipeError, UserError
from gpt_core.model.decoder import Decoder
from gpt_core.model.hf import save_language_model
from gpt_core.model.start import load_for_task, start_decoder


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


def test_a_model_without_rows_for_the_marks_gets_rows_that_outweigh_nothing(decoder: Decoder, tmp_path: Path) -> None:
    with torch.no_grad():
        decoder.embedding.weight += 1.0  # zeros would have other logits than these rows
    save_language_model(decoder, tmp_path)
    made = [load_for_task(tmp_path, 254, seed=seed).eval() for seed in (1, 1, 2)]
    assert (made[0].config.vocab_size, made[0].config.pad_id) == (258, 257)  # of the marks 254 and 255 have a row
    rows = made[0].embedding.weight
    assert torch.equal(rows[:256], decoder.embedding.weight)
    assert torch.equal(rows, made[1].embedding.weight)
    assert not torch.equal(rows, made[2].embedding.weight)
    away = (torch.stack([each.embedding.weight[256:] for each in made[::2]]) - rows[:254].mean(dim=0)).std().item()
    assert away == pytest.approx(0.02, rel=0.25)  # of 128 numbers
    ids = draw_ids(2, 24)
    logits = made[0].logits(made[0](ids))
    torch.testing.assert_close(logits[..., :256], decoder.logits(decoder(ids)), rtol=0, atol=1e-5)
    spread = logits[..., :254].std(dim=-1, keepdim=True)
    assert ((logits[..., 256:] - logits[..., :254].mean(dim=-1, keepdim=True)).abs() < spread).all()


def test_a_model_with_rows_behind_its_tokens_is_loaded_as_it_is(decoder: Decoder, tmp_path: Path) -> None:
    save_language_model(decoder, tmp_path)
    loaded = load_for_task(tmp_path, VOCAB_SIZE)
    assert (loaded.config.vocab_size, loaded.config.pad_id) == (256, VOCAB_SIZE + 3)
    assert torch.equal(loaded.embedding.weight, decoder.embedding.weight)


def test_a_task_is_not_begun_with_fewer_rows_than_tokens(tmp_path: Path) -> None:
    save_language_model(make_decoder("gpt2"), tmp_path)
    with pytest.raises(UserError, match="256 rows of the vocabulary are fewer than the 257 tokens of the tokenizer"):
        load_for_task(tmp_path, 257)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        start_decoder(recipe.Model(), vocab_size=257, init_from=str(tmp_path), seed=0)
