"""A Kubernetes API on the loopback interface, with TLS and a token: what kubectl asks of it.

Objects are created, read, listed by label and patched; pods have logs that can be followed. What they do, says
kubernetes_cluster.py.
"""

import http.server
import json
import secrets
import ssl
import subprocess
import threading
import urllib.parse
from pathlib import Path

from kubernetes_cluster import GROUPS, Content, Groups, KubernetesCluster


class KubernetesApi(KubernetesCluster):
    """Serves until `close`, whoever has `kubeconfig`. Tests may change `objects`, `forbidden` and `outage`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.groups = dict(GROUPS)  # what is installed
        self.forbidden: set[str] = set()  # resources that nobody may touch
        self.token = secrets.token_hex(16)
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
        super().close()
        self.server.shutdown()
        self.server.server_close()


def _certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself, beside its key: kubectl sends no token without TLS."""
    made, key = folder / "certificate.pem", folder / "key.pem"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = ["openssl", "req", "-x509", *curve, *names, "-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made


class _Handler(http.server.BaseHTTPRequestHandler):
    cluster: KubernetesApi

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = {key: values[0] for key, values in urllib.parse.parse_qs(url.query).items()}
        if not self._lets_in():
            return
        known = _discovery(url.path, self.cluster.groups)
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
            change = json.loads(body)
            if (resource, name) in self.cluster.objects:
                self._answer(200, self.cluster.patch(resource, name, change))
            else:  # as spark-submit applies what belongs to a driver
                self._answer(201, self.cluster.create(resource, change))

    def do_DELETE(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self._lets_in():
            _, resource, name, _ = _place(urllib.parse.urlsplit(self.path).path)
            self._answer(200, self.cluster.objects.pop((resource, name)))

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


def _discovery(path: str, served_groups: Groups) -> Content | None:
    groups = {
        group: version.partition("/")[2]
        for version in served_groups
        if "/" in version
        for group in [version.split("/")[0]]
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
        return {
            "paths": {f"apis/{version}": {"serverRelativeURL": f"/openapi/v3/{version}"} for version in served_groups}
        }
    served = served_groups.get(path.removeprefix("/openapi/v3/").removeprefix("/apis/").removeprefix("/api/"), {})
    if path.startswith("/openapi/v3/"):
        group, _, version = path.removeprefix("/openapi/v3/").rpartition("/")
        known = [{"group": group, "version": version, "kind": kind} for kind in served.values()]
        checks = {"parameters": [{"name": "fieldValidation", "in": "query"}]}
        paths = {f"/{one['kind']}": {"patch": {**checks, "x-kubernetes-group-version-kind": one}} for one in known}
        return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "1"}, "paths": paths}
    if not served or path.count("/") > 3:
        return None
    verbs = ["create", "delete", "get", "list", "patch"]
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
