"""Stages submitted through the real kubectl to an API that runs them here: once, followed, and told as they ended."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes_api import KubernetesApi
from shards_job import DOCUMENTS, ROOT, write_dedup

from gpt_core.artifact import open_artifact
from gpt_core.errors import SetupError, StageError
from gpt_core.recipe import Cluster
from jobs.launch.kubernetes import KubernetesTarget
from jobs.launch.spec import read_handle, submission_id
from jobs.launch.target import AlreadySubmittedError

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
KUBERNETES = {"image": "registry.example/gptmill:1", "claim": "data"}
LAUNCHERS = {name: {"launcher": "kubernetes"} for name in ("process", "ray", "train")}
JOB = """
import os, pathlib, signal, sys, time
how, output = sys.argv[1], pathlib.Path(sys.argv[2])
def stop(*_):
    print("stops", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("begins", flush=True)
if how == "waits":
    while not (output / "go").exists():
        time.sleep(0.05)
print("ranks", os.environ.get("PET_NPROC_PER_NODE"), flush=True)
if how in ("well", "waits"):
    (output / "manifest.json").write_text("{}")
if how == "tells":
    (output / "error.json").write_text('{"kind": "user", "message": "no such file"}')
    sys.exit(2)
sys.exit(how == "fails")
"""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesApi]:
    served = KubernetesApi(tmp_path_factory.mktemp("kubernetes"))
    yield served
    served.close()


@pytest.fixture
def prepared(tmp_path: Path, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes the output folder of a stage, with its recipe."""
    for name, value in api.environment.items():
        monkeypatch.setenv(name, value)

    def prepare(stage: str = "tokenizer", **limits: object) -> Path:
        output = tmp_path / "workspace" / stage / "0123456789ab"
        output.mkdir(parents=True)
        cluster = {**LAUNCHERS, "kubernetes": KUBERNETES, "limits": limits}
        (output / "recipe.json").write_text(
            json.dumps({"name": "test", "corpus": {"inputs": [{"path": "corpus.jsonl"}]}, "cluster": cluster})
        )
        (output / "identity.json").write_text("{}")
        return output

    return prepare


def follower(output: Path, *command: str) -> "subprocess.Popen[str]":
    follow = [sys.executable, "-m", "jobs.launch.follow", "--target", "kubernetes", "--output", str(output)]
    return subprocess.Popen(
        [*follow, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=dict(os.environ)
    )


def job(how: str, output: Path) -> list[str]:
    return ["--", "python", "-c", JOB, how, str(output)]


def told(process: "subprocess.Popen[str]") -> tuple[int, str]:
    assert process.stdout is not None
    text = process.stdout.read()
    return process.wait(60), text


def wait_for(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def begun(api: KubernetesApi, output: Path) -> None:
    """The job's first line stands in its log."""
    name = submission_id(output)
    wait_for(lambda: any(lines for pod, lines in api.lines.items() if pod.startswith(name)))


@pytest.mark.parametrize(
    ("stage", "resource"),
    [("tokenizer", "jobs.batch"), ("shards", "rayjobs.ray.io"), ("pretrain", "trainjobs.trainer.kubeflow.org")],
)
def test_a_stage_is_submitted_as_its_kind_and_its_log_passed_on(
    prepared: Callable[..., Path], stage: str, resource: str
) -> None:
    output = prepared(stage)
    code, text = told(follower(output, *job("well", output)))
    assert (code, (output / "manifest.json").exists()) == (0, True), text
    name = submission_id(output)
    ranks = "1" if stage == "pretrain" else "None"
    assert text == f"submitted the kubernetes job {name} ({resource}/{name})\nbegins\nranks {ranks}\n"
    handle = read_handle(output)
    assert handle is not None
    assert (handle.target, handle.name, handle.native_id) == ("kubernetes", name, f"{resource}/{name}")


def test_a_second_runner_attaches_and_a_killed_one_comes_back_to_the_same_job(
    prepared: Callable[..., Path], api: KubernetesApi
) -> None:
    output = prepared()
    name = submission_id(output)
    killed = follower(output, *job("waits", output))
    begun(api, output)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    both = [follower(output, *job("waits", output)) for _ in range(2)]
    attached = f"attached to the kubernetes job {name} (jobs.batch/{name}), running\n"
    assert [process.stdout.readline() for process in both if process.stdout is not None] == [attached] * 2
    target = KubernetesTarget(Cluster.model_validate({**LAUNCHERS, "kubernetes": KUBERNETES}))
    with pytest.raises(AlreadySubmittedError):
        target.submit(name, ["python"], output)
    api.outage = 3  # a connection that breaks is taken up again
    wait_for(lambda: api.outage == 0)
    (output / "go").touch()
    for process in both:
        assert told(process) == (0, "begins\nranks None\n")
    assert [one for one in api.named("jobs") if one.startswith(name)] == [name]
    assert target.latest("gptmill-evaluate-000000000000-000000") is None


def test_exit_0_without_a_manifest_is_a_failure_and_the_next_attempt_has_a_name_of_its_own(
    prepared: Callable[..., Path], api: KubernetesApi
) -> None:
    output = prepared()
    name = submission_id(output)
    code, text = told(follower(output, *job("lies", output)))
    assert code == 3
    assert f"the job {name} (jobs.batch/{name}) ended well, but without a manifest" in text
    code, text = told(follower(output, *job("fails", output)))
    assert code == 3
    assert f"the job {name}-2 (jobs.batch/{name}-2) failed: BackoffLimitExceeded: so; exit code 1, Error" in text
    code, text = told(follower(output, *job("tells", output)))  # its own error, and its own exit code
    assert (code, "failed" in text) == (2, False)
    labels = api.objects["jobs", f"{name}-3"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/instance"] == name


@pytest.mark.parametrize("stage", ["tokenizer", "shards", "pretrain"])
def test_a_cancelled_job_hears_sigterm_and_says_that_it_was_stopped(
    prepared: Callable[..., Path], api: KubernetesApi, stage: str
) -> None:
    output = prepared(stage)
    following = follower(output, *job("waits", output))
    begun(api, output)
    code, text = told(follower(output, "--cancel"))
    assert (code, text.startswith(f"cancelled the job {submission_id(output)} (")) == (0, True)
    code, text = told(following)
    assert code == 3
    assert "\nstops\n" in text
    assert "was stopped; run again to start it anew" in text
    assert told(follower(output, "--cancel")) == (0, f"no job {submission_id(output)} runs\n")


def test_a_time_limit_is_the_clusters_and_a_pod_that_was_taken_away_may_come_again(
    prepared: Callable[..., Path], api: KubernetesApi
) -> None:
    output = prepared(minutes={"tokenizer": 1 / 60})
    name = submission_id(output)
    code, text = told(follower(output, *job("waits", output)))
    assert (code, f"{name} (jobs.batch/{name}) failed: DeadlineExceeded" in text) == (3, True)
    output = prepared("evaluate")
    following = follower(output, *job("waits", output))
    begun(api, output)
    api.evict("jobs", submission_id(output))
    code, text = told(following)
    assert code == 3
    assert "was lost: EvictionByEvictionAPI: the node needs the place" in text


def test_a_real_stage_runs_in_a_pod(prepared: Callable[..., Path], tmp_path: Path) -> None:
    output = prepared()
    dedup = write_dedup(tmp_path / "workspace" / "dedup" / "aa", DOCUMENTS, files=1)
    recipe = json.loads((output / "recipe.json").read_text())
    (output / "recipe.json").write_text(json.dumps({**recipe, "tokenizer": {"vocab_size": 300}}))
    command = ["python", "-m", "jobs.train_tokenizer", "--recipe", str(output / "recipe.json"), "--output", str(output)]
    code, text = told(follower(output, "--", *command, "--inputs", f"dedup={dedup}"))
    assert code == 0, text
    assert open_artifact(output) is not None


def test_a_cluster_that_is_silent_is_a_broken_connection_and_one_that_says_no_is_named(
    prepared: Callable[..., Path], api: KubernetesApi
) -> None:
    output = prepared()
    target = KubernetesTarget(Cluster.model_validate({**LAUNCHERS, "kubernetes": KUBERNETES}))
    api.outage = 10**6
    with pytest.raises(ConnectionError, match=r"unable to handle the request|no leader"):
        target.latest(submission_id(output))
    with pytest.raises(ConnectionError, match="unable to handle the request"):
        target.submit("it", ["python"], output)
    api.outage = 0
    api.forbidden.add("jobs")
    with pytest.raises(SetupError, match=r"Jobs cannot be seen .*jobs is forbidden"):
        target.latest(submission_id(output))
    with pytest.raises(StageError, match="Kubernetes took no Job it: jobs is forbidden"):
        target.submit("it", ["python"], output)
    api.forbidden.clear()
    assert target.look("jobs.batch/it").state == "lost"
