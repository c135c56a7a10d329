"""Can the stages that are submitted to Kubernetes be made there? What is known of it before anything starts."""

from collections.abc import Iterable
from pathlib import Path

from gpt_core.errors import SetupError
from gpt_core.recipe import Recipe
from jobs.launch.kubectl import Kubectl, RefusedError
from jobs.launch.manifests import JOB, RAY_JOB, TRAIN_JOB, Kind, claim_mount, submitted_stages
from pipelines.plan import PATHS

INSTALL = {
    RAY_JOB: "install KubeRay 1.5.1 or newer",
    TRAIN_JOB: "install Kubeflow Trainer 2.3 or newer",
    JOB: "the cluster must serve it: Kubernetes 1.26 or newer",
}


def check_kubernetes(recipe: Recipe) -> None:
    """The cluster answers, serves the kinds of objects, lets us make them, and has what the recipe names.

    Every raw file of the resolved recipe lies on the claim. Raises SetupError with the field and the way out.
    """
    _require_files(recipe, claim_mount(recipe.cluster.kubernetes, recipe.workspace))
    kubectl = Kubectl(recipe.cluster.kubernetes)
    try:
        _require_answer(kubectl)
        _require_rights(kubectl, dict.fromkeys(submitted_stages(recipe.cluster).values()))
        _require_named(kubectl)
    except ConnectionError as error:
        raise SetupError(f"cluster.kubernetes: the cluster has stopped answering: {error}; try again") from None


def _require_answer(kubectl: Kubectl) -> None:
    try:
        kubectl.run("get", "--raw=/version")
    except (RefusedError, ConnectionError) as error:
        raise SetupError(
            f"cluster.kubernetes.context={kubectl.settings.context}: the cluster does not answer ({error}); see that "
            "`kubectl version` shows a server, or give a context of `kubectl config get-contexts`"
        ) from None


def _require_rights(kubectl: Kubectl, kinds: Iterable[Kind]) -> None:
    for kind in kinds:
        _require_kind(kubectl, kind)
        for verb in ("create", "patch"):
            _require_right(kubectl, verb, kind.resource)
        if kind is TRAIN_JOB:
            way = "kubectl get clustertrainingruntimes lists what is there"
            resource = "clustertrainingruntimes.trainer.kubeflow.org"
            _require(kubectl, resource, "runtime", kubectl.settings.runtime, way)
    _require_right(kubectl, "list", "pods")
    _require_right(kubectl, "get", "pods", "--subresource=log")


def _require_named(kubectl: Kubectl) -> None:
    settings = kubectl.settings
    secret = f"kubectl create secret generic {settings.secret} --from-env-file=FILE makes it"
    for resource, field, name, way in (
        ("persistentvolumeclaims", "claim", settings.claim, "make it, ReadWriteMany"),
        ("secrets", "secret", settings.secret, secret),
        ("serviceaccounts", "service_account", settings.service_account, "make it, or leave it out"),
    ):
        if name is not None:
            _require(kubectl, resource, field, name, way)


def _require_files(recipe: Recipe, mount: str) -> None:
    tree = recipe.model_dump(mode="json")
    for section, fields in PATHS.items():
        for field in fields if tree.get(section) is not None else ():
            path = tree[section][field]
            if path is not None and not Path(path).is_relative_to(mount):
                raise SetupError(
                    f"{section}.{field}: {path} is not on the claim, which stands at {mount}: no pod can read it; put "
                    "it there, or set cluster.kubernetes.mount"
                )


def _require_kind(kubectl: Kubectl, kind: Kind) -> None:
    try:
        served = kubectl.run("get", f"--raw=/apis/{kind.api}")
    except RefusedError:
        served = ""
    if f'"{kind.resource.partition(".")[0]}"' not in served:
        raise SetupError(f"cluster.kubernetes: the cluster knows no {kind.kind} of {kind.api}; {INSTALL[kind]}")


def _require_right(kubectl: Kubectl, verb: str, resource: str, *options: str) -> None:
    try:
        kubectl.run("auth", "can-i", verb, resource, *options, "--quiet")
    except RefusedError:
        what = " ".join([verb, resource, *options])
        raise SetupError(
            f"cluster.kubernetes.namespace={kubectl.settings.namespace}: you may not {what}; let its administrator "
            "give you a role with create, get, list and patch of the jobs, list of pods and get of pods/log"
        ) from None


def _require(kubectl: Kubectl, resource: str, field: str, name: str, way: str) -> None:
    """The named thing exists; who may not look at it can use it all the same."""
    try:
        kubectl.run("get", f"{resource}/{name}", "--output=name")
    except RefusedError as error:
        if error.reason != "Forbidden":
            raise SetupError(
                f"cluster.kubernetes.{field}={name}: {error} (namespace {kubectl.settings.namespace}); {way}"
            ) from None
