"""A Kubernetes API on the loopback interface, with a token: what kubectl asks, and a node that runs processes here.

Objects are created, read, listed by label and patched; pods have logs that can be followed. Behind it stand, as far as
gptmill looks at what they do, the controllers of Jobs, of KubeRay (a RayJob's entrypoint is given to a shell, as Ray
does it) and of Kubeflow Trainer (one node, with torchrun's variables).
"""

import datetime
import http.server
import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GROUPS = {
    "v1": {"pods": "Pod", "persistentvolumeclaims": "PersistentVolumeClaim", "secrets": "Secret"},
    "batch/v1": {"jobs": "Job"},
    "ray.io/v1": {"rayjobs": "RayJob"},
    "trainer.kubeflow.org/v1alpha1": {"trainjobs": "TrainJob", "clustertrainingruntimes": "ClusterTrainingRuntime"},
}
Content = dict[str, Any]


class KubernetesApi:
    """Serves until `close`, whoever has `kubeconfig`. Tests may change `objects`, `forbidden` and `outage`."""

    def __init__(self, folder: Path) -> None:
        self.objects: dict[tuple[str, str], Content] = {}
        self.lines: dict[str, list[tuple[str, str]]] = {}  # of a pod: time and text
        self.running: dict[tuple[str, str], subprocess.Popen[str]] = {}
        self.taken: dict[tuple[str, str], str] = {}  # why the pod of an object is being stopped
        self.forbidden: set[str] = set()  # resources that nobody may touch
        self.outage = 0  # requests that are still answered with 503
        self.token = secrets.token_hex(16)
        self.changed = threading.Condition()
        api = self

        class Handler(_Handler):
            cluster = api

        certificate = _certificate(folder)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        guard = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        guard.load_cert_chain(certificate, folder / "key.pem")
        self.server.socket = guard.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.touch(mode=0o600)
        place = {"server": f"https://127.0.0.1:{self.server.server_port}", "certificate-authority": str(certificate)}
        configuration = {
            "clusters": [{"name": "here", "cluster": place}],
            "users": [{"name": "me", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "here", "user": "me"}}],
            "current-context": "test",
        }
        self.kubeconfig.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **configuration}))
        self.environment = {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(folder / "cache")}

    def close(self) -> None:
        """Nothing that was started runs any more."""
        for process in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self.server.shutdown()
        self.server.server_close()

    def named(self, resource: str) -> list[str]:
        """Names of the objects."""
        return sorted(name for kind, name in self.objects if kind == resource)

    def evict(self, resource: str, name: str) -> None:
        """The node needs the place of the object's pod."""
        self._stop(resource, name, "evicted")

    def create(self, resource: str, content: Content) -> Content:
        """The object is stored, and its controller starts what it asks for."""
        name = content["metadata"]["name"]
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
        if content["spec"].get("suspend"):
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


def _certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself, beside its key: kubectl sends no token without TLS."""
    made, key = folder / "certificate.pem", folder / "key.pem"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = ["openssl", "req", "-x509", *curve, *names, "-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made


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
    return command, {"apiVersion": "v1", "kind": "Pod", **made, "status": {"phase": "Pending"}}


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


class _Handler(http.server.BaseHTTPRequestHandler):
    cluster: KubernetesApi

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = {key: values[0] for key, values in urllib.parse.parse_qs(url.query).items()}
        if not self._lets_in():
            return
        known = _discovery(url.path)
        if known is not None:
            self._answer(200, known)
            return
        version, resource, name, part = _place(url.path)
        if resource in self.cluster.forbidden:
            self._refuse(403, "Forbidden", f"{resource} is forbidden")
        elif part == "log":
            lines = self.cluster.follow(name, since=query.get("sinceTime", ""), follow="follow" in query)
            self.send_response(200)
            self.end_headers()
            for line in lines:
                self.wfile.write(line.encode())
        elif name and (resource, name) in self.cluster.objects:
            self._answer(200, self.cluster.objects[resource, name])
        elif name or resource not in GROUPS.get(version, {}):
            self._refuse(404, "NotFound", f'{resource} "{name}" not found')
        else:
            wanted = dict(pair.split("=") for pair in query.get("labelSelector", "").split(",") if pair)
            found = [one for (kind, _), one in list(self.cluster.objects.items()) if kind == resource]
            items = [one for one in found if wanted.items() <= one["metadata"].get("labels", {}).items()]
            self._answer(200, {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._lets_in():
            return
        _, resource, _, _ = _place(urllib.parse.urlsplit(self.path).path)
        if resource == "selfsubjectaccessreviews":  # in protobuf, where names stand as they are
            allowed = not any(name.encode() in body for name in self.cluster.forbidden)
            review = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
            self._answer(201, {**review, "spec": {}, "status": {"allowed": allowed}})
            return
        content = json.loads(body)
        name = content["metadata"]["name"]
        with self.cluster.changed:
            if (resource, name) in self.cluster.objects:
                self._refuse(409, "AlreadyExists", f'{resource} "{name}" already exists')
            elif resource in self.cluster.forbidden:
                self._refuse(403, "Forbidden", f"{resource} is forbidden")
            else:
                self._answer(201, self.cluster.create(resource, content))

    def do_PATCH(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._lets_in():
            _, resource, name, _ = _place(urllib.parse.urlsplit(self.path).path)
            self._answer(200, self.cluster.patch(resource, name, json.loads(body)))

    def _lets_in(self) -> bool:
        if self.headers.get("Authorization") != f"Bearer {self.cluster.token}":
            self._refuse(401, "Unauthorized", "Unauthorized")
            return False
        if self.cluster.outage > 0:
            self.cluster.outage -= 1
            self._refuse(503, "ServiceUnavailable", "etcd has no leader")
            return False
        return True

    def _answer(self, code: int, content: Content) -> None:
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _refuse(self, code: int, reason: str, message: str) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        self._answer(code, {**status, "code": code, "reason": reason, "message": message})

    def log_message(self, *_: object) -> None:
        """Silent."""


def _discovery(path: str) -> Content | None:
    groups = {
        group: version.partition("/")[2] for version in GROUPS if "/" in version for group in [version.split("/")[0]]
    }
    if path == "/version":
        return {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        versions = {
            group: {"groupVersion": f"{group}/{version}", "version": version} for group, version in groups.items()
        }
        listed = [{"name": name, "versions": [one], "preferredVersion": one} for name, one in versions.items()]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
    if path == "/openapi/v3":  # says that the server checks the fields, so that kubectl does not
        return {"paths": {f"apis/{version}": {"serverRelativeURL": f"/openapi/v3/{version}"} for version in GROUPS}}
    served = GROUPS.get(path.removeprefix("/openapi/v3/").removeprefix("/apis/").removeprefix("/api/"), {})
    if path.startswith("/openapi/v3/"):
        group, _, version = path.removeprefix("/openapi/v3/").rpartition("/")
        known = [{"group": group, "version": version, "kind": kind} for kind in served.values()]
        checks = {"parameters": [{"name": "fieldValidation", "in": "query"}]}
        paths = {f"/{one['kind']}": {"patch": {**checks, "x-kubernetes-group-version-kind": one}} for one in known}
        return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "1"}, "paths": paths}
    if not served or path.count("/") > 3:
        return None
    verbs = ["create", "get", "list", "patch"]
    resources = [
        {"name": name, "kind": kind, "namespaced": not name.startswith("cluster"), "singularName": "", "verbs": verbs}
        for name, kind in served.items()
    ]
    version = path.removeprefix("/apis/").removeprefix("/api/")
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


def _place(path: str) -> tuple[str, str, str, str]:
    """(API version, resource, name, what of it) of a path; empty where it has none."""
    version, rest = path.removeprefix("/apis/").removeprefix("/api/"), ""
    for known in (*GROUPS, "authorization.k8s.io/v1"):
        if version == known or version.startswith(f"{known}/"):
            version, rest = known, version.removeprefix(known).removeprefix("/")
            break
    parts = rest.split("/")
    if parts[0] == "namespaces":
        parts = parts[2:]
    resource, name, part = (*parts, "", "", "")[:3]
    return version, resource, name, part


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
