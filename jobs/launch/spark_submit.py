"""clean and dedup with their driver on a cluster: spark-submit in cluster mode, to YARN or Kubernetes.

spark-submit returns once the cluster has the driver, and says nothing of its end; has it ended, it may be called well
without being so. The manifest tells.

- Kubernetes: the driver is a pod of the attempt's name, and the API takes a name once. kubectl looks after it.
- YARN: the application has the attempt's name and the job's as a tag. YARN takes a name twice; the runner's lease, and
  the job's lock on its output, keep two apart. The command `yarn` looks after it; it has the log once all has ended.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from gpt_core.errors import SetupError, StageError, TransientError
from gpt_core.fingerprint import Json
from gpt_core.recipe import Cluster
from jobs.launch.kubectl import RefusedError, at, items
from jobs.launch.kubernetes import QUEUE_SECONDS, KubernetesTarget
from jobs.launch.kubernetes_state import disruption, is_alive, terminated
from jobs.launch.manifests import INSTANCE
from jobs.launch.spec import submission_id
from jobs.launch.target import AlreadySubmittedError, Attempt, Target
from jobs.spark_conf import CONTAINER, SCRATCH, spark_conf, spark_home, write_pod_template

ANSWER_SECONDS = 30
PATIENCE = "60000"  # milliseconds for an answer of the API; Spark's own 10 s pass on a machine with much to do
_PASSING = re.compile(
    "[Tt]imeout|ConnectException|Connection (was closed|refused|reset)|UnknownHost|ServiceUnavailable"
)
State = Literal["pending", "running", "succeeded", "failed", "stopped", "lost"]
_YARN_STATES: dict[str, State] = {
    **dict.fromkeys(("NEW", "NEW_SAVING", "SUBMITTED", "ACCEPTED"), "pending"),
    "RUNNING": "running",
    "FAILED": "failed",
    "KILLED": "stopped",
}
_PHASES: dict[str, State] = {
    "Pending": "pending",
    "Running": "running",
    "Unknown": "running",  # its node is silent
    "Succeeded": "succeeded",
    "Failed": "failed",
}


def open_spark(cluster: Cluster) -> Target:
    """The cluster of `cluster.spark.master`. Raises SetupError where a command that it takes is missing."""
    if cluster.spark.manager == "kubernetes":
        return _Pods(cluster)
    if shutil.which("yarn") is None:
        raise SetupError("cluster.spark.master=yarn: the command `yarn` is not on PATH; install Hadoop's client here")
    return _Yarn(cluster)


def submission(cluster: Cluster, attempt: str, command: Sequence[str], output: Path) -> list[str]:
    """The spark-submit command for the driver that runs `command`: python -m MODULE ARGUMENTS."""
    _, _, module, *arguments = command
    spark, job = cluster.spark, submission_id(output)
    conf = spark_conf(cluster, output)
    main = str(_main_file(module, output))
    if spark.manager == "kubernetes":
        main = f"local://{main}"  # in the pod, on the claim
        conf |= {
            "spark.kubernetes.driver.pod.name": attempt,
            f"spark.kubernetes.driver.label.{INSTANCE}": job,
            "spark.kubernetes.submission.waitAppCompletion": "false",
            "spark.kubernetes.submission.connectionTimeout": PATIENCE,
            "spark.kubernetes.submission.requestTimeout": PATIENCE,
            "spark.kubernetes.driverEnv.PYTHONSAFEPATH": "1",
        }
    else:
        conf |= {
            "spark.yarn.tags": job,
            "spark.yarn.submit.waitAppCompletion": "false",
            "spark.yarn.maxAppAttempts": "1",  # the runner retries
            "spark.yarn.appMasterEnv.PYTHONSAFEPATH": "1",
        }
    settings = [word for key, value in conf.items() for word in ("--conf", f"{key}={value}")]
    where = ["--master", spark.master, "--deploy-mode", "cluster", "--name", attempt]
    return [str(spark_home() / "bin/spark-submit"), *where, *settings, main, *arguments]


class _Pods(KubernetesTarget):
    """Drivers as pods. One that is cancelled is deleted, and its executors go with it."""

    def latest(self, name: str) -> Attempt | None:
        try:
            found = items(self._read("pods", f"--selector={INSTANCE}={name}"))
        except ConnectionError as error:
            raise TransientError(f"the cluster does not answer: {error}") from None
        return _last([_of_pod(pod) for pod in found], name)

    def submit(self, attempt: str, command: Sequence[str], output: Path) -> str:
        _submit(self.cluster, attempt, command, output)
        return f"pod/{attempt}"

    def look(self, native_id: str) -> Attempt:
        pod = self._read(native_id)
        name = native_id.removeprefix("pod/")
        return _of_pod(pod) if pod else Attempt(name, native_id, "lost", "its pod was deleted")

    def pass_on(self, native_id: str, output: Path) -> None:  # noqa: ARG002  the protocol's
        pod = self._read(native_id)
        if at(pod, "status", "phase") in ("Running", "Succeeded", "Failed"):
            self._pass_on(native_id.removeprefix("pod/"), CONTAINER, runs=is_alive(pod))
        elif pod:
            self._tell(pod)
            time.sleep(QUEUE_SECONDS)

    def cancel(self, native_id: str) -> None:
        try:
            self.kubectl.run("delete", native_id, "--ignore-not-found", "--wait=false")
        except RefusedError as error:
            raise StageError(f"{native_id} cannot be deleted: {error}") from None

    def _read(self, *arguments: str) -> dict[str, Json]:
        try:
            return self.kubectl.read(*arguments)
        except RefusedError as error:
            raise StageError(f"the driver's pod cannot be seen: {error}") from None


class _Yarn:
    """Drivers as YARN applications."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.told: set[str] = set()  # whose log stdout has

    def latest(self, name: str) -> Attempt | None:
        try:
            table = _ask(["yarn", "application", "-list", "-appStates", "ALL", "-appTags", name])
        except OSError as error:
            raise TransientError(f"YARN does not answer: {error}") from None
        rows = ([cell.strip() for cell in line.split("\t")] for line in table.splitlines())
        return _last([_of_application(*row[:2], *row[5:7]) for row in rows if row[0].startswith("application_")], name)

    def submit(self, attempt: str, command: Sequence[str], output: Path) -> str:
        _submit(self.cluster, attempt, command, output)
        found = self.latest(submission_id(output))
        if found is None or found.name != attempt:
            raise StageError(f"spark-submit ended well, but YARN has no application {attempt}")
        return found.native_id

    def look(self, native_id: str) -> Attempt:
        try:
            report = _ask(["yarn", "application", "-status", native_id])
        except _UnknownError:
            return Attempt(native_id, native_id, "lost")
        fields = dict(re.findall(r"^\s+([\w-]+) : (.*)$", report, re.MULTILINE))
        return _of_application(
            native_id, fields["Application-Name"], fields["State"], fields["Final-State"], fields.get("Diagnostics", "")
        )

    def pass_on(self, native_id: str, output: Path) -> None:  # noqa: ARG002  the protocol's
        if native_id in self.told or not self.look(native_id).ended:
            return
        self.told.add(native_id)
        command = ["yarn", "logs", "-applicationId", native_id, "-am", "1", "-log_files", "stderr,stdout"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # there may be no log
        print(done.stdout, end="", flush=True)

    def cancel(self, native_id: str) -> None:
        _ask(["yarn", "application", "-kill", native_id])


class _UnknownError(Exception):
    """The cluster knows no such job."""


def _submit(cluster: Cluster, attempt: str, command: Sequence[str], output: Path) -> None:
    """The cluster has the driver. Raises AlreadySubmittedError; StageError if it is refused, or nobody answers."""
    source = find_spec(command[2])
    assert source is not None
    assert source.origin is not None
    write_pod_template(cluster, output)
    main = _main_file(command[2], output)
    main.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source.origin, main)
    done = subprocess.run(submission(cluster, attempt, command, output), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    if "AlreadyExists" in done.stderr or f'"{attempt}" already exists' in done.stderr:
        raise AlreadySubmittedError
    told = re.findall(r"^(?:Exception in thread \S+ |Caused by: )(.+)", done.stderr, re.MULTILINE)
    reason = told[-1] if told else done.stderr[-500:]
    kind = TransientError if _PASSING.search(reason) else StageError
    raise kind(f"spark-submit exited {done.returncode}: {reason}")


def _main_file(module: str, output: Path) -> Path:
    """The job's own file, where a driver on any machine sees it: Spark runs a file and no module."""
    return output / SCRATCH / f"{module.rpartition('.')[2]}.py"


def _ask(command: Sequence[str]) -> str:
    """What the command prints. Raises OSError where the cluster does not answer, _UnknownError where it has no such."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{command[0]} took longer than {ANSWER_SECONDS} s") from None
    if done.returncode == 0:
        return done.stdout
    told = done.stderr.strip() or done.stdout.strip()
    if "doesn't exist in RM" in told:
        raise _UnknownError(told)
    raise ConnectionError(told.splitlines()[-1] if told else f"{command[0]} exited {done.returncode}")


def _last(attempts: Sequence[Attempt], name: str) -> Attempt | None:
    """The one with the highest number behind `name`."""
    numbers = {one.name: int(one.name.removeprefix(name).lstrip("-") or 1) for one in attempts}
    return max(attempts, key=lambda one: numbers[one.name], default=None)


def _of_pod(pod: dict[str, Json]) -> Attempt:
    name, phase = str(at(pod, "metadata", "name")), str(at(pod, "status", "phase"))
    ended = terminated(pod, CONTAINER) or {}
    taken, code = disruption(pod), ended.get("exitCode")
    told = [taken, f"exit code {code}, {ended.get('reason', 'Error')}" if code else ""]
    return Attempt(
        name,
        f"pod/{name}",
        _PHASES.get(phase, "pending"),
        message="; ".join(filter(None, told)),
        transient=phase == "Failed" and bool(taken),
    )


def _of_application(native_id: str, name: str, state: str, final: str, diagnostics: str = "") -> Attempt:
    finals: dict[str, State] = {"SUCCEEDED": "succeeded", "KILLED": "stopped"}
    told: State = finals.get(final, "failed") if state == "FINISHED" else _YARN_STATES[state]
    machine_lost = re.search(r"exitCode: -10[02]\b", diagnostics) is not None  # lost with its node, or preempted
    return Attempt(name, native_id, told, message=" ".join(diagnostics.split())[:300], transient=machine_lost)
