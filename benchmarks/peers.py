"""Environments of the peers, made at measuring time and kept outside the repository."""

import os
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gptmill-bench"
DATATROVE = "datatrove-0.10.1"


def datatrove_python() -> Path:
    """The interpreter of an environment with datatrove 0.10.1; made where it does not stand (500 MB)."""
    folder = CACHE / DATATROVE
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making an environment with datatrove in {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        packages = ["datatrove[io,processing]==0.10.1", "spacy>=3.8,<4"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    return python
