"""Can Spark run where the recipe says? What is found at once, before a driver waits for a cluster that is not there."""

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from gpt_core.errors import SetupError
from gpt_core.recipe import Cluster, Recipe
from jobs.launch.kubectl import ANSWER_SECONDS, Kubectl, RefusedError
from jobs.launch.spark_submit import open_spark
from jobs.spark_conf import spark_conf
from pipelines.kubernetes import check_kubernetes

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
        return _check_kubernetes(recipe)
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


def _check_kubernetes(recipe: Recipe) -> str:
    """The API server answers, has what the recipe names, and takes pods from us."""
    settings, master = recipe.cluster.kubernetes, recipe.cluster.spark.master
    place = urlsplit(master.removeprefix("k8s://"))
    try:
        socket.create_connection((place.hostname, place.port or 443), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SetupError(
            f"cluster.spark.master={master}: no answer ({reason}); `kubectl cluster-info` tells the address"
        ) from None
    check_kubernetes(recipe)
    kubectl = Kubectl(settings)
    applied = ("configmaps", "services", "networkpolicies.networking.k8s.io")  # by Spark, beside its pods
    for verb, resource in (("create", "pods"), ("delete", "pods"), *(("patch", one) for one in applied)):
        try:
            kubectl.run("auth", "can-i", verb, resource, "--quiet")
        except RefusedError:
            raise SetupError(
                f"cluster.kubernetes.namespace={settings.namespace}: you may not {verb} {resource}; Spark's driver and "
                "executors are pods: let its administrator give you the role `edit` there"
            ) from None
    return f"takes pods from us in the namespace {settings.namespace}"
