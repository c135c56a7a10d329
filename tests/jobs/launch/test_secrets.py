"""Credentials stay in the environment: no command line, no handle, no log of a submission holds one."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from planted_secrets import EVERY, SECRETS, holders
from process_cluster import ProcessCluster

from gpt_core.errors import ArtifactError
from gpt_core.recipe import Cluster, Kubernetes, RayCluster, SparkCluster, TrainCluster
from gpt_core.recipe import ProcessCluster as Processes
from jobs.launch.command import native_command, stop_command
from jobs.launch.follow import attach_or_submit, follow
from jobs.launch.spec import Engine, LaunchSpec, read_handle

CLUSTERS = {
    "local": Cluster(),
    "standalone": Cluster(spark=SparkCluster(master="spark://head:7077")),
    "yarn": Cluster(spark=SparkCluster(master="yarn", deploy_mode="cluster")),
    "ray": Cluster(ray=RayCluster(jobs_address="http://head:8265"), train=TrainCluster(launcher="ray")),
    "slurm": Cluster(process=Processes(launcher="slurm"), train=TrainCluster(launcher="slurm", nodes=2)),
    "kubernetes": Cluster(
        kubernetes=Kubernetes(image="i", claim="c", secret="s"),  # noqa: S106  the name of one
        process=Processes(launcher="kubernetes"),
        ray=RayCluster(launcher="kubernetes"),
        train=TrainCluster(launcher="kubernetes"),
        spark=SparkCluster(master="k8s://https://head:6443", deploy_mode="cluster"),
    ),
    "machines": Cluster(train=TrainCluster(nodes=2, rendezvous="head:29400")),
}
URI = "postgresql://me:planted-database-password@db/mlflow"


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, secret in {**SECRETS, "MLFLOW_TRACKING_URI": URI, "RAY_AUTH_TOKEN": "planted-ray-token"}.items():
        monkeypatch.setenv(name, secret)


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
@pytest.mark.parametrize("engine", ["spark", "ray", "deepspeed", "python"])
def test_no_command_line_holds_a_credential(engine: Engine, cluster: Cluster) -> None:
    spec = LaunchSpec(module="jobs.it", engine=engine, inputs={}, output=Path("/w/it/0123456789ab"))
    words = [*native_command(spec, cluster), *(stop_command(spec, cluster) or [])]
    assert words
    assert [word for word in words if EVERY in word] == []


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ProcessCluster]:
    made = ProcessCluster(tmp_path / "cluster")
    yield made
    made.close()


def test_no_handle_log_or_process_of_a_submission_holds_a_credential(
    cluster: ProcessCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "it" / "0123456789ab"
    output.mkdir(parents=True)
    attempt = attach_or_submit(cluster, "slurm", ["sh", "-c", "echo ran; sleep 1"], output)
    job = cluster.process(attempt.name)
    assert job is not None
    lines = [word for process in (job, *job.children(recursive=True)) for word in process.cmdline()]
    assert "sleep 1" in " ".join(lines)
    follow(cluster, attempt, output)
    told = capsys.readouterr().out
    assert "ran\n" in told
    assert [text for text in (*lines, told) if EVERY in text] == []
    assert read_handle(output) is not None
    assert not holders(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"native_id": "--user=root"}, {"native_id": "1; rm x"}, {"name": "-x"}, {"target": "other"}, {"native_id": ""}],
)
def test_a_handle_whose_words_are_no_jobs_goes_to_no_command(tmp_path: Path, change: dict[str, str]) -> None:
    handle = {"target": "slurm", "name": "gptmill-it", "native_id": "12", "submitted_at": "then"}
    (tmp_path / "handle.json").write_text(json.dumps(handle))
    assert read_handle(tmp_path) is not None
    (tmp_path / "handle.json").write_text(json.dumps({**handle, **change}))
    with pytest.raises(ArtifactError, match=r"handle\.json: names no job of a cluster; delete it"):
        read_handle(tmp_path)
    (tmp_path / "handle.json").write_text('{"target": "slurm"}')
    with pytest.raises(ArtifactError, match=r"handle\.json: is no note of a submission; delete it"):
        read_handle(tmp_path)
