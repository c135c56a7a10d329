"""Where Spark cannot run, is said before anything starts, with the way out."""

import logging
from pathlib import Path

import pytest
from kubernetes_api import KubernetesApi

import jobs.spark_master
from gpt_core.errors import SetupError
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import parse_recipe
from jobs.spark_master import Access
from pipelines.checks import check_before_start
from pipelines.doctor import Finding, _recipe_findings
from pipelines.plan import make_plan
from pipelines.spark_check import OPEN_MASTER, check_spark

PODS = {"image": "registry/gptmill:1", "claim": "corpus"}


def recipe(tmp_path: Path, master: str, **cluster: object) -> Recipe:
    (tmp_path / "corpus.jsonl").write_text('{"text": "a"}\n')
    tree = {
        "name": "it",
        "workspace": str(tmp_path / "w"),
        "corpus": {"inputs": [{"path": str(tmp_path / "corpus.jsonl")}]},
        "cluster": {"spark": {"master": master}, **cluster},
    }
    return parse_recipe(tree, origin="it")


def test_an_open_master_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobs.spark_master, "ask_master", lambda _: Access(authenticated=False))
    standalone = recipe(tmp_path, "spark://head:7077")
    with caplog.at_level(logging.WARNING, "gptmill"):
        check_before_start(standalone, make_plan(standalone, until="clean"))
    assert caplog.messages == [f"warning: cluster.spark.master=spark://head:7077: {OPEN_MASTER}"]
    found = next(finding for finding in _recipe_findings(standalone) if finding.subject == "spark")
    assert found == Finding("spark", True, OPEN_MASTER, warning=True)

    monkeypatch.setattr(jobs.spark_master, "ask_master", lambda _: Access(authenticated=True))
    assert check_spark(standalone) == "lets us in, with the secret"


def test_a_master_that_nobody_serves_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"master=spark://127\.0\.0\.1:1: no answer \(connection refused\); start it"):
        check_spark(recipe(tmp_path, "spark://127.0.0.1:1"))


def test_yarn_needs_its_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("YARN_CONF_DIR", raising=False)
    monkeypatch.setenv("HADOOP_CONF_DIR", str(tmp_path))
    with pytest.raises(SetupError, match="set HADOOP_CONF_DIR or YARN_CONF_DIR to the folder of the cluster's yarn"):
        check_spark(recipe(tmp_path, "yarn"))
    (tmp_path / "yarn-site.xml").write_text("<configuration/>")
    assert check_spark(recipe(tmp_path, "yarn")) == f"YARN as {tmp_path} says"
    with pytest.raises(SetupError, match=r"cluster\.archive: .*/none\.tar\.gz: no such file; make it with"):
        check_spark(recipe(tmp_path, "yarn", archive=str(tmp_path / "none.tar.gz")))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="the command `yarn` is not on PATH"):
        check_spark(recipe(tmp_path, "yarn", spark={"master": "yarn", "deploy_mode": "cluster"}))


def test_kubernetes_must_take_pods_from_us(kubernetes_api: KubernetesApi, tmp_path: Path) -> None:
    master = f"k8s://https://127.0.0.1:{kubernetes_api.server.server_port}"
    with pytest.raises(SetupError, match=r"cluster\.kubernetes\.claim=corpus"):
        check_spark(recipe(tmp_path, master, kubernetes=PODS))
    kubernetes_api.create("persistentvolumeclaims", {"metadata": {"name": "corpus"}})
    assert check_spark(recipe(tmp_path, master, kubernetes=PODS)) == "takes pods from us in the namespace default"
    kubernetes_api.forbidden.add("configmaps")
    with pytest.raises(SetupError, match=r"namespace=default: you may not patch configmaps; Spark's driver and"):
        check_spark(recipe(tmp_path, master, kubernetes=PODS))
    with pytest.raises(SetupError, match=r"no answer \(connection refused\); `kubectl cluster-info` tells the address"):
        check_spark(recipe(tmp_path, "k8s://https://127.0.0.1:1", kubernetes=PODS))
