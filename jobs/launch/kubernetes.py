"""Kubernetes as a target, through kubectl: what jobs/launch/manifests.py makes is created, followed and suspended.

The attempts of a stage are the objects with its submission id as a label; an object's name is taken once, which keeps
a stage from being submitted twice. Cancelling suspends: the controllers of all three kinds then delete the pods, with
SIGTERM and the grace, and the object stays and tells that it was stopped. The log is that of rank 0's pod, or of the
one that submits to Ray, as far as it came: where the cluster took a pod away, its last lines may be missing.
"""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from gpt_core.errors import SetupError, StageError, TransientError
from gpt_core.fingerprint import Json
from gpt_core.recipe import Cluster
from jobs.launch.kubectl import Kubectl, RefusedError, at, failure, items
from jobs.launch.kubernetes_state import CANCELLED, attempt_of, is_alive, is_driver, waiting
from jobs.launch.manifests import INSTANCE, KINDS, Kind, manifest
from jobs.launch.target import AlreadySubmittedError, Attempt

FOLLOW_SECONDS = 20.0  # a log's stream may fall silent with its machine: look at the job in between
QUEUE_SECONDS = 2.0  # longer between looks at a job that has not begun
NO_LOG = {"NotFound", "BadRequest"}  # the pod is gone, or its container has not begun


class KubernetesTarget:
    """The recipe's context and namespace. Remembers how far it has passed on the log of every pod."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.kubectl = Kubectl(cluster.kubernetes)
        self.passed: dict[str, str] = {}  # pod: time of the last line
        self.told: dict[str, str] = {}  # pod: what it waits for
        self.queued = False  # when last looked at, the job had not begun

    def latest(self, name: str) -> Attempt | None:
        """The last attempt at `name`. Raises SetupError where jobs of that kind may not be seen."""
        kind = KINDS[name.split("-")[1]]
        try:
            found = items(self.kubectl.read(kind.resource, f"--selector={INSTANCE}={name}"))
        except RefusedError as error:
            raise SetupError(
                f"cluster.kubernetes: {kind.kind}s cannot be seen ({error}); `gptmill doctor RECIPE` says what is wrong"
            ) from None
        except ConnectionError as error:
            raise TransientError(f"the cluster does not answer: {error}") from None
        numbered = {_number(name, str(at(one, "metadata", "name"))): one for one in found}
        return self._attempt(kind, numbered[max(numbered)]) if numbered else None

    def submit(self, attempt: str, command: Sequence[str], output: Path) -> str:
        """The native id, KIND/NAME as kubectl takes it, of a new job."""
        kind = KINDS[output.parent.name]
        try:
            self.kubectl.create(manifest(attempt, command, output, self.cluster))
        except RefusedError as error:
            if error.reason == "AlreadyExists":
                raise AlreadySubmittedError(attempt) from None
            raise StageError(f"Kubernetes took no {kind.kind} {attempt}: {error}") from None
        except ConnectionError as error:
            raise TransientError(f"the cluster does not answer: {error}; it may have taken {attempt}") from None
        return f"{kind.resource}/{attempt}"

    def look(self, native_id: str) -> Attempt:
        """How the job is; `lost` where somebody deleted it."""
        kind, name = _parts(native_id)
        try:
            content = self.kubectl.read(native_id)
        except RefusedError as error:
            raise StageError(f"the {kind.kind} {name} cannot be seen any more: {error}") from None
        attempt = self._attempt(kind, content) if content else Attempt(name, native_id, "lost", "it was deleted")
        self.queued = attempt.state == "pending"
        return attempt

    def pass_on(self, native_id: str, output: Path) -> None:  # noqa: ARG002  the protocol's
        """What the driver's pods have printed stands on stdout, up to FOLLOW_SECONDS from now while they run."""
        kind, name = _parts(native_id)
        if self.queued:
            time.sleep(QUEUE_SECONDS)
        for pod in filter(is_driver, self._pods(kind, name)):
            if at(pod, "status", "phase") == "Pending":
                self._tell(pod)
            else:
                self._pass_on(str(at(pod, "metadata", "name")), kind.container, runs=is_alive(pod))

    def cancel(self, native_id: str) -> None:
        """The job is suspended, and says that it was cancelled."""
        change = {"metadata": {"annotations": {CANCELLED: "true"}}, "spec": {"suspend": True}}
        try:
            self.kubectl.run("patch", native_id, "--type=merge", f"--patch={json.dumps(change)}")
        except RefusedError as error:
            if error.reason != "NotFound":
                raise StageError(f"{native_id} cannot be suspended: {error}") from None

    def _attempt(self, kind: Kind, content: dict[str, Json]) -> Attempt:
        return attempt_of(kind, content, lambda: self._pods(kind, str(at(content, "metadata", "name"))))

    def _pods(self, kind: Kind, name: str) -> Sequence[dict[str, Json]]:
        try:
            return items(self.kubectl.read("pods", f"--selector={kind.pods}={name}"))
        except RefusedError as error:
            raise StageError(f"the pods of the {kind.kind} {name} cannot be seen: {error}") from None

    def _tell(self, pod: dict[str, Json]) -> None:
        """Stdout says once what the pod waits for: an image that cannot be pulled is waited for without end."""
        name, why = str(at(pod, "metadata", "name")), waiting(pod)
        if why and self.told.get(name) != why:
            self.told[name] = why
            print(f"the pod {name} waits: {why}", flush=True)

    def _pass_on(self, pod: str, container: str, *, runs: bool) -> None:
        mark = self.passed.get(pod, "")
        since = [f"--since-time={mark}"] if mark else []
        follow = ["--follow"] if runs else []
        logs = subprocess.Popen(
            self.kubectl.command("logs", pod, f"--container={container}", "--timestamps", *since, *follow),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert logs.stdout is not None
        assert logs.stderr is not None
        limit = threading.Timer(FOLLOW_SECONDS, logs.terminate)
        limit.start()
        try:
            for line in logs.stdout:
                self._print(pod, line.decode(errors="replace"), after=mark)
            words = logs.stderr.read().decode(errors="replace")
        finally:
            limit.cancel()
            logs.terminate()
            code = logs.wait()
        if code > 0:
            error = failure(words)
            if isinstance(error, ConnectionError):
                raise error
            if error.reason not in NO_LOG:
                raise StageError(f"the log of the pod {pod} cannot be read: {error}")

    def _print(self, pod: str, line: str, *, after: str) -> None:
        """The API counts `since` in whole seconds, so lines up to `after` come again. All times have one width."""
        match = re.match(r"(\d{4}-\d\d-\d\dT\S+) ?(.*)", line, re.DOTALL)
        when, text = match.groups() if match is not None else (self.passed.get(pod, ""), line)  # the kubelet's own word
        if match is None or when > after:
            self.passed[pod] = when
            sys.stdout.write(text)
            sys.stdout.flush()


def _number(name: str, attempt: str) -> int:
    """1 for the attempt NAME, 2 for NAME-2."""
    return int(attempt.removeprefix(f"{name}-")) if attempt != name else 1


def _parts(native_id: str) -> tuple[Kind, str]:
    resource, _, name = native_id.partition("/")
    return next(kind for kind in KINDS.values() if kind.resource == resource), name
