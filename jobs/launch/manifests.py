"""From a stage's command to what Kubernetes is given: a Job, KubeRay's RayJob, Kubeflow's TrainJob.

| stages | kind | what runs the command |
| --- | --- | --- |
| tokenizer, evaluate | batch/v1 Job | one pod |
| shards | ray.io/v1 RayJob (KubeRay 1.5.1 or newer) | the head of a Ray cluster that lives as long as the job |
| pretrain, finetune | trainer.kubeflow.org/v1alpha1 TrainJob (Kubeflow Trainer 2.3 or newer) | a pod a node |

Every pod has the image of the recipe, with gptmill in it, and the claim with the workspace under the path it has here.
No pod is started twice: the runner retries. A secret is named here, and never read.
"""

import importlib.metadata
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gpt_core.errors import SetupError
from gpt_core.fingerprint import Json
from gpt_core.recipe import Cluster, Kubernetes
from jobs.launch.spec import submission_id

INSTANCE = "app.kubernetes.io/instance"  # label: the submission id, the same for all attempts
GRACE_SECONDS = 40  # from SIGTERM to SIGKILL: torchrun's 30 for a checkpoint, and 10
KEPT_SECONDS = 7 * 24 * 3600  # an ended Job, and with it its log
SHARED_MEMORY = "/dev/shm"  # noqa: S108  where torch and Ray share memory; a container has 64 MiB of its own
RAY_USER = "ray-job-submitter"  # container of the pod that submits to Ray, and prints the job's log
SECRET_FOLDER = "/var/run/secrets/gptmill"  # noqa: S105  where a TrainJob's pods find the secret's keys as files
# A TrainJob takes no envFrom. Its files say the same; the command comes as "$@".
READ_SECRET = (
    f'for file in {SECRET_FOLDER}/*; do export "$(basename "$file")=$(cat "$file")" || exit 1; done; exec "$@"'
)


@dataclass(frozen=True)
class Kind:
    """A kind of object: how the API, kubectl and its pods name it."""

    api: str
    kind: str
    resource: str  # for kubectl, with its group
    container: str  # whose log is the job's
    pods: str  # selector of the pods with that container, up to the object's name


JOB = Kind("batch/v1", "Job", "jobs.batch", "gptmill", "batch.kubernetes.io/job-name")
RAY_JOB = Kind("ray.io/v1", "RayJob", "rayjobs.ray.io", RAY_USER, "batch.kubernetes.io/job-name")
TRAIN_JOB = Kind(
    "trainer.kubeflow.org/v1alpha1",
    "TrainJob",
    "trainjobs.trainer.kubeflow.org",
    "node",
    "jobset.sigs.k8s.io/jobset-name",
)
KINDS: dict[str, Kind] = {
    "tokenizer": JOB,
    "evaluate": JOB,
    "shards": RAY_JOB,
    "pretrain": TRAIN_JOB,
    "finetune": TRAIN_JOB,
}


def manifest(attempt: str, command: Sequence[str], output: Path, cluster: Cluster) -> dict[str, Json]:
    """The object named `attempt` that runs `command`, which makes `output`. Raises SetupError for a wrong mount."""
    stage = output.parent.name
    kind = KINDS[stage]
    pods = _Pods(cluster.kubernetes, claim_mount(cluster.kubernetes, str(output.parents[1])))
    labels: dict[str, Json] = {
        "app.kubernetes.io/name": "gptmill",
        "app.kubernetes.io/component": stage,
        INSTANCE: submission_id(output),
    }
    if kind is JOB:
        spec = _job(command, labels, pods)
    elif kind is RAY_JOB:
        spec = _ray_job(attempt, command, cluster, pods)
    else:
        spec = _train_job(command, cluster, pods)
    minutes = cluster.limits.minutes_of(stage)
    deadline: dict[str, Json] = {} if minutes is None else {"activeDeadlineSeconds": math.ceil(60 * minutes)}
    return {
        "apiVersion": kind.api,
        "kind": kind.kind,
        "metadata": {"name": attempt, "labels": labels},
        "spec": {**deadline, **spec},
    }


def submitted_stages(cluster: Cluster) -> dict[str, Kind]:
    """The stages whose launcher is `kubernetes`, each with what it is submitted as."""
    launchers = {JOB: cluster.process.launcher, RAY_JOB: cluster.ray.launcher, TRAIN_JOB: cluster.train.launcher}
    return {stage: kind for stage, kind in KINDS.items() if launchers[kind] == "kubernetes"}


def claim_mount(settings: Kubernetes, workspace: str) -> str:
    """The folder that the claim is mounted at, and below which the absolute `workspace` lies.

    Raises SetupError where no such folder can be: the claim would hide the image's own files, or the workspace lies
    elsewhere.
    """
    mount = settings.mount or str(PurePosixPath(workspace).parent)
    if mount == "/":
        raise SetupError(
            f"cluster.kubernetes.mount: the claim cannot stand at / (workspace: {workspace}); put the workspace into a "
            "folder of the claim, /data/workspace, and give its mount, /data"
        )
    if not PurePosixPath(workspace).is_relative_to(mount):
        raise SetupError(
            f"cluster.kubernetes.mount={mount}: the workspace {workspace} lies elsewhere; set `workspace:` to a folder "
            "below the mount"
        )
    return mount


@dataclass(frozen=True)
class _Pods:
    """What all pods have in common."""

    settings: Kubernetes
    mount: str

    def template(self, container: dict[str, Json], labels: dict[str, Json] | None = None) -> dict[str, Json]:
        """A pod of one container, which is started once."""
        spec: dict[str, Json] = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            **self.patch(),
            "containers": [container],
        }
        return {**({"metadata": {"labels": labels}} if labels else {}), "spec": spec}

    def bare_template(self, name: str) -> dict[str, Json]:
        """A pod that only talks to others: it sees neither the claim nor the secret, and takes next to nothing."""
        small: dict[str, Json] = {"cpu": "500m", "memory": "1Gi"}
        container: dict[str, Json] = {
            "name": name,
            "image": self.settings.image,
            "env": _variables(),
            "resources": {"requests": small, "limits": dict(small)},
            "securityContext": self.container_patch()["securityContext"],
        }
        pod = {name: value for name, value in self.patch().items() if name != "volumes"}
        return {
            "spec": {"restartPolicy": "Never", "automountServiceAccountToken": False, **pod, "containers": [container]}
        }

    def patch(self) -> dict[str, Json]:
        """What a pod has beside its containers."""
        account = self.settings.service_account
        return {
            **({"serviceAccountName": account} if account else {}),
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": self.settings.claim}},
                {"name": "shm", "emptyDir": {"medium": "Memory"}},
            ],
        }

    def container(self, name: str, command: Sequence[str] | None = None) -> dict[str, Json]:
        """A container of the recipe's image, with the secret in its environment."""
        secret = self.settings.secret
        return {
            "name": name,
            "image": self.settings.image,
            **({"command": list(command)} if command is not None else {}),
            "env": _variables(),
            **({"envFrom": [{"secretRef": {"name": secret}}]} if secret else {}),
            "resources": self.resources(),
            **self.container_patch(),
        }

    def container_patch(self) -> dict[str, Json]:
        """What a container sees and may do."""
        return {
            "volumeMounts": [{"name": "data", "mountPath": self.mount}, {"name": "shm", "mountPath": SHARED_MEMORY}],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }

    def resources(self, *, gpus: int = 0) -> dict[str, Json]:
        """Requests that are limits too, so that no neighbour takes what the job counts on."""
        amount, unit = self.settings.memory[:-1], self.settings.memory[-1]
        each: dict[str, Json] = {
            "cpu": str(self.settings.cpus),
            "memory": f"{amount}{unit.upper()}i",
            **({"nvidia.com/gpu": str(gpus)} if gpus else {}),
        }
        return {"requests": each, "limits": dict(each)}


def _variables() -> list[Json]:
    """The log comes at once, and nothing is imported from the image's working folder."""
    return [{"name": name, "value": "1"} for name in ("PYTHONUNBUFFERED", "PYTHONSAFEPATH")]


def _job(command: Sequence[str], labels: dict[str, Json], pods: _Pods) -> dict[str, Json]:
    """A lost machine is told from a failed job by the object itself, for the pod may be gone by then."""
    return {
        "backoffLimit": 0,
        "ttlSecondsAfterFinished": KEPT_SECONDS,
        "podFailurePolicy": {
            "rules": [{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
        },
        "template": pods.template(pods.container(JOB.container, command), labels),
    }


def _ray_job(attempt: str, command: Sequence[str], cluster: Cluster, pods: _Pods) -> dict[str, Json]:
    """Ray's nodes ask for a token, which KubeRay makes anew for every job and keeps in a secret."""
    workers = cluster.ray.workers
    return {
        "entrypoint": shlex.join(command),
        "jobId": attempt,
        "submissionMode": "K8sJobMode",
        "backoffLimit": 0,
        "shutdownAfterJobFinishes": True,
        "submitterPodTemplate": pods.bare_template(RAY_USER),
        "rayClusterSpec": {
            "rayVersion": importlib.metadata.version("ray"),  # gptmill pins it, here and in the image
            "authOptions": {"mode": "token"},
            "headGroupSpec": {"rayStartParams": {}, "template": pods.template(pods.container("ray-head"))},
            "workerGroupSpecs": [
                {
                    "groupName": "workers",
                    "replicas": workers,
                    "minReplicas": workers,
                    "maxReplicas": workers,
                    "rayStartParams": {},
                    "template": pods.template(pods.container("ray-worker")),
                }
            ],
        },
    }


def _train_job(command: Sequence[str], cluster: Cluster, pods: _Pods) -> dict[str, Json]:
    """The runtime says how a node's pod is built up and how the ranks meet; this adds the claim and the rights."""
    settings = cluster.kubernetes
    pod, container = pods.patch(), pods.container_patch()
    if settings.secret is not None:
        command = ["sh", "-c", READ_SECRET, "sh", *command]
        volumes, mounts = pod["volumes"], container["volumeMounts"]
        assert isinstance(volumes, list)
        assert isinstance(mounts, list)
        volumes.append({"name": "secret", "secret": {"secretName": settings.secret}})
        mounts.append({"name": "secret", "mountPath": SECRET_FOLDER, "readOnly": True})
    node: dict[str, Json] = {**pod, "containers": [{"name": TRAIN_JOB.container, **container}]}
    patch: dict[str, Json] = {"name": "node", "template": {"spec": {"template": {"spec": node}}}}
    return {
        "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "ClusterTrainingRuntime", "name": settings.runtime},
        "trainer": {
            "image": settings.image,
            "command": list(command),
            "env": _variables(),
            "numNodes": cluster.train.nodes,
            "numProcPerNode": cluster.train.processes,
            "resourcesPerNode": pods.resources(gpus=settings.gpus),
        },
        "runtimePatches": [
            {
                "manager": "gptmill",
                "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [patch]}}},
            }
        ],
    }
