"""From a recipe to Spark's conf: word for word."""

import json
import sys
from pathlib import Path

import pytest

from gpt_core.errors import SetupError
from gpt_core.recipe import Cluster
from jobs.spark_conf import spark_conf, worker_python, write_pod_template

ROOT = str(Path(__file__).parents[2])
OUTPUT = Path("/data/w/clean/0123456789ab")
ALWAYS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.memory": "2g",
    "spark.executor.memory": "2g",
}
SECURE = {"spark.authenticate": "true", "spark.network.crypto.enabled": "true"}
HERE = {"spark.pyspark.python": sys.executable, "spark.executorEnv.PYTHONPATH": ROOT}
MASTER = "k8s://https://api:6443"
PODS = {"image": "registry/gptmill:1", "claim": "corpus", "memory": "6g", "cpus": 4}


def cluster(
    master: str, *, pods: dict[str, object] | None = None, archive: str | None = None, **spark: object
) -> Cluster:
    settings = {"spark": {"master": master, **spark}, "kubernetes": pods or {}, "archive": archive}
    return Cluster.model_validate(settings)


def test_a_local_spark_authenticates_and_needs_no_archive() -> None:
    expected = {**ALWAYS, **SECURE, **HERE}
    assert spark_conf(cluster("local[2]"), OUTPUT) == expected
    assert spark_conf(cluster("local[2]", archive="/data/env.tar.gz"), OUTPUT) == expected


def test_a_standalone_cluster_has_what_its_own_conf_says_of_secrets() -> None:
    assert spark_conf(cluster("spark://head:7077", executor_cores=2), OUTPUT) == {
        **ALWAYS,
        "spark.executor.cores": "2",
        **HERE,
    }
    shipped = cluster("spark://head:7077", archive="/data/env.tar.gz")
    assert spark_conf(shipped, OUTPUT) == {
        **ALWAYS,
        "spark.pyspark.python": "./environment/bin/python",
        "spark.archives": "/data/env.tar.gz#environment",
    }
    assert worker_python(shipped) == "./environment/bin/python"


def test_yarn_gives_python_as_much_memory_as_java() -> None:
    expected = {
        **ALWAYS,
        **SECURE,
        "spark.executor.instances": "8",
        "spark.executor.memoryOverheadFactor": "1.0",
    }
    assert spark_conf(cluster("yarn", executors=8), OUTPUT) == {**expected, **HERE}
    away = cluster("yarn", executors=8, deploy_mode="cluster")
    assert spark_conf(away, OUTPUT) == {
        **expected,
        **HERE,
        "spark.driver.memoryOverheadFactor": "1.0",
        "spark.yarn.appMasterEnv.PYTHONPATH": ROOT,
    }
    shipped = cluster("yarn", executors=8, deploy_mode="cluster", archive="/data/env.tar.gz")
    assert spark_conf(shipped, OUTPUT) == {
        **expected,
        "spark.driver.memoryOverheadFactor": "1.0",
        "spark.pyspark.python": "./environment/bin/python",
        "spark.yarn.dist.archives": "/data/env.tar.gz#environment",
    }


def pod_conf(role: str, *, overhead: str) -> dict[str, str]:
    return {
        f"spark.kubernetes.{role}.volumes.persistentVolumeClaim.workspace.mount.path": "/data",
        f"spark.kubernetes.{role}.volumes.persistentVolumeClaim.workspace.options.claimName": "corpus",
        f"spark.kubernetes.{role}.podTemplateFile": f"{OUTPUT}/spark-scratch/pod.json",
        f"spark.{role}.memoryOverhead": overhead,
    }


def test_kubernetes_gives_every_pod_the_image_the_claim_and_its_memory() -> None:
    expected = {
        **ALWAYS,
        **SECURE,
        "spark.kubernetes.namespace": "default",
        "spark.kubernetes.container.image": "registry/gptmill:1",
        "spark.executor.instances": "2",
        "spark.executor.cores": "4",
        "spark.pyspark.python": "python3",
        **pod_conf("executor", overhead="4096m"),
    }
    assert spark_conf(cluster(MASTER, pods=PODS), OUTPUT) == expected
    named = {**PODS, "namespace": "text", "context": "site", "service_account": "spark"}
    away = cluster(MASTER, pods=named, deploy_mode="cluster", driver_memory="1g", archive="/data/env.tar.gz")
    assert spark_conf(away, OUTPUT) == {
        **expected,
        **pod_conf("driver", overhead="5120m"),
        "spark.driver.memory": "1g",
        "spark.kubernetes.namespace": "text",
        "spark.kubernetes.context": "site",
        "spark.kubernetes.authenticate.driver.serviceAccountName": "spark",
        "spark.kubernetes.authenticate.executor.serviceAccountName": "spark",
        "spark.pyspark.python": "./environment/bin/python",
        "spark.archives": "local:///data/env.tar.gz#environment",
    }
    with pytest.raises(
        SetupError, match=r"cluster\.kubernetes\.mount=/elsewhere: the workspace /data/w lies elsewhere"
    ):
        spark_conf(cluster(MASTER, pods={**PODS, "mount": "/elsewhere"}), OUTPUT)


def test_the_pod_template_takes_the_keys_of_the_secret_and_no_rights(tmp_path: Path) -> None:
    write_pod_template(cluster("local"), tmp_path)
    assert not list(tmp_path.iterdir())
    write_pod_template(cluster(MASTER, pods={**PODS, "secret": "store"}), tmp_path)
    pod = json.loads((tmp_path / "spark-scratch/pod.json").read_text())
    assert pod == {
        "apiVersion": "v1",
        "kind": "Pod",
        "spec": {
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "spark",
                    "envFrom": [{"secretRef": {"name": "store"}}],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    write_pod_template(cluster(MASTER, pods=PODS), tmp_path)
    (container,) = json.loads((tmp_path / "spark-scratch/pod.json").read_text())["spec"]["containers"]
    assert "envFrom" not in container


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spark": {"master": "sc://h:15002"}}, "Spark Connect runs DataFrames and no Python over Arrow tables"),
        (
            {"spark": {"master": "spark://h"}},
            r"master='spark://h' is no master; write local\[n\], spark://HOST:7077, yarn",
        ),
        ({"spark": {"master": "mesos://h:5050"}}, "is no master"),
        (
            {"spark": {"master": "spark://h:7077", "deploy_mode": "cluster"}},
            "deploy_mode=cluster is of yarn and k8s://; spark://h:7077 runs no Python driver: leave it out",
        ),
        ({"spark": {"deploy_mode": "cluster"}}, r"local\[\*\] runs no Python driver"),
        ({"spark": {"master": MASTER}}, f"kubernetes.image: must be given, as cluster.spark.master is {MASTER}"),
        (
            {"spark": {"master": MASTER}, "kubernetes": {**PODS, "memory": "2g"}},
            "kubernetes.memory=2g leaves nothing for Python beside cluster.spark.executor_memory=2g",
        ),
    ],
)
def test_a_place_that_cannot_run_these_jobs_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cluster.model_validate(settings)


@pytest.mark.parametrize(
    "master", ["local", "local[4]", "local[*,3]", "spark://a:7077,b:7077", "yarn", "k8s://https://api/k8s/clusters/c-1"]
)
def test_every_master_that_spark_has_is_taken(master: str) -> None:
    pods = PODS if master.startswith("k8s") else None
    assert cluster(master, pods=pods).spark.master == master
