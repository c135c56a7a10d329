"""Who trains in the training benchmarks: ours through DeepSpeed, ours in a bare loop, and the peers, behind one step.

All start from the language model in one folder (Hugging Face layout). A step takes one micro-batch.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from plain_gpt import PlainGpt
from torch import Tensor, nn

from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.model.hf import load_decoder, save_language_model
from gpt_core.recipe import Model, Pretrain, TrainCluster
from gpt_core.training.objective import LanguageObjective

CLIP, BETAS = 1.0, (0.9, 0.95)


@dataclass(frozen=True)
class Options:
    """How a contestant trains. `compiled` and `precision` mean to each what is fastest there."""

    model: Path
    precision: str = "autocast"
    compiled: bool = False
    zero_stage: int = 1
    batch: int = 8
    threads: int = 1
    learning_rate: float = 6e-4
    weight_decay: float = 0.1
    muon_learning_rate: float | None = None  # ours: Muon in AdamW's place


@dataclass(frozen=True)
class Contestant:
    """`step(ids, targets, share)` trains at that share of the peak learning rate and returns the mean loss.

    `loss(ids, targets)` is the mean loss without training. All (B, T), on the contestant's device.
    """

    step: Callable[[Tensor, Tensor, float], float]
    loss: Callable[[Tensor, Tensor], float]


def make_gpt2(folder: Path, layers: int, width: int, vocabulary: int, context: int) -> Path:
    """`folder` holds a GPT-2 with random weights and heads 64 wide."""
    shape = Model(n_layer=layers, n_head=max(1, width // 64), n_embd=width, context_length=context)
    decoder = Decoder(replace(DecoderConfig.from_recipe(shape, vocabulary), vocab_size=vocabulary, pad_id=None))
    decoder.init_weights(0)
    save_language_model(decoder, folder)
    return folder


def ours(options: Options, _: torch.device) -> Contestant:
    """Our decoder and objective through DeepSpeed, as jobs/pretrain.py runs them."""
    from jobs.zero import ZeroEngine, join_ranks

    train = TrainCluster(zero_stage=options.zero_stage, compile=options.compiled, threads_per_process=options.threads)
    settings = Pretrain(
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        precision=options.precision,
        optimizer="adamw" if options.muon_learning_rate is None else "muon",
        muon_learning_rate=options.muon_learning_rate or 0.02,
    )
    join_ranks(train)
    objective = LanguageObjective(load_decoder(options.model), options.precision)
    engine = ZeroEngine(objective, settings, train, micro_batch=options.batch)

    def step(ids: Tensor, targets: Tensor, share: float) -> float:
        nats, _ = engine.forward(ids, targets)
        loss = nats / targets.numel()
        engine.backward(loss, last=True)
        engine.step(share)
        return engine.sum_over_ranks([float(loss.detach())])[0]

    return Contestant(step, lambda ids, targets: float(engine.predict(ids, targets)[0]) / targets.numel())


def bare(options: Options, device: torch.device) -> Contestant:
    """Our decoder and objective in a loop of a few lines, without DeepSpeed: what ZeRO costs."""
    objective = LanguageObjective(load_decoder(options.model), options.precision).to(device)
    if options.compiled:
        for block in objective.model.decoder.blocks:
            block.compile()
    return _plain_loop(objective, lambda ids, targets: objective(ids, targets)[0] / targets.numel(), options)


def plain(options: Options, device: torch.device) -> Contestant:
    """The plain GPT of plain_gpt.py."""
    config = json.loads((options.model / "config.json").read_text())
    model = PlainGpt(
        vocabulary=config["vocab_size"],
        context=config["n_positions"],
        layers=config["n_layer"],
        heads=config["n_head"],
        width=config["n_embd"],
    )
    model.load_hugging_face(options.model)
    model.to(device)
    return _plain_loop(model, torch.compile(model) if options.compiled else model, options)


def transformers(options: Options, device: torch.device) -> Contestant:
    """GPT2LMHeadModel with its own loss, attention through SDPA."""
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(options.model, attn_implementation="sdpa").to(device).train()

    def loss_of(ids: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = model(ids, labels=targets, shift_labels=targets, use_cache=False).loss
        return loss

    return _plain_loop(model, torch.compile(loss_of) if options.compiled else loss_of, options)


def _plain_loop(model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor], options: Options) -> Contestant:
    """nanoGPT's step over `loss_of`: autocast, clipping, AdamW that is fused and decays matrices only."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=BETAS, fused=True)

    def autocast(ids: Tensor) -> torch.autocast:
        return torch.autocast(ids.device.type, torch.bfloat16, enabled=options.precision != "fp32")

    def step(ids: Tensor, targets: Tensor, share: float) -> float:
        with autocast(ids):
            loss = loss_of(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for group in optimizer.param_groups:
            group["lr"] = share * options.learning_rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    @torch.no_grad()
    def loss(ids: Tensor, targets: Tensor) -> float:
        with autocast(ids):
            return float(loss_of(ids, targets))

    return Contestant(step, loss)


CONTESTANTS = {"ours": ours, "bare": bare, "plain": plain, "transformers": transformers}
