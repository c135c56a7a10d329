"""Spark's conf, derived from a recipe: the same for a driver here and for one that spark-submit starts on a cluster.

Nothing in it is secret: spark-submit and the JVM take it on their command lines. Where Spark makes a secret for each
application by itself (yarn, k8s://, local), its processes authenticate and encrypt what they send each other. A
standalone cluster's secret is one for all; Spark reads it, with what else is the site's, from spark-defaults.conf in
SPARK_CONF_DIR.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from gpt_core.artifact import write_json
from gpt_core.fingerprint import Json
from gpt_core.recipe import Cluster
from gpt_core.recipe.cluster import mebibytes
from jobs.launch.manifests import claim_mount

SCRATCH = "spark-scratch"  # below the output folder; no manifest lists it
CONTAINER = "spark"  # Spark's own, in every pod
POD_TEMPLATE = f"{SCRATCH}/pod.json"
UNPACKED = "environment"  # what an archive is called where a task runs
_AUTHENTICATED = {"spark.authenticate": "true", "spark.network.crypto.enabled": "true"}


def spark_home() -> Path:
    """The Spark that is used: the site's, or pip's."""
    spec = find_spec("pyspark")
    assert spec is not None
    assert spec.origin is not None
    return Path(os.environ.get("SPARK_HOME") or Path(spec.origin).parent)


def spark_conf(cluster: Cluster, output: Path) -> dict[str, str]:
    """What Spark is told for the stage whose output folder, as absolute path, is `output`.

    With k8s:// it names a pod template, which `write_pod_template` must have put there. Raises SetupError where the
    claim cannot hold the workspace.
    """
    spark = cluster.spark
    conf = {
        "spark.ui.enabled": "false",  # it would serve every interface, without a password
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": spark.driver_memory,
        "spark.executor.memory": spark.executor_memory,
    }
    if spark.manager != "standalone":
        conf |= _AUTHENTICATED
    if spark.executor_cores is not None:
        conf["spark.executor.cores"] = str(spark.executor_cores)
    if spark.manager == "yarn":
        conf |= _yarn(cluster)
    if spark.manager == "kubernetes":
        conf |= _kubernetes(cluster, output)
    return conf | _code(cluster)


def worker_python(cluster: Cluster) -> str:
    """The Python of Spark's tasks, as seen from where a task runs."""
    if cluster.spark.manager == "local":
        return sys.executable
    if cluster.archive is not None:
        return f"./{UNPACKED}/bin/python"
    return "python3" if cluster.spark.manager == "kubernetes" else sys.executable


def write_pod_template(cluster: Cluster, output: Path) -> None:
    """The pod template that `spark_conf` names, if it names one, is there.

    It says what Spark's conf cannot: all keys of a secret, and what a pod must not do.
    """
    if cluster.spark.manager != "kubernetes":
        return
    secret = cluster.kubernetes.secret
    container: dict[str, Json] = {
        "name": CONTAINER,
        **({"envFrom": [{"secretRef": {"name": secret}}]} if secret is not None else {}),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec: dict[str, Json] = {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    (output / SCRATCH).mkdir(parents=True, exist_ok=True)
    write_json(output / POD_TEMPLATE, {"apiVersion": "v1", "kind": "Pod", "spec": spec})


def _code(cluster: Cluster) -> dict[str, str]:
    """Where tasks, and a driver on the cluster, find Python, its packages and this code."""
    spark = cluster.spark
    code = {"spark.pyspark.python": worker_python(cluster)}
    if cluster.archive is not None and spark.manager != "local":
        archives = "spark.yarn.dist.archives" if spark.manager == "yarn" else "spark.archives"
        on_claim = spark.manager == "kubernetes" and spark.deploy_mode == "cluster"
        return code | {archives: f"{'local://' if on_claim else ''}{cluster.archive}#{UNPACKED}"}
    if spark.manager == "kubernetes":  # the image's
        return code
    code["spark.executorEnv.PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    if spark.deploy_mode == "cluster":
        code["spark.yarn.appMasterEnv.PYTHONPATH"] = code["spark.executorEnv.PYTHONPATH"]
    return code


def _yarn(cluster: Cluster) -> dict[str, str]:
    conf = {
        "spark.executor.instances": str(cluster.spark.executors),
        "spark.executor.memoryOverheadFactor": "1.0",  # Python's, which does the work; YARN kills who takes more
    }
    return conf | ({"spark.driver.memoryOverheadFactor": "1.0"} if cluster.spark.deploy_mode == "cluster" else {})


def _kubernetes(cluster: Cluster, output: Path) -> dict[str, str]:
    spark, pods = cluster.spark, cluster.kubernetes
    assert pods.image is not None and pods.claim is not None, "the recipe asks for both"  # noqa: PT018
    roles = {"executor": spark.executor_memory}
    conf = {
        "spark.kubernetes.namespace": pods.namespace,
        "spark.kubernetes.container.image": pods.image,
        "spark.executor.instances": str(spark.executors),
        "spark.executor.cores": str(spark.executor_cores or pods.cpus),
    }
    if pods.context is not None:
        conf["spark.kubernetes.context"] = pods.context
    if spark.deploy_mode == "cluster":
        roles["driver"] = spark.driver_memory
    mount = claim_mount(pods, str(output.parents[1]))
    for role, heap in roles.items():
        volume = f"spark.kubernetes.{role}.volumes.persistentVolumeClaim.workspace"
        conf |= {
            f"{volume}.mount.path": mount,
            f"{volume}.options.claimName": pods.claim,
            f"spark.kubernetes.{role}.podTemplateFile": str(output / POD_TEMPLATE),
            f"spark.{role}.memoryOverhead": f"{mebibytes(pods.memory) - mebibytes(heap)}m",
        }
        if pods.service_account is not None:
            conf[f"spark.kubernetes.authenticate.{role}.serviceAccountName"] = pods.service_account
    return conf
