"""What the doctor finds on machines that are not this one: their driver, packages, ports and open files."""

import importlib.metadata
import socket
from pathlib import Path

import pytest

from gpt_core.recipe import TrainCluster
from pipelines import machine_checks
from pipelines.finding import Finding, report_lines
from pipelines.machine_checks import gpu_finding, machine_findings, port_finding, torch_cuda

DRIVER = """#!/bin/sh
case "$1" in
  --query-gpu=name,memory.total,driver_version) printf 'NVIDIA H100 80GB HBM3, 81559, 550.54.15\\n%.0s' 1 2 ;;
  *) echo '| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: 12.4     |' ;;
esac
"""
GPUS = "2 x NVIDIA H100 80GB HBM3, 85.5 GB, driver 550.54.15"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi that answers as that of a machine with two GPUs does."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(DRIVER)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tool


def test_gpus_are_counted_and_a_torch_without_cuda_is_pointed_out(
    driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert driver.exists()
    monkeypatch.setattr(machine_checks, "torch_cuda", lambda: None)
    found = gpu_finding(None)
    assert (found.mark, found.text.partition(";")[0]) == ("warn", GPUS)
    assert "torch here is built for CPUs and will use none; install its CUDA build" in found.text
    monkeypatch.setattr(machine_checks, "torch_cuda", lambda: "12.8")
    assert gpu_finding(TrainCluster(processes=2)) == Finding("gpus", True, f"{GPUS}; torch is built for CUDA 12.8")


def test_a_driver_too_old_for_torch_and_ranks_without_a_gpu_are_bad(
    driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert driver.exists()
    monkeypatch.setattr(machine_checks, "torch_cuda", lambda: "12.8")
    told = "cluster.train.processes=4 ranks need one each; lower it to 2"
    assert gpu_finding(TrainCluster(processes=4)) == Finding("gpus", False, f"{GPUS}; {told}")
    monkeypatch.setattr(machine_checks, "torch_cuda", lambda: "13.0")
    told = "it serves CUDA 12.4, torch is built for 13.0: update the driver, or take torch's build for CUDA 12"
    assert gpu_finding(None) == Finding("gpus", False, f"{GPUS}; {told}")


def test_a_driver_that_does_not_answer_is_bad_and_hidden_gpus_are_none(
    driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n")
    found = gpu_finding(None)
    assert found.mark == "BAD"
    assert found.text.startswith("nvidia-smi: Failed to initialize NVML: Driver/library version mismatch; install")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_finding(None).mark == "ok"


def test_the_cuda_of_torch_is_read_without_loading_it() -> None:
    import torch

    assert torch_cuda() == torch.version.cuda


def test_packages_other_than_the_locks_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version("psutil")
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"psutil=={version}\nnot-installed==1\nrich==0.1 ; python_version < '3'\n")
    monkeypatch.setattr(machine_checks, "LOCK", lock)

    def versions() -> Finding:
        found = machine_findings(needs_java=False, needs_page=False, train=None)
        return next(finding for finding in found if finding.subject == "versions")

    assert versions() == Finding("versions", True, "1 packages as in requirements.lock")
    lock.write_text("psutil==0.1\n")
    told = f"psutil {version} (0.1) are not those of requirements.lock; pip install -r {lock}"
    assert versions() == Finding("versions", True, told, warning=True)


def test_a_taken_port_is_a_warning() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert port_finding(port).mark == "warn"
        assert port_finding(port).text.startswith(f"{port} is taken (address already in use): open MLflow's page with")
    assert port_finding(port).mark == "ok"


def test_credentials_that_others_can_read_are_pointed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in machine_checks.SECRET_FILES:
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    token = tmp_path / "token"
    token.write_text("secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))

    def secrets() -> list[Finding]:
        found = machine_findings(needs_java=False, needs_page=False, train=None)
        return [finding for finding in found if finding.subject == "secrets"]

    token.chmod(0o640)
    told = f"{token} can be read by others; chmod 600 {token}"
    assert secrets() == [Finding("secrets", True, told, warning=True)]
    token.chmod(0o600)
    assert secrets() == []


def test_findings_stand_in_columns_and_their_number_below() -> None:
    findings = [
        Finding("java", False, "no Java.\nGet one"),
        Finding("workspace", True, "w"),
        Finding("port", True, "p", warning=True),
    ]
    assert list(report_lines(findings)) == [
        "BAD  java       no Java.",
        "                Get one",
        "ok   workspace  w",
        "warn port       p",
        "1 BAD, 1 warn",
    ]
    assert list(report_lines([Finding("a", True, "b")])) == ["ok   a  b", "all is well"]
