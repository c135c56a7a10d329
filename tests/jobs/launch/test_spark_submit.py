"""spark-submit in cluster mode: word for word; for real to an API of Kubernetes; and what is made of the answers."""

import sys
from pathlib import Path

import pytest
from kubernetes_api import KubernetesApi

from gpt_core.errors import StageError
from gpt_core.recipe import Cluster
from jobs.launch.command import job_command, native_command, stop_command
from jobs.launch.spark_submit import open_spark, submission
from jobs.launch.spec import LaunchSpec, submission_id
from jobs.launch.target import AlreadySubmittedError, Attempt
from jobs.spark_conf import spark_conf, spark_home

PODS = {"image": "registry/gptmill:1", "claim": "corpus", "memory": "6g", "secret": "store"}


def cluster(master: str) -> Cluster:
    spark = {"master": master, "deploy_mode": "cluster"}
    return Cluster.model_validate({"spark": spark, "kubernetes": PODS if master != "yarn" else {}})


def spec_of(output: Path) -> LaunchSpec:
    return LaunchSpec("jobs.dedup_corpus", "spark", {"clean": output.parents[1] / "clean/aa"}, output)


def test_a_driver_on_the_cluster_is_submitted_and_followed() -> None:
    spec = spec_of(Path("/data/w/dedup/0123456789ab"))
    follower = [sys.executable, "-m", "jobs.launch.follow", "--target", "spark", "--output", str(spec.output)]
    assert stop_command(spec, cluster("yarn")) == [*follower, "--cancel"]
    job = [sys.executable, "-m", "jobs.dedup_corpus", "--recipe", f"{spec.output}/recipe.json", "--output"]
    assert native_command(spec, cluster("yarn")) == [
        *[*follower, "--", *job, str(spec.output), "--inputs", "clean=/data/w/clean/aa"],
    ]
    assert native_command(spec, Cluster.model_validate({"spark": {"master": "yarn"}}))[:3] == job[:3]


@pytest.mark.parametrize("manager", ["yarn", "kubernetes"])
def test_the_command_has_all_conf_the_jobs_own_file_and_its_arguments(manager: str) -> None:
    spec = spec_of(Path("/data/w/dedup/0123456789ab"))
    settings = cluster("yarn" if manager == "yarn" else "k8s://https://api:6443")
    words = submission(settings, "gptmill-it-2", job_command(spec, settings), spec.output)
    name = submission_id(spec.output)
    assert words[:7] == [
        *[str(spark_home() / "bin/spark-submit"), "--master", settings.spark.master, "--deploy-mode", "cluster"],
        *["--name", "gptmill-it-2"],
    ]
    given = words[words.index("gptmill-it-2") + 1 :]
    conf = {key: value for pair in given[1 : given.index(words[-7]) : 2] for key, _, value in [pair.partition("=")]}
    own = {
        "yarn": {
            "spark.yarn.tags": name,
            "spark.yarn.submit.waitAppCompletion": "false",
            "spark.yarn.maxAppAttempts": "1",
            "spark.yarn.appMasterEnv.PYTHONSAFEPATH": "1",
        },
        "kubernetes": {
            "spark.kubernetes.driver.pod.name": "gptmill-it-2",
            "spark.kubernetes.driver.label.app.kubernetes.io/instance": name,
            "spark.kubernetes.submission.waitAppCompletion": "false",
            "spark.kubernetes.submission.connectionTimeout": "60000",
            "spark.kubernetes.submission.requestTimeout": "60000",
            "spark.kubernetes.driverEnv.PYTHONSAFEPATH": "1",
        },
    }
    assert conf == {**spark_conf(settings, spec.output), **own[manager]}
    main = f"{'' if manager == 'yarn' else 'local://'}/data/w/dedup/0123456789ab/spark-scratch/dedup_corpus.py"
    assert words[-7:] == [
        *[main, "--recipe", "/data/w/dedup/0123456789ab/recipe.json", "--output", "/data/w/dedup/0123456789ab"],
        *["--inputs", "clean=/data/w/clean/aa"],
    ]


@pytest.mark.spark
def test_kubernetes_gets_one_driver_pod_for_a_name(kubernetes_api: KubernetesApi, tmp_path: Path) -> None:
    output = tmp_path / "w/clean/0123456789ab"
    output.mkdir(parents=True)
    settings = cluster(f"k8s://https://127.0.0.1:{kubernetes_api.server.server_port}")
    spec = LaunchSpec("jobs.clean_corpus", "spark", {}, output)
    name, command = submission_id(output), job_command(spec, settings)
    target = open_spark(settings)
    assert target.latest(name) is None

    assert target.submit(name, command, output) == f"pod/{name}"
    with pytest.raises(AlreadySubmittedError):
        target.submit(name, command, output)
    pod = kubernetes_api.objects["pods", name]
    (driver,) = pod["spec"]["containers"]
    main = output / "spark-scratch/clean_corpus.py"
    assert main.read_bytes() == Path("jobs/clean_corpus.py").read_bytes()
    assert driver["args"][-5:] == [f"local://{main}", *command[3:]]
    assert (driver["name"], driver["image"]) == ("spark", "registry/gptmill:1")
    assert driver["resources"]["limits"]["memory"] == driver["resources"]["requests"]["memory"] == "6144Mi"
    assert driver["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert driver["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert {"name": "PYTHONSAFEPATH", "value": "1"} in driver["env"]
    (mount,) = [one for one in driver["volumeMounts"] if one["name"] == "workspace"]
    assert mount["mountPath"] == str(tmp_path)
    (volume,) = [one for one in pod["spec"]["volumes"] if one["name"] == "workspace"]
    assert volume["persistentVolumeClaim"]["claimName"] == "corpus"
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["spec"]["restartPolicy"] == "Never"

    pod["status"] = {"phase": "Running"}
    assert target.latest(name) == Attempt(name, f"pod/{name}", "running")
    ended = {"name": "spark", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    pod["status"] = {"phase": "Failed", "containerStatuses": [ended]}
    failed = Attempt(name, f"pod/{name}", "failed", "exit code 137, OOMKilled")
    assert target.look(f"pod/{name}") == failed
    taken = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "make room"}
    pod["status"]["conditions"] = [taken]
    assert target.look(f"pod/{name}").transient
    pod["status"] = {"phase": "Succeeded"}
    assert target.look(f"pod/{name}").state == "succeeded"
    target.cancel(f"pod/{name}")
    assert target.look(f"pod/{name}").state == "lost"


ROW = "{id}\t  {name}\t  SPARK\t  ann\t  default\t  {state}\t  {final}\t  100%\thttp://h:1\n"
REPORT = """Application Report :
\tApplication-Id : application_1700000000000_0007
\tApplication-Name : NAME-2
\tApplication-Type : SPARK
\tState : {state}
\tFinal-State : {final}
\tDiagnostics : {why}
\tApplication Node Label Expression : <Not set>
"""
ATTEMPT = Attempt("NAME-2", "application_1700000000000_0007", "running")


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of what `yarn` prints: `-list`, `-status`; without a file it knows nothing."""
    script = tmp_path / "bin/yarn"
    script.parent.mkdir()
    unknown = "Application with id 'application_0' doesn't exist in RM or Timeline Server."
    script.write_text(f'#!/bin/sh\ncat "{tmp_path}/$2" 2> /dev/null || {{ echo "{unknown}" >&2; exit 1; }}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    return tmp_path


def test_yarns_words_become_attempts(answers: Path) -> None:
    target = open_spark(cluster("yarn"))
    rows = [
        ROW.format(id="Application-Id", name="Application-Name", state="State", final="Final-State"),
        ROW.format(id="application_1700000000000_0007", name="NAME-2", state="RUNNING", final="UNDEFINED"),
        ROW.format(id="application_1700000000000_0003", name="NAME", state="FINISHED", final="FAILED"),
    ]
    (answers / "-list").write_text("Total number of applications (...):2\n" + "".join(rows))
    assert target.latest("NAME") == ATTEMPT
    (answers / "-status").write_text(REPORT.format(state="ACCEPTED", final="UNDEFINED", why="waits"))
    assert target.look(ATTEMPT.native_id).state == "pending"
    (answers / "-status").write_text(REPORT.format(state="FINISHED", final="SUCCEEDED", why=""))
    assert target.look(ATTEMPT.native_id).state == "succeeded"
    (answers / "-status").write_text(REPORT.format(state="KILLED", final="KILLED", why="by ann"))
    assert target.look(ATTEMPT.native_id) == Attempt("NAME-2", ATTEMPT.native_id, "stopped", "by ann")
    why = "AM Container exited with  exitCode: -100"
    (answers / "-status").write_text(REPORT.format(state="FAILED", final="FAILED", why=why))
    assert target.look(ATTEMPT.native_id).transient
    (answers / "-status").unlink()
    assert target.look(ATTEMPT.native_id).state == "lost"


@pytest.mark.spark
def test_a_submission_that_is_refused_says_why(answers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HADOOP_CONF_DIR", raising=False)
    monkeypatch.delenv("YARN_CONF_DIR", raising=False)
    output = tmp_path / "w/clean/0123456789ab"
    command = job_command(LaunchSpec("jobs.clean_corpus", "spark", {}, output), cluster("yarn"))
    with pytest.raises(
        StageError, match=r"spark-submit exited 1: .*either HADOOP_CONF_DIR or YARN_CONF_DIR must be set"
    ):
        open_spark(cluster("yarn")).submit("NAME", command, output)
