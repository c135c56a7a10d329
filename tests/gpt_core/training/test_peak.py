"""Model FLOP utilization, worked out by hand; peaks by the names that drivers give."""

import time

import pytest
import torch

from gpt_core.training.peak import find_peak, look_up, measure_peak, utilization


def test_utilization_is_the_share_of_the_peak_that_the_model_needs() -> None:
    # 450,000 tokens/s x 0.855 GFLOP a token = 384.8 TFLOP/s, of 989.4: GPT-2 124M on an H100
    assert utilization(450_000, flops_per_token=855_000_000, peak_flops=989.4e12) == pytest.approx(0.38887, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "half", "tf32", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", True, False, 989.4),
        ("NVIDIA H100 PCIe", True, False, 756.0),
        ("NVIDIA H100 NVL", True, False, 835.0),
        ("NVIDIA H200", True, False, 989.4),
        ("NVIDIA A100-SXM4-80GB", True, False, 312.0),
        ("NVIDIA A100-SXM4-80GB", False, True, 156.0),
        ("NVIDIA A100-SXM4-80GB", False, False, 19.5),
        ("NVIDIA L40S", True, False, 362.0),
        ("NVIDIA L4", True, False, 121.0),
        ("NVIDIA GeForce RTX 4090", True, False, 165.2),
        ("Tesla T4", True, False, 65.0),
        ("NVIDIA H20", True, False, None),
        ("NVIDIA L40", True, False, None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", True, False, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", True, False, None),
    ],
)
def test_a_card_has_the_peak_of_its_data_sheet_and_an_unknown_one_none(
    name: str, half: bool, tf32: bool, tera: float | None
) -> None:
    assert look_up(name, half=half, tf32=tf32) == (None if tera is None else pytest.approx(tera * 1e12))


def test_what_the_recipe_says_counts_before_all() -> None:
    peak = find_peak(2e12, torch.device("cpu"), half=True)
    assert (peak.flops, peak.source) == (2e12, "cluster.train.peak_flops")


def test_on_a_cpu_the_peak_is_measured_and_said() -> None:
    peak = find_peak(None, torch.device("cpu"), half=False)
    assert 1e8 < peak.flops < 1e14
    assert peak.source.startswith("measured: a product of fp32 matrices on ")


def test_a_slow_start_is_not_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    multiply, seen = torch.mm, []

    def slow_at_first(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if not seen:
            time.sleep(0.5)
        seen.append(one.shape)
        return multiply(one, other)

    monkeypatch.setattr(torch, "mm", slow_at_first)
    assert measure_peak(torch.device("cpu"), torch.float32, seconds=0.1) > 2 * 2 * 256**3 / 0.5
    assert len(seen) > 1


def test_measuring_keeps_to_its_time() -> None:
    started = time.perf_counter()
    assert measure_peak(torch.device("cpu"), torch.bfloat16, seconds=0.1) > 0
    assert time.perf_counter() - started < 5.0
