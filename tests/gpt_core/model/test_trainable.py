"""What learns moves, all else stays as it is to the bit, and what is exported is a plain model again."""

import copy

import pytest
import torch
from tiny_decoder import VOCAB_SIZE, draw_ids, make_decoder
from torch import Tensor

from gpt_core.errors import UserError
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import TaskModel
from gpt_core.model.lora import add_lora, merge_lora
from gpt_core.model.trainable import freeze, thaw
from gpt_core.recipe import Finetune
from gpt_core.tasks.spec import Marks, TaskSpec
from gpt_core.training.objective import TaskObjective
from gpt_core.training.optimizer import make_optimizer

MARKS = Marks.behind(VOCAB_SIZE)
MATRICES = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
ROWS = range(MARKS.start, MARKS.pad + 1)
SPEC = TaskSpec("similarity", "class", ("a", "b", "c"), ("first", "second"), "label", 24, MARKS)


def make_settings(trainable: str, **fields: object) -> Finetune:
    blocks = {"trainable_blocks": 1} if trainable == "last_n" else {}
    tree = {"train": "t", "test": "t", "trainable": trainable, "learning_rate": 0.1, "weight_decay": 0.5}
    return Finetune.model_validate(tree | blocks | fields)


def make_model(architecture: str) -> TaskModel:
    return TaskModel(make_decoder(architecture), n_outputs=3, target="class", dropout=0.0)


def draw_batch(step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ids = draw_ids(4, 2, 6, seed=step)
    ids[..., 0], ids[..., 2], ids[..., 5] = MARKS.start, MARKS.delimiter, MARKS.extract
    targets = torch.cat((ids[..., 1:], torch.full((4, 2, 1), -100)), dim=-1)
    return ids, torch.full((4, 2), 6), targets, torch.arange(4) % 3


def take_steps(model: TaskModel, settings: Finetune) -> dict[str, Tensor]:
    """Three steps of L2 + L1; returns what learned."""
    optimizer = make_optimizer(model, settings)
    objective = TaskObjective(model, SPEC, "fp32", with_language_model=True)
    for step in range(3):
        optimizer.zero_grad()
        l2, l1, _ = objective(*draw_batch(step))
        (l2 + l1).backward()
        optimizer.step()
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def moved_by(trainable: str, architecture: str) -> tuple[set[str], set[str], list[int]]:
    """Names that learn; tensors that a training has moved, in the plain model; rows of its embedding that moved."""
    model, settings = make_model(architecture), make_settings(trainable)
    before = copy.deepcopy(model.state_dict())
    freeze(model, settings, MARKS)
    learned = take_steps(model, settings)
    fresh = make_model(architecture)
    freeze(fresh, settings, MARKS)
    thaw(fresh, learned)
    after = fresh.state_dict()
    assert after.keys() == before.keys()
    assert all(parameter.requires_grad for parameter in fresh.parameters())
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    name = "decoder.embedding.weight"
    return set(learned), moved, (before[name] != after[name]).any(dim=1).nonzero().flatten().tolist()


def test_of_the_head_alone_move_the_head_and_the_marks(architecture: str) -> None:
    learning, moved, rows = moved_by("head", architecture)
    assert learning == {"score.weight", "decoder.embedding.marks"}
    assert moved == {"score.weight", "decoder.embedding.weight"}
    assert rows == list(ROWS)


def test_of_the_last_block_moves_all(architecture: str) -> None:
    learning, moved, rows = moved_by("last_n", architecture)
    block = {name for name in make_model(architecture).state_dict() if name.startswith("decoder.blocks.1.")}
    assert learning == block | {"score.weight", "decoder.embedding.marks"}
    assert moved == block | {"score.weight", "decoder.embedding.weight"}
    assert rows == list(ROWS)


def test_of_lora_learn_a_and_b_and_in_the_end_the_matrices_of_the_blocks_have_moved(architecture: str) -> None:
    learning, moved, rows = moved_by("lora", architecture)
    layers = [f"decoder.blocks.{n}.{name}" for n in range(2) for name in MATRICES]
    additions = {f"{layer}.{part}.weight" for layer in layers for part in "ab"}
    assert learning == additions | {"score.weight", "decoder.embedding.marks"}
    assert moved == {f"{layer}.weight" for layer in layers} | {"score.weight", "decoder.embedding.weight"}
    assert rows == list(ROWS)


def test_all_learns_as_it_did(architecture: str) -> None:
    learning, moved, rows = moved_by("all", architecture)
    assert learning == moved == make_model(architecture).state_dict().keys()
    assert len(rows) == 256


def test_a_lora_begins_with_the_model_as_it_was(decoder: Decoder) -> None:
    ids = draw_ids(2, 12)
    before = decoder(ids)
    add_lora(decoder, rank=4, alpha=8.0, seed=1)
    assert torch.equal(decoder(ids), before)


def test_a_merged_lora_computes_what_it_computed(decoder: Decoder) -> None:
    plain = copy.deepcopy(decoder)
    add_lora(decoder, rank=4, alpha=8.0, seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, value in decoder.named_parameters():
        if ".b." in name:
            torch.nn.init.normal_(value, std=0.05, generator=generator)
    ids = draw_ids(2, 12)
    apart = decoder(ids)
    merge_lora(decoder)
    assert decoder.state_dict().keys() == plain.state_dict().keys()
    assert (decoder(ids) - apart).norm() <= 1e-6 * apart.norm()
    assert (plain(ids) - apart).norm() > 1e-2 * apart.norm()


def test_an_addition_is_scaled_by_alpha_over_rank(decoder: Decoder) -> None:
    layer = decoder.blocks[0].mlp.down
    before = layer.weight.detach().clone()
    add_lora(decoder, rank=2, alpha=3.0, seed=1)
    added = decoder.blocks[0].mlp.down
    torch.nn.init.ones_(added.b.weight)
    by_hand = before + 1.5 * added.a.weight.sum(dim=0)
    merge_lora(decoder)
    torch.testing.assert_close(decoder.blocks[0].mlp.down.weight, by_hand)


def test_the_additions_depend_on_their_seed_alone() -> None:
    decoders = [make_decoder("gpt2") for _ in range(3)]
    for decoder, seed in zip(decoders, (5, 5, 6), strict=True):
        add_lora(decoder, rank=4, alpha=8.0, seed=seed)
    first, same, other = (decoder.blocks[1].mlp.down.a.weight for decoder in decoders)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert 0.9 * 128**-0.5 < first.abs().max() <= 128**-0.5


def test_the_marks_rows_apart_are_the_embedding(architecture: str) -> None:
    model, frozen = make_model(architecture), make_model(architecture)
    freeze(frozen, make_settings("head"), MARKS)
    assert torch.equal(frozen.decoder.embedding.weight, model.decoder.embedding.weight)
    for step in range(2):
        ids, lengths, _, _ = draw_batch(step)
        assert torch.equal(frozen(ids, lengths)[0], model(ids, lengths)[0])
    marks = frozen.decoder.embedding.marks
    assert marks.shape == (4, 32)


def test_the_gradient_of_the_marks_is_that_of_the_whole_embedding(architecture: str) -> None:
    whole, frozen = make_model(architecture), make_model(architecture)
    freeze(frozen, make_settings("head"), MARKS)
    for model in (whole, frozen):
        l2, l1, _ = TaskObjective(model, SPEC, "fp32", with_language_model=True)(*draw_batch(0))
        (l2 + l1).backward()
    wanted = whole.decoder.embedding.weight.grad[ROWS.start : ROWS.stop]
    torch.testing.assert_close(frozen.decoder.embedding.marks.grad, wanted, rtol=1e-4, atol=1e-5)


def test_a_completion_has_no_marks_and_its_embedding_stays(decoder: Decoder) -> None:
    freeze(decoder, make_settings("lora", task="completion"), None)
    assert all(".a." in name or ".b." in name for name, value in decoder.named_parameters() if value.requires_grad)


def test_weights_of_another_training_are_refused() -> None:
    model = make_model("gpt2")
    freeze(model, make_settings("head"), MARKS)
    with pytest.raises(ValueError, match=r"weights of another training: \['decoder.embedding.marks'\]"):
        thaw(model, {"score.weight": model.score.weight})


def test_more_blocks_than_there_are_cannot_learn() -> None:
    settings = make_settings("last_n", trainable_blocks=3)
    with pytest.raises(UserError, match=r"finetune\.trainable_blocks=3: the model has 2 blocks; give no more"):
        freeze(make_model("gpt2"), settings, MARKS)
