"""kubectl, the one way to a Kubernetes cluster: whatever it is logged in with, gptmill is.

Every call is a list of arguments. kubectl's own words tell what the API refuses, `Error from server (NotFound): ...`,
from an API that does not answer.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpt_core.errors import SetupError
from gpt_core.fingerprint import Json
from gpt_core.recipe import Kubernetes

ANSWER_SECONDS = 15  # for one answer of the API
PASSING = {"", "InternalError", "ServiceUnavailable", "ServerTimeout", "Timeout", "TooManyRequests"}  # "": of a proxy
SILENT = re.compile(
    "Unable to connect|was refused|TLS handshake timeout|i/o timeout|EOF|connection reset|deadline exceeded|"
    "unable to (handle|return)"
)


class RefusedError(Exception):
    """The API, or kubectl itself, has answered no. `reason` is Kubernetes' word for it: NotFound, Forbidden."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Kubectl:
    """kubectl in the recipe's context and namespace."""

    settings: Kubernetes

    def command(self, *arguments: str) -> list[str]:
        """The whole command line."""
        context = ["--context", self.settings.context] if self.settings.context is not None else []
        return ["kubectl", *context, "--namespace", self.settings.namespace, *arguments]

    def run(self, *arguments: str, text: str | None = None) -> str:
        """What the command prints. Raises RefusedError, and ConnectionError where nobody answers."""
        if shutil.which("kubectl") is None:
            raise SetupError("kubectl is not installed; a launcher `kubernetes` needs it, and its configuration, here")
        done = subprocess.run(
            self.command(*arguments, f"--request-timeout={ANSWER_SECONDS}s"),
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise failure(done.stderr)
        return done.stdout

    def read(self, *arguments: str) -> dict[str, Json]:
        """The object or list that `kubectl get` finds; {} for none."""
        found = self.run("get", *arguments, "--ignore-not-found", "--output=json")
        value = json.loads(found) if found.strip() else {}
        assert isinstance(value, dict)
        return value

    def create(self, content: Mapping[str, Json]) -> None:
        """The object stands in the cluster. Raises RefusedError: AlreadyExists, Invalid, Forbidden."""
        self.run("create", "--filename=-", "--output=name", text=json.dumps(content))


def failure(words: str) -> RefusedError | ConnectionError:
    """What kubectl's last line on stderr means."""
    line = ([line.strip() for line in words.splitlines() if line.strip()] or ["kubectl ended without a word"])[-1]
    match = re.match(r"(?:error: )?[Ee]rror from server(?: \((\w+)\))?: (.*)", line)
    if match is not None and (match[1] or "") not in PASSING:
        return RefusedError(match[1], match[2].removeprefix('error when creating "STDIN": '))
    if match is not None or SILENT.search(line):
        return ConnectionError(line)
    if "Unauthorized" in line:
        return RefusedError("Unauthorized", line)
    return RefusedError("", line.removeprefix("error: "))


def items(found: Mapping[str, Json]) -> Sequence[dict[str, Json]]:
    """The objects of a list."""
    listed = found.get("items", [])
    assert isinstance(listed, list)
    return [one for one in listed if isinstance(one, dict)]


def at(value: Json, *path: str) -> Json:
    """What stands at `path` in an object; None where something on the way is missing."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value
