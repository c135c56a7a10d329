import pytest

from gpt_core import recipe
from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder


def make_config(vocab_size: int = 300, **fields: object) -> DecoderConfig:
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 64, "context_length": 16}
    return DecoderConfig.from_recipe(recipe.Model.model_validate(sizes | fields), vocab_size)


@pytest.mark.parametrize(("vocab_size", "padded"), [(4096, 4224), (4095, 4096), (50_257, 50_304)])
def test_the_vocabulary_is_padded_and_its_first_free_row_is_the_padding_token(vocab_size: int, padded: int) -> None:
    config = make_config(vocab_size)
    assert config.vocab_size == padded
    assert config.pad_id == vocab_size < config.vocab_size


def test_the_mlp_is_four_times_as_wide_in_gpt2_and_eight_thirds_to_a_multiple_of_64_in_qwen3() -> None:
    assert make_config().n_inner == 256
    assert make_config(architecture="qwen3").n_inner == 192  # 170.7 rounded up
    assert make_config(architecture="qwen3", n_embd=96).n_inner == 256  # 256 exactly
    assert make_config(architecture="qwen3", n_inner=40).n_inner == 40


def test_key_and_value_heads_are_as_many_as_query_heads_unless_said() -> None:
    assert make_config(architecture="qwen3").n_kv_head == 4
    assert make_config(architecture="qwen3", n_kv_head=2).n_kv_head == 2


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n_inner": 100},
        {"architecture": "gpt1"},
        {"architecture": "qwen3"},
        {"architecture": "qwen3", "n_kv_head": 1, "n_inner": 100},
    ],
)
def test_n_parameters_counts_what_the_decoder_holds(fields: dict[str, object]) -> None:
    config = make_config(**fields)
    assert config.n_parameters == sum(p.numel() for p in Decoder(config).parameters())


def test_gpt2_small_has_the_124_million_parameters_of_its_name() -> None:
    config = DecoderConfig.from_recipe(recipe.Model(), 50_257)
    assert config.n_parameters == 124_439_808 + (50_304 - 50_257) * 768


def test_a_shape_that_does_not_fit_is_a_broken_invariant() -> None:
    with pytest.raises(AssertionError):
        DecoderConfig("gpt2", 256, 2, 3, 3, 32, 64, 16, 0.0, 10_000.0)
