"""Claim: a rank takes the memory that the plan says, at every ZeRO stage; told beside it is what ZeRO's paper says.

    make bench NAME=zero_memory
    python benchmarks/zero_memory.py --precision bf16 --architecture qwen3

Two ranks under torchrun, gloo, a decoder of 6 layers x 512 whose states outweigh its activations, two micro-batches a
step. A rank's weights, optimizer and gradients are the storages of all live tensors between two micro-batches; its
peak is the resident memory (VmHWM) over what stood after the imports and a tiny training at the same stage. glibc is
told to give every larger block back at once, so that resident are the tensors. All are compared with
gpt_core/training/memory.py, and a checkpoint's size on disk with estimate.py. Linux only.

In fp32, Rajbhandari et al. 2020, section 3, count 4 bytes of weights, 4 of gradients and 8 of moments a parameter. ZeRO
parts the moments at stage 1, also the gradients at 2, also the weights at 3. DeepSpeed takes 4 bytes / ranks more at
stage 3: it clones a rank's part of the weights as the master copy also where they are fp32 already (stage3.py:
fp32_partitioned_groups_flat); at 1 and 2 jobs/zero.py lets both share their memory. In bf16 that copy is of the paper's
12 bytes, but gradients are summed in fp32, 4 bytes for the paper's 2, and its BF16_Optimizer, which it takes at stage 1
alone, parts none of them. A matrix that a border cuts stands whole among a rank's gradients at stage 2. At the peak
stand besides: what the loss makes of its logits and the embedding's gradient, a bucket and its copy, and at stage 3 the
whole embedding.

`ours` is the greatest deviation, `ratio` 1 where it is at most LIMIT. `same_work`: every stage had the same losses.
"""

import argparse
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from gpt_core.model.config import DecoderConfig
from gpt_core.recipe import Model, Pretrain, TrainCluster
from gpt_core.report.units import size
from gpt_core.training.estimate import Training
from gpt_core.training.memory import rank_memory

LIMIT, RANKS, STEPS = 0.1, 2, 2
SHAPE = {"n_layer": 6, "n_head": 8, "n_embd": 512, "context_length": 128}
VOCABULARY, MICRO_BATCH = 16_383, 2
ROOT = Path(__file__).parents[1]
KINDS = ("weights", "optimizer", "gradients", "peak", "checkpoint")


def plan(stage: int, precision: str, architecture: str, *, tiny: bool = False) -> Training:
    """The training that is measured; `tiny`: the one that warms up."""
    shape = {"n_layer": 1, "n_head": 1, "n_embd": 64, "context_length": 64} if tiny else SHAPE
    model = Model.model_validate({"architecture": architecture, **shape})
    settings = {"precision": precision, "batch_sequences": 2 * RANKS * MICRO_BATCH, "learning_rate": 1e-3}
    train = {"processes": RANKS, "threads_per_process": 1, "zero_stage": stage, "micro_batch_sequences": MICRO_BATCH}
    return Training(
        DecoderConfig.from_recipe(model, 1000 if tiny else VOCABULARY),
        Pretrain.model_validate(settings),
        TrainCluster.model_validate(train),
        model.context_length,
        gpu=False,
    )


def planned_bytes(training: Training) -> dict[str, int]:
    """What memory.py says, by kind; gradients are those between two micro-batches."""
    memory = rank_memory(training)
    return {
        "weights": memory.weights,
        "optimizer": memory.optimizer,
        "gradients": memory.gradients,
        "peak": memory.device,
        "checkpoint": training.checkpoint_bytes(),
    }


def paper_bytes(stage: int, parameters: int, precision: str) -> float:
    """Weights, gradients and optimizer states of a rank (Rajbhandari et al. 2020, figure 1)."""
    weights, gradients, optimizer = (4, 4, 8) if precision != "bf16" else (2, 2, 12)
    parted = [0, optimizer, optimizer + gradients, optimizer + gradients + weights][stage]
    return parameters * (weights + gradients + optimizer - parted + parted / RANKS)


def measure(stage: int, precision: str, architecture: str, folder: Path) -> None:
    """This rank's bytes by kind, and its losses, stand in the folder."""
    from jobs.zero import join_ranks

    rank, _ = join_ranks(TrainCluster(threads_per_process=1))
    _train(plan(stage, precision, architecture, tiny=True), rank, None)
    gc.collect()
    base = _resident("VmRSS")
    told = _train(plan(stage, precision, architecture), rank, folder / "checkpoint")
    told["peak"] -= base
    (folder / f"{stage}-{rank}.json").write_text(json.dumps(told))


def _train(training: Training, rank: int, checkpoint: Path | None) -> dict[str, float]:
    import torch

    import jobs.zero
    from gpt_core.model.decoder import Decoder
    from gpt_core.training.checkpoint_files import detach, write_files
    from gpt_core.training.objective import LanguageObjective
    from jobs.zero import ZeroEngine

    jobs.zero.keep_freed_memory = lambda: None  # what the tensors take is asked, not what malloc keeps of it
    decoder = Decoder(training.config)
    decoder.init_weights(0)
    objective = LanguageObjective(decoder, training.settings.precision)
    engine = ZeroEngine(objective, training.settings, training.train, micro_batch=training.micro_batch)
    _forget_peak()
    generator = torch.Generator().manual_seed(rank)
    shape = (training.micro_batch, training.context_length)
    told: dict[str, float] = {}
    loss = torch.zeros(())
    for step in range(STEPS):
        for index in range(training.micro_batches):
            ids = torch.randint(0, training.config.vocab_size, shape, generator=generator)
            loss = engine.forward(ids, ids)[0]
            engine.backward(loss / ids.numel(), last=index == training.micro_batches - 1)
            told["loss"], loss = float(loss), torch.zeros(())
            if step == STEPS - 1 and index == 0:
                told |= _live_bytes(engine._engine)
        engine.step(1.0)
    told["peak"] = _resident("VmHWM")
    if checkpoint is not None:
        checkpoint.mkdir(exist_ok=True)
        write_files(detach(engine.state_files(), copy=False), checkpoint)
        engine.barrier()
        told["checkpoint"] = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    return told


def _live_bytes(engine: object) -> dict[str, float]:
    """Storages of all live tensors: those of the module, those of its optimizer, and what is left but ZeRO's bucket."""
    import torch

    found: set[tuple[int, int]] = set()

    def note(tensors: object) -> int:
        """Bytes of the storages that were not met before: two may lie over the same memory, a meta tensor over none."""
        before = _union(found)
        storages = [tensor.untyped_storage() for tensor in tensors]  # type: ignore[attr-defined]
        found.update(
            (storage.data_ptr(), storage.data_ptr() + storage.nbytes()) for storage in storages if storage.data_ptr()
        )
        return _union(found) - before

    parameters = list(engine.module.parameters())  # type: ignore[attr-defined]
    weights = note(getattr(parameter, "ds_tensor", parameter) for parameter in parameters)
    weights += note(parameters)
    optimizer = engine.basic_optimizer  # type: ignore[attr-defined]
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    kept = note(states) + note(p for group in optimizer.param_groups for p in group["params"])
    kept += note(getattr(engine.optimizer, "fp32_partitioned_groups_flat", ()))  # type: ignore[attr-defined]
    for bucket in getattr(engine.optimizer, "ipg_buckets", {}).values():  # type: ignore[attr-defined]
        note(bucket.buffer if isinstance(bucket.buffer, list) else [bucket.buffer])
    gc.collect()
    tensors = [it for it in gc.get_objects() if type(it) in (torch.Tensor, torch.nn.Parameter)]
    gradients = [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    return {"weights": weights, "optimizer": kept, "gradients": note([*tensors, *gradients])}


def _union(ranges: Iterable[tuple[int, int]]) -> int:
    """Bytes that at least one of the ranges of addresses holds."""
    total = reached = 0
    for start, end in sorted(ranges):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _resident(field: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def run(stage: int, precision: str, architecture: str) -> tuple[dict[str, float], list[float]]:
    """The most that a rank takes, by kind, and the ranks' last losses."""
    with tempfile.TemporaryDirectory() as name:
        arguments = ["--stage", str(stage), "--precision", precision, "--architecture", architecture, "--folder", name]
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
        giving_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **giving_back}
        command = [sys.executable, *torchrun, __file__, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"error: stage {stage} ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        told = [json.loads((Path(name) / f"{stage}-{rank}.json").read_text()) for rank in range(RANKS)]
    return {kind: max(rank[kind] for rank in told) for kind in KINDS}, [rank["loss"] for rank in told]


def main() -> None:
    """Print each stage's bytes, then the claim as one line of JSON."""
    parser = argparse.ArgumentParser(description="Memory of a rank, measured against the plan.")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "autocast", "bf16"])
    parser.add_argument("--architecture", default="gpt2", choices=["gpt1", "gpt2", "qwen3"])
    parser.add_argument("--stage", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    kind = (arguments.precision, arguments.architecture)
    if arguments.stage is not None:
        measure(arguments.stage, *kind, arguments.folder)
        os._exit(0)
    worst, losses = 0.0, []
    stages = range(1 if arguments.precision == "bf16" else 0, 4)
    parameters = plan(0, "fp32", arguments.architecture).config.n_parameters
    print(f"{parameters:,} parameters, {RANKS} ranks; measured / planned")
    for stage in stages:
        measured, loss = run(stage, *kind)
        planned = planned_bytes(plan(stage, *kind))
        losses.append(loss)
        worst = max(worst, *(abs(measured[name] / planned[name] - 1) for name in KINDS))
        shares = ", ".join(
            f"{name} {size(measured[name])} / {size(planned[name])} = {measured[name] / planned[name]:.3f}"
            for name in KINDS
        )
        states = sum(measured[name] for name in ("weights", "optimizer", "gradients"))
        paper = paper_bytes(stage, parameters, arguments.precision)
        print(
            f"stage {stage}: {shares}; states {states / parameters:.2f} bytes a parameter, {paper / parameters:.2f} "
            "in the paper",
            flush=True,
        )
    same = all(math.isclose(a, b, rel_tol=1e-3) for loss in losses for a, b in zip(loss, losses[0], strict=True))
    claim = {
        "claim": f"memory and checkpoints at ZeRO stages {stages[0]} to 3, {arguments.precision}, as planned",
        "ours": round(worst, 3),
        "peer": None,
        "ratio": float(worst <= LIMIT),
        "unit": "share off the plan, at most",
        "same_work": same,
    }
    print(json.dumps(claim))


if __name__ == "__main__":
    main()
