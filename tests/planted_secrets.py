"""Secrets in the environment, and the files that hold one of them in the end."""

from collections.abc import Mapping
from pathlib import Path

SECRETS = {  # by the variable that holds it
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password",
    "AWS_ACCESS_KEY_ID": "planted-aws-key",
    "AWS_SECRET_ACCESS_KEY": "planted-aws-secret",
    "AWS_SESSION_TOKEN": "planted-aws-session",
    "HF_TOKEN": "planted-hub-token",
}
EVERY = "planted-"


def holders(*folders: Path) -> Mapping[Path, str]:
    """The files below that hold a planted secret, each with what stands around it; a file that is gone holds none."""
    found = {}
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        place = content.find(EVERY.encode())
        if place >= 0:
            found[path] = content[max(0, place - 60) : place + 40].decode("utf-8", "replace")
    return found
