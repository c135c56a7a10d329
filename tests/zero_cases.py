"""Trainings small enough to take them in plain torch, too: what an engine on any number of ranks must do.

Of fine-tunings but a part learns. Their matrices are large enough for ZeRO 3 to part them among the ranks.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import TaskModel
from gpt_core.model.trainable import freeze
from gpt_core.recipe import Finetune, Pretrain, TrainCluster
from gpt_core.tasks.spec import Marks, TaskSpec
from gpt_core.training.objective import LanguageObjective, TaskObjective

SETTINGS = Pretrain(  # a large eps: where a gradient is 0 but for rounding, Adam would follow the rounding
    learning_rate=0.02, muon_learning_rate=0.05, gradient_clip=0.5, weight_decay=0.1, precision="fp32", eps=1e-3
)
# 12 wide: borders between ranks cut matrices; gpt2 has biases, qwen3 fuses the gate and fewer keys than queries.
CONFIGS = {
    "gpt2": DecoderConfig("gpt2", 128, 2, 2, 2, 12, 20, 16, 0.0, 10_000.0),
    "qwen3": DecoderConfig("qwen3", 128, 2, 6, 3, 12, 20, 16, 0.0, 10_000.0),
    "wide": DecoderConfig("qwen3", 640, 2, 6, 3, 192, 320, 16, 0.0, 10_000.0),
}
MARKS = Marks.behind(600)
SEQUENCES, MICRO_BATCH, TOKENS = 8, 2, 8 * 16
REFUSED, NAN, SPIKE = 0, 3, 5  # steps that move nothing: one more reason each
STEPS, SAVED_AFTER = 7, 4
TAKEN = [step for step in range(STEPS) if step not in (REFUSED, NAN, SPIKE)]


@dataclass(frozen=True)
class Case:
    stage: int
    optimizer: str = "adamw"
    precision: str = "fp32"
    offload: str = "none"
    compile: bool = False
    architecture: str = "qwen3"
    trainable: str = ""  # of a fine-tuning

    @property
    def name(self) -> str:
        return "-".join(str(value) for value in asdict(self).values())

    @property
    def settings(self) -> Pretrain:
        return SETTINGS.model_copy(update={"optimizer": self.optimizer, "precision": self.precision})

    @property
    def cluster(self) -> TrainCluster:
        return TrainCluster(zero_stage=self.stage, offload=self.offload, compile=self.compile)  # type: ignore[arg-type]


EXACT = [
    *(Case(stage, "adamw", architecture=kind) for stage, kind in enumerate(("qwen3", "gpt2", "qwen3", "gpt2"))),
    *(Case(stage, "muon", architecture=kind) for stage, kind in enumerate(("gpt2", "qwen3", "gpt2", "qwen3"))),
    Case(1, "adamw", offload="optimizer"),
    Case(2, "muon", offload="optimizer"),
    Case(3, "adamw", offload="optimizer"),
    Case(3, "muon", offload="parameters"),
]
PARTIAL = [
    Case(1, architecture="wide", trainable="head"),
    Case(1, architecture="wide", trainable="last_n"),
    Case(1, architecture="wide", trainable="lora"),
    Case(2, architecture="wide", trainable="lora"),
    Case(3, architecture="wide", trainable="head"),
    Case(3, architecture="wide", trainable="last_n"),
    Case(3, architecture="wide", trainable="lora"),
]
EXACT += PARTIAL
ROUNDED = [
    Case(3, "muon", "autocast"),
    Case(1, "muon", "bf16"),
    Case(2, "adamw", "bf16"),
    Case(3, "adamw", "bf16"),
    Case(2, "muon", "bf16", offload="optimizer"),
    Case(3, "muon", "bf16", offload="parameters"),
    Case(1, precision="bf16", architecture="wide", trainable="lora"),
    Case(3, precision="bf16", architecture="wide", trainable="lora"),
]
COMPILED = [Case(stage, compile=True) for stage in (1, 3)]


class Scaled(nn.Module):
    """An objective times a factor, which makes a step bad."""

    def __init__(self, case: Case, *, seed: int = 0) -> None:
        super().__init__()
        decoder = Decoder(CONFIGS[case.architecture])
        decoder.init_weights(seed)
        self.objective = tuned(decoder, case) if case.trainable else LanguageObjective(decoder, case.precision)  # type: ignore[arg-type]

    def forward(self, ids: Tensor, targets: Tensor, factor: Tensor) -> Tensor:
        if isinstance(self.objective, TaskObjective):
            l2, l1, _ = self.objective(*as_pairs(ids))
            nats = l2 + 0.5 * l1
        else:
            nats, _ = self.objective(ids, targets)
        assert nats.dtype == torch.float32
        return nats * factor


def tuned(decoder: Decoder, case: Case) -> TaskObjective:
    model = TaskModel(decoder, n_outputs=3, target="class", dropout=0.0)
    blocks = 1 if case.trainable == "last_n" else None
    settings = Finetune(train="-", test="-", trainable=case.trainable, trainable_blocks=blocks)  # type: ignore[arg-type]
    spec = TaskSpec("similarity", "class", ("a", "b", "c"), ("first", "second"), "label", 8, MARKS)
    freeze(model, settings, spec.marks)
    return TaskObjective(model, spec, case.precision, with_language_model=True)  # type: ignore[arg-type]


def as_pairs(ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each row of 16 tokens as an example of two sequences, of 8 tokens and of 6."""
    labels, ids = ids[:, 1] % 3, ids.reshape(-1, 2, 8).clone()
    ids[..., 0], ids[..., 5], ids[:, 1, 6:] = MARKS.start, MARKS.extract, MARKS.pad
    targets = torch.cat((ids[..., 1:], torch.full_like(ids[..., :1], -100)), dim=-1)
    targets[:, 1, 5:] = -100
    return ids, torch.tensor([[8, 6]], device=ids.device).expand(len(ids), 2), targets, labels


def batch_of(step: int) -> tuple[Tensor, Tensor, Tensor]:
    ids = torch.randint(128, (SEQUENCES, 17), generator=torch.Generator().manual_seed(step))
    factor = torch.tensor({NAN: math.nan, SPIKE: 100.0}.get(step, 1.0))
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), factor


# ---- plain torch, on the whole batch -------------------------------------------------------------------------------


def muon_pieces(name: str, config: DecoderConfig) -> list[int] | None:
    """Rows of the matrices that a parameter fuses, by hand; None: AdamW's."""
    heads = {"gpt2": [12, 12, 12], "qwen3": [12, 6, 6]}[config.architecture]
    ups = {"gpt2": [20], "qwen3": [20, 20]}[config.architecture]
    ends = {"qkv.weight": heads, "out.weight": [12], "up.weight": ups, "down.weight": [12]}
    return next((rows for end, rows in ends.items() if name.endswith(end)), None)


def newton_schulz(g: Tensor) -> Tensor:
    """Jordan et al.'s iteration, as they write it."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.T if g.size(0) > g.size(1) else g
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        y = x @ x.T
        x = a * x + (b * y + c * y @ y) @ x
    return x.T if g.size(0) > g.size(1) else x


def plain_steps(case: Case) -> tuple[dict[int, float], dict[str, Tensor]]:
    """The norms of all steps that are finite, and the weights after the steps that are taken."""
    model, settings = Scaled(case), case.settings
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    config = CONFIGS[case.architecture]
    pieces = {n: muon_pieces(n, config) if case.optimizer == "muon" else None for n in named}
    adam = torch.optim.AdamW(
        [
            {"params": [p], "weight_decay": settings.weight_decay if p.ndim > 1 else 0.0}
            for n, p in named.items()
            if pieces[n] is None
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.95),
        eps=settings.eps,
    )
    momenta = {n: torch.zeros_like(p) for n, p in named.items()}
    norms = {}
    for step in range(STEPS):
        model.zero_grad()
        (model(*batch_of(step)) / TOKENS).backward()
        if step not in TAKEN:
            norms[step] = float(nn.utils.get_total_norm([p.grad for p in named.values() if p.grad is not None]))
            continue
        norms[step] = float(nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip))
        adam.step()
        with torch.no_grad():
            for n, p in named.items():
                if pieces[n] is None:
                    continue
                momenta[n] = 0.95 * momenta[n] + 0.05 * p.grad
                ahead = 0.95 * momenta[n] + 0.05 * p.grad
                move = torch.cat(
                    [newton_schulz(g) * max(1.0, g.size(0) / g.size(1)) ** 0.5 for g in ahead.split(pieces[n])]
                )
                p.copy_(p * (1 - 0.05 * settings.weight_decay) - 0.05 * move)
    return norms, {n: p.detach() for n, p in named.items()}
