"""What a rank could compute at most, so that what it does compute has a measure: model FLOP utilization (MFU).

MFU = tokens per second x FLOPs a token / (ranks x peak) (Chowdhery et al. 2022, section 4.1). The FLOPs a token are
those that the model needs (gpt_core/training/estimate.py): what is computed twice counts once.
"""

import re
import time
from dataclasses import dataclass

import torch

MEASURE_SECONDS = 0.3
MEASURE_PRODUCTS = 4  # at least; the first one also starts threads and loads kernels
TERA = 1e12

# Dense products, no sparsity: NVIDIA's data sheets of each card. (words of its name, bf16, TF32, fp32) in TFLOP/s;
# the first row whose words all stand in the name counts. The T4 has no bf16: its fp16 is the most there is.
DATA_SHEETS: tuple[tuple[tuple[str, ...], float, float, float], ...] = (
    (("H100", "PCIe"), 756.0, 378.0, 51.2),
    (("H100", "NVL"), 835.0, 417.5, 60.0),
    (("H100",), 989.4, 494.7, 66.9),
    (("H200", "NVL"), 835.0, 417.5, 60.0),
    (("H200",), 989.4, 494.7, 66.9),
    (("GH200",), 989.4, 494.7, 66.9),
    (("A100",), 312.0, 156.0, 19.5),
    (("L40S",), 362.0, 183.0, 91.6),
    (("L4",), 121.0, 60.0, 30.3),
    (("4090",), 165.2, 82.6, 82.6),
    (("T4",), 65.0, 8.1, 8.1),
)
OTHER_CARDS = ("MIG", "Laptop")  # a slice of a card, or a weaker one of the same name


@dataclass(frozen=True)
class Peak:
    """A rank's peak in FLOP/s, and where the figure is from."""

    flops: float
    source: str


def find_peak(given: float | None, device: torch.device, *, half: bool) -> Peak:
    """The peak of `device` for products in bf16 (`half`) or fp32: as given, from a data sheet, else measured.

    Measuring takes MEASURE_SECONDS and counts the threads that torch has now; all ranks of a machine should do it
    together, as they will train.
    """
    if given is not None:
        return Peak(given, "cluster.train.peak_flops")
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        tf32 = torch.get_float32_matmul_precision() != "highest"
        listed = look_up(name, half=half, tf32=tf32)
        if listed is not None:
            return Peak(listed, f"data sheet of {name}, dense {'bf16' if half else 'TF32' if tf32 else 'fp32'}")
        where = name
    else:
        threads = torch.get_num_threads()
        where = f"{threads} CPU thread{'s' if threads > 1 else ''}"
    dtype = torch.bfloat16 if half else torch.float32
    return Peak(measure_peak(device, dtype), f"measured: a product of {'bf16' if half else 'fp32'} matrices on {where}")


def look_up(name: str, *, half: bool, tf32: bool) -> float | None:
    """FLOP/s of the GPU that the driver calls `name`; None for one that is not listed."""
    words = set(re.split(r"[^A-Za-z0-9]+", name))
    if words & set(OTHER_CARDS):
        return None
    for wanted, bf16, tf32_figure, fp32 in DATA_SHEETS:
        if words.issuperset(wanted):
            return (bf16 if half else tf32_figure if tf32 else fp32) * TERA
    return None


def measure_peak(device: torch.device, dtype: torch.dtype, *, seconds: float = MEASURE_SECONDS) -> float:
    """The best FLOP/s of MEASURE_PRODUCTS square products or more, as large as some of them fit into `seconds`."""
    best, size, products = 0.0, 256, 0
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    deadline = time.perf_counter() + seconds
    while (started := time.perf_counter()) < deadline or products < MEASURE_PRODUCTS:
        torch.mm(matrix, matrix)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took = time.perf_counter() - started
        best = max(best, 2 * size**3 / took)
        products += 1
        if took < seconds / 40:  # twice the size takes eight times as long
            size *= 2
            matrix = torch.ones(size, size, dtype=dtype, device=device)
    return best


def utilization(tokens_per_second: float, *, flops_per_token: int, peak_flops: float) -> float:
    """MFU, where `peak_flops` is that of all ranks together."""
    return tokens_per_second * flops_per_token / peak_flops
