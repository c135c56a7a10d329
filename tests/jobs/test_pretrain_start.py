"""Pre-training that goes on from a GPT-2 of transformers: its first loss is that of transformers on the same batch."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers

from gpt_core.artifact import Artifact
from gpt_core.data.batches import Batch, TrainingSamples
from gpt_core.data.shard_cache import open_side
from gpt_core.recipe import Recipe
from gpt_core.tasks.spec import IGNORED
from gpt_core.tokenizer.tokenizer import Tokenizer
from tiny_training import finish, make_inputs, make_recipe, start_training

pytestmark = pytest.mark.train

ROWS = 350  # of the model's vocabulary: no multiple of anything, and more than the tokenizer's
WIDE = {"n_embd": 320, "n_head": 4}  # matrices that ZeRO 3 really takes apart: it leaves 100,000 numbers whole
SHORT = {"tokens": 32 * 8 * 2, "warmup_tokens": 0, "learning_rate": 1e-4, "validate_every_steps": 2}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Artifact]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> tuple[transformers.GPT2LMHeadModel, Path]:
    """A GPT-2 with large random weights, and the folder that transformers wrote it to."""
    config = transformers.GPT2Config(
        vocab_size=ROWS, n_positions=32, n_embd=320, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    peer = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.05)
    folder = tmp_path_factory.mktemp("peer")
    peer.save_pretrained(folder)
    return peer, folder


def first_batch(recipe: Recipe, inputs: Mapping[str, Artifact]) -> Batch:
    tokenizer = Tokenizer.load(inputs["tokenizer"].root)
    shards = open_side(inputs["shards"], "train", cache=None, tokenizer_digest=tokenizer.digest)
    samples = TrainingSamples(shards, recipe.model.context_length, recipe.pretrain, ignored=IGNORED)
    return samples.batch(0, positions=True)


@torch.no_grad()
def losses_of_peer(peer: transformers.GPT2LMHeadModel, batch: Batch, *, by_document: bool) -> torch.Tensor:
    """transformers' nats a target: the documents of a row one by one, or all in a row."""
    assert batch.positions is not None
    nats = []
    for ids, targets, places in zip(batch.ids, batch.targets, batch.positions, strict=True):
        lengths = [len(places)]
        if by_document:
            starts = [*(places == 0).nonzero()[0].tolist(), len(places)]
            lengths = [b - a for a, b in pairwise(starts)]
        rows = torch.from_numpy(ids[:-1]).split(lengths)
        logits = torch.cat([peer(row[None]).logits[0] for row in rows])
        nats.append(F.cross_entropy(logits, torch.from_numpy(targets.copy()), reduction="none", ignore_index=IGNORED))
    flat = torch.cat(nats)
    return flat[torch.from_numpy(batch.targets.copy()).flatten() != IGNORED]


def train_losses(artifact: Artifact) -> list[float]:
    return [value for _, value in json.loads(artifact.file("curves.json").read_text())["train_loss"]]


def test_the_first_loss_is_transformers_own_and_the_rows_stay(
    inputs: Mapping[str, Artifact], peer: tuple[transformers.GPT2LMHeadModel, Path], tmp_path: Path
) -> None:
    model, folder = peer
    recipe = make_recipe(tmp_path, model=WIDE, pretrain={**SHORT, "init_from": str(folder)}, train={"processes": 1})
    artifact = finish(start_training("pretrain", tmp_path / "out", recipe, inputs, processes=1), tmp_path / "out")
    wanted = losses_of_peer(model, first_batch(recipe, inputs), by_document=False).mean()
    assert train_losses(artifact)[0] == pytest.approx(float(wanted), rel=1e-5)
    again = transformers.AutoModelForCausalLM.from_pretrained(artifact.root / "model")
    assert again.get_input_embeddings().weight.shape == (ROWS, 320)


def test_masked_by_documents_and_recomputed_under_zero_3_it_is_that_of_each_document_alone(
    inputs: Mapping[str, Artifact], peer: tuple[transformers.GPT2LMHeadModel, Path], tmp_path: Path
) -> None:
    """The z-loss moves the weights and is no part of the loss that is told."""
    model, folder = peer
    decisions = {**SHORT, "init_from": str(folder), "document_mask": True, "z_loss": 1e-3}
    train = {"zero_stage": 3, "activation_checkpointing": True, "micro_batch_sequences": 2}
    recipe = make_recipe(tmp_path, model=WIDE, pretrain=decisions, train=train)
    artifact = finish(start_training("pretrain", tmp_path / "out", recipe, inputs), tmp_path / "out")
    batch = first_batch(recipe, inputs)
    wanted = losses_of_peer(model, batch, by_document=True).mean()
    assert abs(wanted - losses_of_peer(model, batch, by_document=False).mean()) > 1e-3
    losses = train_losses(artifact)
    assert losses[0] == pytest.approx(float(wanted), rel=1e-5)
    assert losses[1] < losses[0]
