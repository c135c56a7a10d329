"""What an object of Kubernetes and its pods say about the job: pure functions of their JSON.

A job that was cancelled is suspended and carries an annotation. Without it a suspended job waits in a queue (Kueue).
"""

from collections.abc import Callable, Sequence
from typing import Literal

from gpt_core.fingerprint import Json
from jobs.launch.kubectl import at
from jobs.launch.manifests import JOB, RAY_JOB, Kind
from jobs.launch.target import Attempt

CANCELLED = "gptmill/cancelled"  # annotation, "true"
GONE_MACHINE = {"Evicted", "NodeLost", "NodeShutdown", "Preempting", "Shutdown", "Terminated"}  # reasons of a pod
RAY_CANNOT = {"SubmissionFailed", "JobDeploymentStatusTransitionGracePeriodExceeded", "JobStatusCheckTimeoutExceeded"}
State = Literal["pending", "running", "succeeded", "failed", "stopped"]


def attempt_of(kind: Kind, content: dict[str, Json], find_pods: Callable[[], Sequence[dict[str, Json]]]) -> Attempt:
    """The attempt that the object is. `find_pods`, asked only where they matter, gives its pods that still exist."""
    state, message = _state(kind, content)
    cancelled = at(content, "metadata", "annotations", CANCELLED) == "true" and state != "succeeded"
    pods = find_pods() if cancelled or state == "failed" else []
    disrupted = next(filter(None, map(disruption, pods)), "")
    ended = next(filter(None, (terminated(pod, kind.container) for pod in pods if is_driver(pod))), None)
    if cancelled:
        halted = state == "failed" or (_is_suspended(kind, content) and not any(map(is_alive, pods)))
        state, message = "stopped" if halted else "running", ""
    elif state == "failed":
        detail = f"exit code {ended['exitCode']}, {ended.get('reason', 'Error')}" if ended else ""
        message = "; ".join(filter(None, [disrupted, message, detail]))
    return Attempt(
        name=str(at(content, "metadata", "name")),
        native_id=f"{kind.resource}/{at(content, 'metadata', 'name')}",
        state=state,
        message=" ".join(message.split()),
        transient=state == "failed" and (bool(disrupted) or _is_passing(kind, content)),
    )


def is_driver(pod: dict[str, Json]) -> bool:
    """Whether the pod is the only one of its Job, or that of rank 0."""
    index = at(pod, "metadata", "labels", "batch.kubernetes.io/job-completion-index")
    return index in (None, "0") and at(pod, "metadata", "labels", "jobset.sigs.k8s.io/replicatedjob-name") in (
        None,
        "node",
    )


def is_alive(pod: dict[str, Json]) -> bool:
    """Whether something of the pod may still run."""
    return at(pod, "status", "phase") not in ("Succeeded", "Failed")


def disruption(pod: dict[str, Json]) -> str:
    """Why the cluster took the pod away; "" where it did not."""
    for condition in _list(at(pod, "status", "conditions")):
        if at(condition, "type") == "DisruptionTarget" and at(condition, "status") == "True":
            return f"{at(condition, 'reason')}: {at(condition, 'message')}"
    reason = at(pod, "status", "reason")
    return f"{reason}: {at(pod, 'status', 'message')}" if reason in GONE_MACHINE else ""


def waiting(pod: dict[str, Json]) -> str:
    """What a pod that does not run yet waits for; "" where the cluster does not say."""
    for status in _list(at(pod, "status", "containerStatuses")):
        reason = at(status, "state", "waiting", "reason")
        if reason not in (None, "ContainerCreating", "PodInitializing"):
            return f"{reason}: {at(status, 'state', 'waiting', 'message')}"
    for condition in _list(at(pod, "status", "conditions")):
        if at(condition, "type") == "PodScheduled" and at(condition, "status") == "False":
            return f"{at(condition, 'reason')}: {at(condition, 'message')}"
    return ""


def _state(kind: Kind, content: dict[str, Json]) -> tuple[State, str]:
    if kind is RAY_JOB:
        return _ray_state(content)
    if _condition(content, "Complete") is not None:
        return "succeeded", ""
    failed = _condition(content, "Failed")
    if failed is not None:
        return "failed", f"{at(failed, 'reason')}: {at(failed, 'message')}"
    ready = at(content, "status", "ready")
    if kind is not JOB:
        ready = sum(_number(at(job, "ready")) for job in _list(at(content, "status", "jobsStatus")))
    return "running" if _number(ready) else "pending", ""


def _ray_state(content: dict[str, Json]) -> tuple[State, str]:
    deployment, job = at(content, "status", "jobDeploymentStatus"), at(content, "status", "jobStatus")
    if deployment in ("Failed", "ValidationFailed") or (deployment == "Complete" and job == "FAILED"):
        told = [at(content, "status", "reason"), at(content, "status", "message")]
        return "failed", ": ".join(str(one) for one in told if one)
    if deployment == "Complete":
        return ("stopped", "") if job == "STOPPED" else ("succeeded", "")
    return "running" if deployment == "Running" and job not in (None, "", "PENDING") else "pending", ""


def _is_suspended(kind: Kind, content: dict[str, Json]) -> bool:
    if kind is RAY_JOB:
        return at(content, "status", "jobDeploymentStatus") == "Suspended"
    return _condition(content, "Suspended") is not None


def _is_passing(kind: Kind, content: dict[str, Json]) -> bool:
    """Whether the object itself says that the cluster, and not the job, has failed."""
    if kind is RAY_JOB:
        return at(content, "status", "reason") in RAY_CANNOT
    return at(_condition(content, "Failed"), "reason") == "PodFailurePolicy"


def _condition(content: dict[str, Json], name: str) -> Json:
    """The condition of that type, if it holds."""
    for condition in _list(at(content, "status", "conditions")):
        if at(condition, "type") == name and at(condition, "status") == "True":
            return condition
    return None


def terminated(pod: dict[str, Json], container: str) -> dict[str, Json] | None:
    """How the pod's container of that name ended; None where it has not."""
    for status in _list(at(pod, "status", "containerStatuses")):
        ended = at(status, "state", "terminated")
        if at(status, "name") == container and isinstance(ended, dict):
            return ended
    return None


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _number(value: Json) -> int:
    return value if isinstance(value, int) else 0
