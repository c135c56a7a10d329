"""What objects and pods say, in the words of their controllers: whether a job ended, how, and whose fault it was."""

from typing import Any

import pytest

from jobs.launch.kubectl import RefusedError, failure
from jobs.launch.kubernetes_state import attempt_of, is_driver, waiting
from jobs.launch.manifests import JOB, RAY_JOB, TRAIN_JOB, Kind
from jobs.launch.target import Attempt


def look(
    kind: Kind, status: dict[str, Any], *pods: dict[str, Any], cancelled: bool = False, suspend: bool = False
) -> Attempt:
    metadata: dict[str, Any] = {"name": "it"}
    if cancelled:
        metadata["annotations"] = {"gptmill/cancelled": "true"}
    return attempt_of(kind, {"metadata": metadata, "spec": {"suspend": suspend}, "status": status}, lambda: list(pods))


def condition(name: str, reason: str = "It", message: str = "so", status: str = "True") -> dict[str, Any]:
    return {"conditions": [{"type": name, "status": status, "reason": reason, "message": message}]}


def pod(
    phase: str, *, code: int | None = None, reason: str = "Error", index: str = "0", **status: Any
) -> dict[str, Any]:
    ended = {"terminated": {"exitCode": code, "reason": reason}} if code is not None else {"running": {}}
    labels = {"batch.kubernetes.io/job-completion-index": index, "jobset.sigs.k8s.io/replicatedjob-name": "node"}
    state = [
        {"name": "istio-proxy", "state": {}},
        {"name": "node", "state": ended},
        {"name": "gptmill", "state": ended},
    ]
    return {"metadata": {"labels": labels}, "status": {"phase": phase, "containerStatuses": state, **status}}


@pytest.mark.parametrize(
    ("kind", "status", "state"),
    [
        (JOB, {}, "pending"),
        (JOB, {"active": 1, "ready": 0}, "pending"),
        (JOB, {"active": 1, "ready": 1}, "running"),
        (JOB, condition("Suspended"), "pending"),  # Kueue has not let it in
        (JOB, condition("Failed", status="False"), "pending"),
        (JOB, condition("FailureTarget"), "pending"),  # its pods still run
        (JOB, condition("Complete"), "succeeded"),
        (TRAIN_JOB, {"jobsStatus": [{"name": "node", "ready": 1}]}, "running"),
        (TRAIN_JOB, {"jobsStatus": [{"name": "node", "ready": 0}]}, "pending"),
        (TRAIN_JOB, condition("Complete"), "succeeded"),
        (RAY_JOB, {"jobDeploymentStatus": "Initializing"}, "pending"),
        (RAY_JOB, {"jobDeploymentStatus": "Suspended"}, "pending"),
        (RAY_JOB, {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, "running"),
        (RAY_JOB, {"jobDeploymentStatus": "Running", "jobStatus": "PENDING"}, "pending"),
        (RAY_JOB, {"jobDeploymentStatus": "Running", "jobStatus": "SUCCEEDED"}, "running"),  # KubeRay is not done
        (RAY_JOB, {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, "succeeded"),
        (RAY_JOB, {"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, "stopped"),
        (RAY_JOB, {"jobDeploymentStatus": "Complete", "jobStatus": "FAILED"}, "failed"),
        (RAY_JOB, {"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed"}, "failed"),
    ],
)
def test_the_state_is_the_controllers(kind: Kind, status: dict[str, Any], state: str) -> None:
    assert look(kind, status) == Attempt("it", f"{kind.resource}/it", state, look(kind, status).message)  # type: ignore[arg-type]


def test_a_failure_tells_the_exit_code_of_rank_0_and_says_what_killed_it() -> None:
    failed = condition("Failed", "BackoffLimitExceeded", "Job has reached the specified\nbackoff limit")
    other = pod("Failed", code=1, index="1")
    attempt = look(TRAIN_JOB, failed, other, pod("Failed", code=137, reason="OOMKilled"))
    assert (attempt.state, attempt.transient) == ("failed", False)
    words = "BackoffLimitExceeded: Job has reached the specified backoff limit; exit code 137, OOMKilled"
    assert attempt.message == words
    assert [is_driver(one) for one in (other, pod("Running"))] == [False, True]
    assert look(JOB, failed).message == "BackoffLimitExceeded: Job has reached the specified backoff limit"


def test_what_the_cluster_took_away_is_transient_and_what_failed_by_itself_is_not() -> None:
    failed, target = condition("Failed"), condition("DisruptionTarget", "PreemptionByScheduler", "make room")
    preempted = look(TRAIN_JOB, failed, pod("Failed", index="1", **target))
    assert (preempted.transient, preempted.message) == (True, "PreemptionByScheduler: make room; It: so")
    evicted = {"status": {"phase": "Failed", "reason": "Evicted", "message": "low on memory"}}
    assert look(JOB, failed, evicted).transient
    assert look(JOB, condition("Failed", "PodFailurePolicy", "a pod has DisruptionTarget")).transient  # the pod is gone
    assert not look(JOB, condition("Failed", "DeadlineExceeded")).transient
    ray = {"jobDeploymentStatus": "Failed", "message": "no"}
    assert look(RAY_JOB, {**ray, "reason": "SubmissionFailed"}).transient
    assert not look(RAY_JOB, {**ray, "reason": "AppFailed"}).transient
    assert look(RAY_JOB, {**ray, "reason": "AppFailed"}).message == "AppFailed: no"


def test_a_cancelled_job_is_stopped_once_nothing_of_it_runs() -> None:
    suspended = condition("Suspended")
    for kind, status in ((JOB, suspended), (TRAIN_JOB, suspended), (RAY_JOB, {"jobDeploymentStatus": "Suspended"})):
        assert look(kind, status, pod("Running"), cancelled=True).state == "running"
        assert look(kind, status, pod("Succeeded", code=0), cancelled=True).state == "stopped"
        assert look(kind, status, cancelled=True).state == "stopped"
        assert look(kind, {}, cancelled=True).state == "running"  # the controller has not seen it yet
    assert look(JOB, condition("Failed"), cancelled=True).state == "stopped"
    assert look(JOB, condition("Complete"), cancelled=True).state == "succeeded"  # it was faster


def test_a_pod_says_what_it_waits_for() -> None:
    waits = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    assert waiting({"status": {"containerStatuses": [waits]}}) == "ImagePullBackOff: no such image"
    begins = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    assert waiting({"status": {"containerStatuses": [begins]}}) == ""
    unscheduled = condition("PodScheduled", "Unschedulable", "0/3 nodes: 3 Insufficient nvidia.com/gpu", "False")
    assert waiting({"status": unscheduled}) == "Unschedulable: 0/3 nodes: 3 Insufficient nvidia.com/gpu"


def test_what_kubectl_says_is_a_refusal_or_a_broken_connection() -> None:
    refusals = {
        'Error from server (AlreadyExists): error when creating "STDIN": "it" already exists': "AlreadyExists",
        'E1125 memcache.go:265] "Unhandled Error"\nError from server (Forbidden): pods is forbidden': "Forbidden",
        'error: error from server (NotFound): pods "it" not found in namespace "default"': "NotFound",
        "error: You must be logged in to the server (Unauthorized)": "Unauthorized",
        'error: context "x" does not exist': "",
    }
    for words, reason in refusals.items():
        error = failure(words)
        assert isinstance(error, RefusedError)
        assert error.reason == reason
    for words in (
        "Error from server (ServiceUnavailable): the server is currently unable to handle the request",
        "Unable to connect to the server: dial tcp: lookup cluster on 127.0.0.1:53: no such host",
        "The connection to the server localhost:8080 was refused - did you specify the right host or port?",
        'Error from server: Get "https://10.0.0.7:10250/containerLogs": dial tcp 10.0.0.7:10250: no route to host',
        "Unable to connect to the server: net/http: TLS handshake timeout",
    ):
        assert isinstance(failure(words), ConnectionError)
