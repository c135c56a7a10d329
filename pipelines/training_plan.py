"""What the pre-training of a recipe will take, told before it starts; and refused where a rank has not the memory.

Nothing here loads torch: the machine is asked through psutil and nvidia-smi.
"""

import math
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from rich import box
from rich.table import Table

from gpt_core.errors import UserError
from gpt_core.fingerprint import Json
from gpt_core.model.config import DecoderConfig
from gpt_core.model.hf_config import require_shape
from gpt_core.recipe import Recipe
from gpt_core.report.units import compact, significant, size
from gpt_core.tokenizer.files import count_ids
from gpt_core.training.estimate import CHINCHILLA_TOKENS, Training, embedding_parameters, training_flops_per_token
from gpt_core.training.memory import rank_memory
from pipelines.plan import PlannedStage

PROCESS_BYTES = 600_000_000  # of a rank on a CPU, before any tensor: Python, torch, DeepSpeed
MOST_PROCESSES = 64  # that are proposed where nothing says how many there could be
PROPOSALS = 3
MOMENTS = {
    "forward": "as the loss is made",
    "backward": "in the backward pass",
    "reduction": "as gradients are reduced",
    "step": "as the weights move",
}


@dataclass(frozen=True)
class Machine:
    """Memory of this machine, and of its smallest GPU, if it has any."""

    memory_bytes: int
    gpus: int = 0
    gpu_bytes: int = 0

    @classmethod
    def here(cls) -> "Machine":
        """This machine, as psutil and nvidia-smi tell of it."""
        memory = psutil.virtual_memory().total
        if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or shutil.which("nvidia-smi") is None:
            return cls(memory)
        query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        answer = subprocess.run(query, capture_output=True, text=True, check=False)
        each = [int(line) * 2**20 for line in answer.stdout.split() if line.isdigit()]
        if answer.returncode or not each:
            return cls(memory)
        return cls(memory, len(each), min(each))


@dataclass(frozen=True)
class TrainingPlan:
    """A pre-training that will run, on a machine. `train_tokens`: of the shards, where these are made."""

    training: Training
    machine: Machine
    train_tokens: int | None

    @property
    def need_bytes(self) -> int:
        """Memory that a rank takes: of its GPU; without one all, the process itself in."""
        memory = rank_memory(self.training)
        return memory.device if self.machine.gpus else memory.device + memory.host + PROCESS_BYTES

    @property
    def have_bytes(self) -> int:
        """Memory that a rank has."""
        train = self.training.train
        if train.memory_bytes is not None:
            return train.memory_bytes
        return self.machine.gpu_bytes or self.machine.memory_bytes // train.processes

    @property
    def host_bytes(self) -> int:
        """What the ranks of a machine with GPUs put into its memory."""
        return rank_memory(self.training).host * self.training.train.processes if self.machine.gpus else 0

    @property
    def fits(self) -> bool:
        """Whether a rank has what it takes, and the machine what its ranks put into the host's memory."""
        return self.need_bytes <= self.have_bytes and self.host_bytes <= self.machine.memory_bytes

    def with_settings(self, settings: Mapping[str, object]) -> "TrainingPlan":
        """The same with other fields of cluster.train."""
        train = self.training.train.model_copy(update=dict(settings))
        return replace(self, training=replace(self.training, train=train))


def plan_training(
    recipe: Recipe, plan: Sequence[PlannedStage], *, machine: Machine | None = None
) -> TrainingPlan | None:
    """What the stage pretrain will take; None where it will not run, or an existing tokenizer cannot be read."""
    stages = {planned.stage.name: planned for planned in plan}
    if "pretrain" not in stages or stages["pretrain"].action != "run":
        return None
    config = _decoder_config(recipe, stages["tokenizer"])
    if config is None:
        return None
    machine = machine or Machine.here()
    shards = stages["shards"].artifact
    return TrainingPlan(
        training=Training(
            config, recipe.pretrain, recipe.cluster.train, recipe.model.context_length, gpu=machine.gpus > 0
        ),
        machine=machine,
        train_tokens=shards.manifest.counts.get("train_tokens") if shards else None,
    )


def _decoder_config(recipe: Recipe, tokenizer: PlannedStage) -> DecoderConfig | None:
    """The shape; that of the model in init_from has its own rows of the vocabulary."""
    if recipe.pretrain.init_from is not None:
        return require_shape(recipe.model, Path(recipe.pretrain.init_from))
    vocabulary: int | None = recipe.tokenizer.vocab_size
    if tokenizer.artifact is not None:
        vocabulary = tokenizer.artifact.manifest.counts["vocab_size"]
    elif recipe.tokenizer.path is not None:
        vocabulary = count_ids(Path(recipe.tokenizer.path))
    return None if vocabulary is None else DecoderConfig.from_recipe(recipe.model, vocabulary)


def require_memory(planned: TrainingPlan) -> None:
    """Raises UserError for a training that cannot fit: what a rank needs and has, and the settings that would do.

    What the machines of a cluster have, only `cluster.train.memory_bytes` tells.
    """
    train = planned.training.train
    if (train.launcher == "torchrun" or train.memory_bytes is not None) and not planned.fits:
        raise UserError(f"pretrain: needs {_lack(planned)}; {_way_out(planned)}")


def _lack(planned: TrainingPlan) -> str:
    """What does not fit, and where."""
    train, machine = planned.training.train, planned.machine
    if planned.need_bytes > planned.have_bytes:
        told = "cluster.train.memory_bytes is" if train.memory_bytes else "this machine has"
        return (
            f"{size(planned.need_bytes)} a {'GPU' if machine.gpus else 'rank'}, and {told} {size(planned.have_bytes)}"
        )
    return f"{size(planned.host_bytes)} in the host's memory, and this machine has {size(machine.memory_bytes)}"


def _way_out(planned: TrainingPlan) -> str:
    enough = list(_changes(planned))
    if enough:
        return "set " + ", or ".join(_say(settings) for settings in enough[:PROPOSALS])
    together: dict[str, object] = {}
    for settings in _strongest(planned):
        together |= settings
        if planned.with_settings(together).fits:
            return f"nothing alone is enough; together {_say(together)} are"
    left = planned.with_settings(together)
    return f"with {_say(together)} it still needs {_lack(left)}; take a smaller model, or more memory"


def _changes(planned: TrainingPlan) -> Iterator[dict[str, object]]:
    """Settings that take less memory, each by itself, of each kind the mildest that is enough first."""
    training, train = planned.training, planned.training.train
    each = training.settings.batch_sequences // train.world_size
    kinds: list[list[dict[str, object]]] = [
        [{"micro_batch_sequences": count} for count in range(training.micro_batch - 1, 0, -1) if each % count == 0],
        [] if train.activation_checkpointing else [{"activation_checkpointing": True}],
        [{"zero_stage": stage} for stage in range(train.zero_stage + 1, 4)],
        _offloads(planned),
        _more_processes(planned),
    ]
    for kind in kinds:
        yield from [settings for settings in kind if planned.with_settings(settings).fits][:1]


def _strongest(planned: TrainingPlan) -> Iterator[dict[str, object]]:
    """The strongest setting of each kind, to be added up."""
    train = planned.training.train
    yield {"micro_batch_sequences": 1}
    if not train.activation_checkpointing:
        yield {"activation_checkpointing": True}
    yield {"zero_stage": 3}
    if planned.machine.gpus:
        yield {"offload": "parameters"}
    yield from _more_processes(planned)[-1:]


def _offloads(planned: TrainingPlan) -> list[dict[str, object]]:
    train = planned.training.train
    if not planned.machine.gpus or train.offload == "parameters":
        return []
    optimizer: dict[str, object] = {"offload": "optimizer", "zero_stage": max(1, train.zero_stage)}
    first = [{name: value for name, value in optimizer.items() if getattr(train, name) != value}]
    return (first if train.offload == "none" else []) + [{"offload": "parameters", "zero_stage": 3}]


def _more_processes(planned: TrainingPlan) -> list[dict[str, object]]:
    """More ranks, as far as there are GPUs for them, or memory was given for each, and sequences of the batch."""
    train, batch = planned.training.train, planned.training.settings.batch_sequences
    if not planned.machine.gpus and train.memory_bytes is None:
        return []
    most = planned.machine.gpus or MOST_PROCESSES
    counts = range(train.processes + 1, most + 1)
    return [{"processes": count} for count in counts if batch % (count * train.nodes) == 0]


def _say(settings: Mapping[str, object]) -> str:
    words = [f"cluster.train.{name}={str(value).lower()}" for name, value in settings.items()]
    return " and ".join(words)


def training_table(planned: TrainingPlan) -> Table:
    """The figures as a table of two columns."""
    table = Table(show_header=False, box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _rows(planned):
        table.add_row(label, value)
    return table


def _rows(planned: TrainingPlan) -> Iterator[tuple[str, str]]:
    training, config = planned.training, planned.training.config
    share = embedding_parameters(config) / config.n_parameters
    yield "parameters", f"{config.n_parameters:,}, {share:.0%} of them in embeddings of {config.vocab_size:,} rows"
    step_tokens = training.settings.batch_sequences * training.context_length
    yield "tokens", f"{training.tokens:,} in {training.steps:,} steps of {step_tokens:,}{_epochs(planned)}"
    ratio = training.tokens / config.n_parameters
    yield "  a parameter", f"{significant(ratio)}; {CHINCHILLA_TOKENS} are worth most for their arithmetic"
    flops = training_flops_per_token(config, training.context_length)
    yield "FLOPs", f"{_power(training.flops)}, {compact(flops)} a token"
    memory = rank_memory(training)
    yield "memory a rank", f"{size(planned.need_bytes)} of {size(planned.have_bytes)}, {MOMENTS[memory.peak.name]}:"
    for name, value in {
        "weights": memory.weights,
        "optimizer": memory.optimizer,
        "gradients": memory.peak.gradients,
        "activations": memory.peak.activations,
        "buffers": memory.peak.buffers,
        "process": 0 if planned.machine.gpus else PROCESS_BYTES,
        "offloaded": memory.host,
    }.items():
        if value:
            yield f"  {name}", size(value)
    one, kept = training.checkpoint_bytes(), training.checkpoints_kept()
    yield "checkpoints", f"{size(one)} each, {kept} at most at once: {size(one * kept)}" if kept else "none"


def _epochs(planned: TrainingPlan) -> str:
    if planned.train_tokens is None:
        return ""
    return f", {significant(planned.training.tokens / planned.train_tokens)} epochs of {planned.train_tokens:,}"


def _power(value: int) -> str:
    """2.1e18, as budgets of arithmetic are written."""
    exponent = math.floor(math.log10(value))
    return f"{value / 10**exponent:.1f}e{exponent}"


def training_json(planned: TrainingPlan) -> dict[str, Json]:
    """The same figures for programs; bytes are of one rank but for checkpoints."""
    training, memory = planned.training, rank_memory(planned.training)
    return {
        "parameters": training.config.n_parameters,
        "embedding_parameters": embedding_parameters(training.config),
        "tokens": training.tokens,
        "steps": training.steps,
        "epochs": training.tokens / planned.train_tokens if planned.train_tokens else None,
        "optimal_tokens": training.optimal_tokens,
        "flops": training.flops,
        "flops_per_token": training_flops_per_token(training.config, training.context_length),
        "memory": {
            "need_bytes": planned.need_bytes,
            "have_bytes": planned.have_bytes,
            "weights": memory.weights,
            "optimizer": memory.optimizer,
            "gradients": memory.peak.gradients,
            "activations": memory.peak.activations,
            "buffers": memory.peak.buffers,
            "host": memory.host,
            "peak": memory.peak.name,
        },
        "checkpoint_bytes": training.checkpoint_bytes(),
        "checkpoints_kept": training.checkpoints_kept(),
    }
