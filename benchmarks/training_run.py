"""One contestant's training steps, measured in a process of its own; started by the training benchmarks.

    torchrun --standalone --nproc-per-node 1 benchmarks/training_run.py ours --model FOLDER --precision autocast ...

Prints one line of JSON: seconds and CPU-seconds of every step behind the first --warmup, all losses, and the peak of
memory. The tokens are random, and the same for all.
"""

import argparse
import json
import os
import resource
import time
from pathlib import Path

import torch
from contestants import CONTESTANTS, Options


def main() -> None:
    """Train and print."""
    arguments = parse_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("high")  # TF32, as nanoGPT sets it; nothing on a CPU
    options = Options(
        model=arguments.model,
        precision=arguments.precision,
        compiled=arguments.compile,
        zero_stage=arguments.zero_stage,
        batch=arguments.batch,
        threads=arguments.threads,
    )
    contestant = CONTESTANTS[arguments.contestant](options, device)
    vocabulary = json.loads((arguments.model / "config.json").read_text())["vocab_size"]
    generator = torch.Generator().manual_seed(0)
    losses, seconds, cpu_seconds = [], [], []
    for number in range(arguments.warmup + arguments.steps):
        tokens = torch.randint(vocabulary, (arguments.batch, arguments.context + 1), generator=generator)
        ids, targets = tokens[:, :-1].contiguous().to(device), tokens[:, 1:].contiguous().to(device)
        started, cpu_started = time.perf_counter(), time.process_time()
        losses.append(contestant.step(ids, targets, 1.0))  # its loss is read: the device has done the work
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
        if arguments.profile and number == arguments.warmup:
            with torch.profiler.profile() as profile:
                contestant.step(ids, targets, 1.0)
            order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
            arguments.profile.write_text(profile.key_averages().table(sort_by=order, row_limit=30))
    told = {
        "seconds": seconds[arguments.warmup :],
        "cpu_seconds": cpu_seconds[arguments.warmup :],
        "losses": losses,
        "peak_bytes": peak_bytes(device),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }
    print(json.dumps(told), flush=True)
    os._exit(0)


def parse_arguments() -> argparse.Namespace:
    """What the benchmark asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("--model", type=Path, required=True, help="a GPT-2 in Hugging Face layout")
    parser.add_argument("--precision", choices=["fp32", "autocast", "bf16"], required=True)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--zero-stage", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--profile", type=Path, help="a file for the time of every kernel in one step")
    return parser.parse_args()


def peak_bytes(device: torch.device) -> int:
    """The most memory that stood at once: the GPU allocator's, or the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
