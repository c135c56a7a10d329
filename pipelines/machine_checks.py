"""This machine: Python, Java, packages, memory, GPUs, ports, and who else may read its credentials. No engine loads."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from gpt_core.recipe import TrainCluster
from gpt_core.report.units import size
from pipelines.finding import Finding
from pipelines.java import java_problem

ENGINES = ("pyspark", "ray", "torch", "deepspeed", "mlflow", "pyarrow")
NEEDED_MEMORY_BYTES = 6 * 2**30  # what the demo may take
LOCK = Path(__file__).parents[1] / "requirements.lock"  # a checkout has it
MLFLOW_PORT = 5000  # of `mlflow ui`, by default
MOST_NAMED = 4
SECRET_FILES = {  # by the variable that names another
    "RAY_AUTH_TOKEN_PATH": "~/.ray/auth_token",
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
    "KUBECONFIG": "~/.kube/config",
    "PGPASSFILE": "~/.pgpass",
    "NETRC": "~/.netrc",
    "MLFLOW_CREDENTIALS": "~/.mlflow/credentials",
}


def machine_findings(*, needs_java: bool, needs_page: bool, train: TrainCluster | None) -> Iterator[Finding]:
    """What there is here, whoever asks; `train` is the recipe's, where ranks start here."""
    version = ".".join(map(str, sys.version_info[:3]))
    right = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding("python", right, f"{version} at {sys.executable}" + ("" if right else "; take 3.11 to 3.13"))
    problem = java_problem() if needs_java else None
    yield Finding("java", problem is None, problem or ("17 or newer" if needs_java else "not needed: no corpus"))
    for name in ENGINES:
        found = importlib.util.find_spec(name) is not None
        yield Finding(name, found, importlib.metadata.version(name) if found else "not installed; run make install")
    if LOCK.exists():
        yield _versions(LOCK)
    memory = psutil.virtual_memory()
    told = f"{size(memory.total)}, {size(memory.available)} free; the demo takes up to {size(NEEDED_MEMORY_BYTES)}"
    yield Finding("memory", memory.total >= NEEDED_MEMORY_BYTES, told)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores", True, f"{cores}")
    yield gpu_finding(train)
    if needs_page:
        yield port_finding(MLFLOW_PORT)
    yield from _open_secrets()


def _versions(lock: Path) -> Finding:
    """Whether the packages are those that gptmill is tested with; those that are not installed are not needed."""
    lines = [line for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line]
    here, others = 0, []
    for pinned in map(Requirement, lines):
        if pinned.marker is not None and not pinned.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(pinned.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        here += 1
        if not pinned.specifier.contains(version):  # torch's +cpu is no other version
            others.append(f"{pinned.name} {version} ({str(pinned.specifier).removeprefix('==')})")
    if not others:
        return Finding("versions", True, f"{here} packages as in {lock.name}")
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    told = f"{', '.join(others[:MOST_NAMED])}{more} are not those of {lock.name}; pip install -r {lock}"
    return Finding("versions", True, told, warning=True)


def gpu_finding(train: TrainCluster | None) -> Finding:
    """How many GPUs there are, and whether driver, torch and the recipe's ranks fit them."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or shutil.which("nvidia-smi") is None:
        return Finding("gpus", True, "none: trainings run on CPU cores")
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines() if line.count(",") == 2]
    if answer.returncode or not rows:
        said = (answer.stdout + answer.stderr).strip().partition("\n")[0] or f"exit code {answer.returncode}"
        return Finding("gpus", False, f"nvidia-smi: {said}; install the driver anew, or restart behind an update of it")
    (name, mebibytes, driver), *_ = rows
    found = f"{len(rows)} x {name}, {size(int(mebibytes) * 2**20)}, driver {driver}"
    built, served = torch_cuda(), _driver_cuda()
    if built is None:
        told = "torch here is built for CPUs and will use none; install its CUDA build: pytorch.org/get-started"
        return Finding("gpus", True, f"{found}; {told}", warning=True)
    if served is not None and int(built.partition(".")[0]) > int(served.partition(".")[0]):
        told = f"it serves CUDA {served}, torch is built for {built}: update the driver, or take torch's build for "
        return Finding("gpus", False, f"{found}; {told}CUDA {served.partition('.')[0]}")
    if train is not None and train.processes > len(rows):
        told = f"cluster.train.processes={train.processes} ranks need one each; lower it to {len(rows)}"
        return Finding("gpus", False, f"{found}; {told}")
    return Finding("gpus", True, f"{found}; torch is built for CUDA {built}")


def torch_cuda() -> str | None:
    """The CUDA that torch is built for, without loading it; None for a build for CPUs, or no torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    match = re.search(r"^cuda\b[^=]*= *'([\d.]+)'", text, re.MULTILINE)
    return match[1] if match else None


def _driver_cuda() -> str | None:
    answer = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False)
    match = re.search(r"CUDA Version: *([\d.]+)", answer.stdout)
    return match[1] if match else None


def port_finding(port: int) -> Finding:
    """Whether MLflow's page can be opened at its usual port."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        told = f"{port} is taken ({reason}): open MLflow's page with --port of another"
        return Finding("port", True, told, warning=True)
    return Finding("port", True, f"{port} is free for MLflow's page")


def _open_secrets() -> Iterator[Finding]:
    """A warning for each file with credentials that other people of this machine can read."""
    for variable, usual in SECRET_FILES.items():
        path = Path(os.environ.get(variable) or usual).expanduser()
        try:
            mode = path.stat().st_mode
        except OSError:  # none, or not ours to see
            continue
        if stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
            yield Finding("secrets", True, f"{path} can be read by others; chmod 600 {path}", warning=True)
