"""A Kubernetes cluster of one node, which runs processes here: objects, their controllers, pods and their logs.

The controllers do, as far as gptmill looks at it, what those of Jobs, KubeRay (a RayJob's entrypoint is given to a
shell, as Ray does it) and Kubeflow Trainer (one node, with torchrun's variables) do.
"""

import datetime
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GROUPS = {
    "v1": {
        "pods": "Pod",
        "persistentvolumeclaims": "PersistentVolumeClaim",
        "secrets": "Secret",
        "serviceaccounts": "ServiceAccount",
        "services": "Service",
        "configmaps": "ConfigMap",
    },
    "batch/v1": {"jobs": "Job"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
    "ray.io/v1": {"rayjobs": "RayJob"},
    "trainer.kubeflow.org/v1alpha1": {"trainjobs": "TrainJob", "clustertrainingruntimes": "ClusterTrainingRuntime"},
}
Content = dict[str, Any]
Groups = dict[str, dict[str, str]]


class KubernetesCluster:
    """Whatever is created runs, until `close`. Tests may change `objects` and `outage`."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Content] = {}
        self.lines: dict[str, list[tuple[str, str]]] = {}  # of a pod: time and text
        self.running: dict[tuple[str, str], subprocess.Popen[str]] = {}
        self.taken: dict[tuple[str, str], str] = {}  # why the pod of an object is being stopped
        self.outage = 0  # requests that are still answered with 503
        self.changed = threading.Condition()

    def close(self) -> None:
        """Nothing that was started runs any more."""
        for process in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def named(self, resource: str) -> list[str]:
        """Names of the objects."""
        return sorted(name for kind, name in self.objects if kind == resource)

    def evict(self, resource: str, name: str) -> None:
        """The node needs the place of the object's pod."""
        self._stop(resource, name, "evicted")

    def create(self, resource: str, content: Content) -> Content:
        """The object is stored, and its controller starts what it asks for."""
        name = content["metadata"]["name"]
        version = next(version for version, served in GROUPS.items() if resource in served)
        content |= {"apiVersion": version, "kind": GROUPS[version][resource]}
        content["metadata"] |= {"creationTimestamp": _now(), "uid": secrets.token_hex(8), "namespace": "default"}
        self.objects[resource, name] = content
        if resource in ("jobs", "rayjobs", "trainjobs"):
            content["status"] = {}
            threading.Thread(target=self._control, args=(resource, name), daemon=True).start()
        return content

    def patch(self, resource: str, name: str, change: Content) -> Content:
        """The change is merged in; a job that is suspended is stopped."""
        content = self.objects[resource, name]
        _merge(content, change)
        if content.get("spec", {}).get("suspend"):
            self._stop(resource, name, "suspended")
        return content

    def _stop(self, resource: str, name: str, why: str) -> None:
        self.taken.setdefault((resource, name), why)
        process = self.running.get((resource, name))
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)

    def _control(self, resource: str, name: str) -> None:
        """One pod, from its beginning to what the controller makes of its end."""
        content = self.objects[resource, name]
        command, pod = _pod(resource, content)
        pod_name = pod["metadata"]["name"]
        self.lines[pod_name] = []
        self.create("pods", pod)
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env={
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                **_env(content),
            },
        )
        self.running[resource, name] = process
        pod["status"] = {"phase": "Running"}
        content["status"] = RUNNING[resource]
        limit = content["spec"].get("activeDeadlineSeconds")
        timer = threading.Timer(limit or 3600, self._stop, (resource, name, "late"))
        timer.daemon = True
        timer.start()
        if (resource, name) in self.taken:  # it was stopped before it began
            self._stop(resource, name, "suspended")
        assert process.stdout is not None
        for line in process.stdout:
            with self.changed:
                self.lines[pod_name].append((_now(nanoseconds=True), line))
                self.changed.notify_all()
        code = process.wait()
        timer.cancel()
        self._finish(resource, name, pod, code)

    def _finish(self, resource: str, name: str, pod: Content, code: int) -> None:
        why = self.taken.get((resource, name), "")
        container = pod["spec"]["containers"][0]["name"]
        ended = {"exitCode": 128 - code if code < 0 else code, "reason": "Completed" if code == 0 else "Error"}
        status: Content = {"phase": "Failed" if code else "Succeeded"}
        status["containerStatuses"] = [{"name": container, "state": {"terminated": ended}}]
        if why == "evicted":
            reason = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
            status["conditions"] = [{**reason, "message": "the node needs the place"}]
        with self.changed:
            pod["status"] = status
            if why in ("suspended", "late"):
                del self.objects["pods", pod["metadata"]["name"]]
            self.objects[resource, name]["status"] = _ended(resource, code, why)
            self.changed.notify_all()

    def follow(self, pod: str, *, since: str, follow: bool) -> Iterator[str]:
        """The lines of the pod's log from the second `since` on, until it ends or, without `follow`, until now."""
        position = 0
        while not self.outage:
            with self.changed:
                new = self.lines[pod][position:]
                alive = self.objects.get(("pods", pod), {}).get("status", {}).get("phase") == "Running"
                if not new and follow and alive:
                    self.changed.wait(0.2)
                    continue
            position += len(new)
            yield from (f"{when} {text}" for when, text in new if when[:19] >= since[:19])
            if not new:
                return


RUNNING: dict[str, Content] = {
    "jobs": {"active": 1, "ready": 1},
    "rayjobs": {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"},
    "trainjobs": {"jobsStatus": [{"name": "node", "ready": 1, "active": 1, "succeeded": 0, "failed": 0}]},
}


def _pod(resource: str, content: Content) -> tuple[list[str], Content]:
    """The pod's command, and the pod."""
    spec, name = content["spec"], content["metadata"]["name"]
    if resource == "jobs":
        command, container = spec["template"]["spec"]["containers"][0]["command"], "gptmill"
        labels, pod = {"batch.kubernetes.io/job-name": name}, f"{name}-abcde"
    elif resource == "rayjobs":
        command, container = ["sh", "-c", spec["entrypoint"]], "ray-job-submitter"
        labels, pod = {"batch.kubernetes.io/job-name": name}, f"{name}-abcde"
    else:
        command, container, pod = spec["trainer"]["command"], "node", f"{name}-node-0-0-abcde"
        labels = {"jobset.sigs.k8s.io/jobset-name": name, "batch.kubernetes.io/job-completion-index": "0"}
        labels["jobset.sigs.k8s.io/replicatedjob-name"] = "node"
    made = {"metadata": {"name": pod, "labels": labels}, "spec": {"containers": [{"name": container}]}}
    return command, {**made, "status": {"phase": "Pending"}}


def _env(content: Content) -> dict[str, str]:
    if content["kind"] != "TrainJob":
        return {}
    ranks = str(content["spec"]["trainer"]["numProcPerNode"])
    meeting = {"PET_NODE_RANK": "0", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": "0"}
    return {"PET_NNODES": "1", "PET_NPROC_PER_NODE": ranks, **meeting}


def _ended(resource: str, code: int, why: str) -> Content:
    """The status that the controller gives an object whose pod has ended."""
    if resource == "rayjobs":
        if why == "suspended":
            return {"jobDeploymentStatus": "Suspended"}
        if code == 0:
            return {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
        reason = {"late": "DeadlineExceeded"}.get(why, "AppFailed")
        return {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": reason, "message": "it failed"}
    reasons = {"late": "DeadlineExceeded", "evicted": "PodFailurePolicy"}
    name = "Suspended" if why == "suspended" else "Failed" if code else "Complete"
    condition = {"type": name, "status": "True", "reason": reasons.get(why, "BackoffLimitExceeded"), "message": "so"}
    return {"conditions": [condition]}


def _merge(content: Content, change: Content) -> None:
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(content.get(key), dict):
            _merge(content[key], value)
        else:
            content[key] = value


def _now(*, nanoseconds: bool = False) -> str:
    at = time.time_ns()
    whole = datetime.datetime.fromtimestamp(at // 10**9, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{at % 10**9:09d}Z" if nanoseconds else f"{whole}Z"
