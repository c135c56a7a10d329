"""Can Spark run where the recipe says? What is found at once, before a driver waits for a cluster that is not there."""

import os
import shutil
import subprocess
from pathlib import Path

from gpt_core.errors import SetupError
from gpt_core.recipe import Cluster, Recipe
from jobs.launch.spark_submit import ANSWER_SECONDS, kubectl, open_spark
from jobs.spark_conf import spark_conf

OPEN_MASTER = (
    "lets in anybody: whoever reaches it runs code there; give it a secret, spark.authenticate.secret in its "
    "spark-defaults.conf"
)


def check_spark(recipe: Recipe) -> str:
    """What was found of the place where clean and dedup run, where nothing is wrong; OPEN_MASTER is a warning.

    Raises SetupError that names the field, what answered, and the way out.
    """
    cluster = recipe.cluster
    if cluster.archive is not None and not Path(cluster.archive).is_file():
        raise SetupError(f"cluster.archive: {cluster.archive}: no such file; make it with `gptmill pack`")
    if cluster.spark.deploy_mode == "cluster":
        open_spark(cluster)
    spark_conf(cluster, Path(recipe.workspace, "clean", "it").absolute())
    if cluster.spark.manager == "standalone":
        return _check_master(cluster)
    if cluster.spark.manager == "yarn":
        return _check_yarn()
    if cluster.spark.manager == "kubernetes":
        return _check_kubernetes(cluster)
    return f"{cluster.spark.master} on this machine"


def _check_master(cluster: Cluster) -> str:
    from jobs.spark_master import ask_master  # pyspark

    return "lets us in, with the secret" if ask_master(cluster.spark.master).authenticated else OPEN_MASTER


def _check_yarn() -> str:
    for name in ("HADOOP_CONF_DIR", "YARN_CONF_DIR"):
        folder = os.environ.get(name)
        if folder and Path(folder, "yarn-site.xml").is_file():
            return f"YARN as {folder} says"
    raise SetupError(
        "cluster.spark.master=yarn: set HADOOP_CONF_DIR or YARN_CONF_DIR to the folder of the cluster's yarn-site.xml"
    )


def _check_kubernetes(cluster: Cluster) -> str:
    """The API answers, and takes pods from us."""
    field, pods = f"cluster.spark.master={cluster.spark.master}", cluster.kubernetes
    if shutil.which("kubectl") is None:
        raise SetupError(f"{field}: kubectl is not on PATH; install it here")
    command = kubectl(cluster, "auth", "can-i", "create", "pods")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        raise SetupError(f"{field}: no answer for {ANSWER_SECONDS} s; give the address of the API server") from None
    if done.stdout.strip() == "yes":
        return f"takes pods from us in the namespace {pods.namespace}"
    if done.stdout.strip() == "no":
        raise SetupError(f"{field}: takes no pods from us in the namespace {pods.namespace}; ask for that right")
    told = done.stderr.strip().splitlines()
    raise SetupError(f"{field}: {told[-1] if told else 'no answer'}; `kubectl config view` shows who asks whom")
