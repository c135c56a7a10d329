"""Environments of the peers, made at measuring time and kept outside the repository."""

import os
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gptmill-bench"
DATATROVE = ("datatrove-0.10.1", "datatrove[io,processing]==0.10.1", "spacy>=3.8,<4")
STREAMING = (
    "mosaicml-streaming-0.13.0",
    "mosaicml-streaming==0.13.0",
    "torch==2.14.1",
    "torchvision==0.29.1",
    "pyarrow",
)


def datatrove_python() -> Path:
    """The interpreter of an environment with datatrove (500 MB)."""
    return _environment(*DATATROVE)


def streaming_python() -> Path:
    """The interpreter of an environment with mosaicml-streaming and the torchvision that it imports (5 GB)."""
    return _environment(*STREAMING)


def _environment(name: str, *packages: str) -> Path:
    """The interpreter of the environment `name`; made where it does not stand."""
    folder = CACHE / name
    python, done = folder / "bin" / "python", folder / "done"
    if not done.exists():
        print(f"making an environment with {name} in {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        done.touch()
    return python
