"""Micro-batches, decay groups and objectives, on tiny inputs."""

import math

import pytest
import torch
from torch import nn

from gpt_core.fingerprint import Json
from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.recipe import Pretrain, TrainCluster
from gpt_core.training.objective import LanguageObjective
from gpt_core.training.optimizer import block_matrices, make_optimizer
from gpt_core.training.zero_config import make_zero_config, micro_batch_size


def tiny_decoder() -> Decoder:
    decoder = Decoder(DecoderConfig("gpt2", 128, 1, 2, 2, 8, 32, 16, 0.0, 10_000.0))
    decoder.init_weights(0)
    return decoder


@pytest.mark.parametrize(
    ("batch", "world_size", "at_most", "expected"), [(16, 2, 8, 8), (16, 2, 5, 4), (14, 2, 4, 1), (4, 1, 64, 4)]
)
def test_the_micro_batch_divides_a_ranks_part(batch: int, world_size: int, at_most: int, expected: int) -> None:
    assert micro_batch_size(batch, world_size=world_size, at_most=at_most) == expected


def zero_config(train: TrainCluster, settings: Pretrain | None = None, parameters: int = 1_000) -> dict[str, Json]:
    return make_zero_config(settings or Pretrain(), train, micro_batch=3, parameters=parameters)


def test_deepspeed_gets_the_recipes_numbers() -> None:
    config = zero_config(TrainCluster(zero_stage=1), Pretrain(gradient_clip=0.7))
    assert config["gradient_clipping"] == 0.7
    assert config["zero_optimization"] == {"stage": 1, "reduce_bucket_size": 1_000}
    assert config["train_micro_batch_size_per_gpu"] == 3
    assert "bf16" not in config


def test_bf16_keeps_fp32_weights_and_adds_gradients_in_fp32() -> None:
    config = zero_config(TrainCluster(zero_stage=2), Pretrain(precision="bf16"))
    assert config["bf16"] == {"enabled": True, "check_grad_overflow": False}
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}


@pytest.mark.parametrize(
    ("offload", "moved"),
    [("none", []), ("optimizer", ["offload_optimizer"]), ("parameters", ["offload_optimizer", "offload_param"])],
)
def test_what_is_offloaded_stands_in_the_hosts_memory(offload: str, moved: list[str]) -> None:
    zero = zero_config(TrainCluster(zero_stage=3, offload=offload))["zero_optimization"]  # type: ignore[arg-type]
    assert isinstance(zero, dict)
    assert [name for name in zero if name.startswith("offload")] == moved
    assert all(zero[name] == {"device": "cpu", "pin_memory": True} for name in moved)


def test_whole_weights_and_gradients_stand_a_bucket_at_a_time() -> None:
    zero = zero_config(TrainCluster(zero_stage=3), parameters=10**9)["zero_optimization"]
    assert zero == {
        "stage": 3,
        "reduce_bucket_size": 2**23,
        "sub_group_size": 10**9,
        "stage3_max_live_parameters": 2**23,
        "stage3_max_reuse_distance": 0,
        "stage3_prefetch_bucket_size": 2**22,
    }


def test_matrices_decay_and_vectors_do_not() -> None:
    model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 5), nn.LayerNorm(5))
    matrices, vectors = make_optimizer(model, Pretrain(weight_decay=0.3)).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert [parameter.ndim for parameter in matrices["params"]] == [2, 2]
    assert [parameter.ndim for parameter in vectors["params"]] == [1, 1, 1]


def test_what_does_not_learn_has_no_group() -> None:
    model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 5), nn.LayerNorm(5))
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    matrices, vectors = make_optimizer(model, Pretrain()).param_groups
    assert [matrices["params"], vectors["params"]] == [[model[1].weight], [model[1].bias]]


def test_muon_moves_the_matrices_of_the_blocks_and_adamw_all_else() -> None:
    decoder = tiny_decoder()
    names = {parameter: name for name, parameter in decoder.named_parameters()}
    settings = Pretrain(optimizer="muon", learning_rate=0.1, muon_learning_rate=0.3)
    optimizer = make_optimizer(decoder, settings)
    matrices, vectors, muon = ([names[p] for p in group["params"]] for group in optimizer.param_groups)
    assert matrices == ["embedding.weight", "positions.weight"]
    assert all(name.endswith(("bias", "norm.weight")) for name in vectors)
    block = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    assert muon == [f"blocks.0.{name}.weight" for name in block]
    optimizer.set_rates(0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.05, 0.15]


def test_settings_that_a_load_has_put_in_do_not_last() -> None:
    optimizer = make_optimizer(nn.Linear(2, 2), Pretrain(weight_decay=0.3))
    optimizer.param_groups[1]["weight_decay"] = 0.3
    optimizer.set_rates(1.0)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


def test_what_a_block_fuses_counts_apart() -> None:
    config = DecoderConfig("qwen3", 128, 1, 4, 2, 8, 32, 16, 0.0, 10_000.0)
    shapes = list(block_matrices(Decoder(config)).values())
    assert shapes == [((8, 8), (4, 8), (4, 8)), ((8, 8),), ((32, 8), (32, 8)), ((8, 32),)]


def test_the_language_objective_of_uniform_logits_is_log_v_a_token() -> None:
    decoder = tiny_decoder()
    nn.init.zeros_(decoder.embedding.weight)
    targets = torch.tensor([[1, 2, -100, 3]])
    nats, z = LanguageObjective(decoder, "fp32", z_loss=0.1)(torch.tensor([[0, 1, 2, 3]]), targets)
    assert float(nats.detach()) == pytest.approx(3 * math.log(128), rel=1e-6)
    assert float(z) == pytest.approx(3 * math.log(128) ** 2, rel=1e-6)
