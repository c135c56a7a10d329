"""Micro-batches, decay groups, curves and objectives, on tiny inputs."""

import math

import pytest
import torch
from torch import nn

from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import SequenceClassifier
from gpt_core.recipe import Pretrain, TrainCluster
from gpt_core.training.curves import MAX_POINTS, Curves
from gpt_core.training.objective import ClassificationObjective, LanguageObjective
from gpt_core.training.optimizer import make_optimizer
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


def test_deepspeed_gets_the_recipes_numbers() -> None:
    config = make_zero_config(Pretrain(gradient_clip=0.7), TrainCluster(zero_stage=1), micro_batch=3, parameters=1_000)
    assert config["gradient_clipping"] == 0.7
    assert config["zero_optimization"] == {"stage": 1, "reduce_bucket_size": 1_000}
    assert config["train_micro_batch_size_per_gpu"] == 3


def test_whole_weights_and_gradients_stand_a_bucket_at_a_time() -> None:
    zero = make_zero_config(Pretrain(), TrainCluster(zero_stage=3), micro_batch=3, parameters=10**9)[
        "zero_optimization"
    ]
    assert zero == {
        "stage": 3,
        "reduce_bucket_size": 2**23,
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


def test_curves_are_thinned_evenly_and_keep_their_end() -> None:
    curves = Curves()
    for step in range(1, 1_203):
        curves.add(step, {"loss": float(step)})
    points = curves.thinned()["loss"]
    assert isinstance(points, list)
    assert len(points) <= MAX_POINTS
    assert points[-1] == [1_202, 1_202.0]
    assert curves.mean_of_last("loss", 3) == 1_201.0


def test_curves_go_on_from_what_a_checkpoint_kept() -> None:
    curves = Curves()
    curves.add(1, {"loss": 2.0})
    again = Curves(curves.all())  # type: ignore[arg-type]
    again.add(2, {"loss": 1.0})
    assert again.series == {"loss": [[1, 2.0], [2, 1.0]]}


def test_the_language_objective_of_uniform_logits_is_log_v_a_token() -> None:
    decoder = tiny_decoder()
    nn.init.zeros_(decoder.embedding.weight)
    targets = torch.tensor([[1, 2, -100, 3]])
    nats, z = LanguageObjective(decoder, "fp32", z_loss=0.1)(torch.tensor([[0, 1, 2, 3]]), targets)
    assert float(nats.detach()) == pytest.approx(3 * math.log(128), rel=1e-6)
    assert float(z) == pytest.approx(3 * math.log(128) ** 2, rel=1e-6)


def test_the_classification_objective_counts_real_rows_only() -> None:
    classifier = SequenceClassifier(tiny_decoder(), 2, dropout=0.0)
    nn.init.zeros_(classifier.score.weight)
    objective = ClassificationObjective(classifier, "fp32", with_language_model=False)
    ids = torch.tensor([[1, 2], [3, 0]])
    loss, lm_loss, correct = objective(ids, torch.tensor([2, 1]), ids, torch.tensor([0, -100]))
    assert float(loss.detach()) == pytest.approx(math.log(2))
    assert float(lm_loss) == 0.0
    assert int(correct) == 1
