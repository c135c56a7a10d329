"""From a stage to its command: word for word."""

import sys
from pathlib import Path

import pytest

from gpt_core.recipe import Cluster, RayCluster, TrainCluster
from jobs.launch.command import native_command, stop_command
from jobs.launch.spec import Engine, LaunchSpec, submission_id

OUTPUT = Path("/w/shards/0123456789ab")
INPUTS = {"dedup": Path("/w/dedup/aa"), "tokenizer": Path("/w/tokenizer/bb")}
ADDRESS = "http://head:8265"
JOB = [
    *["--recipe", "/w/shards/0123456789ab/recipe.json", "--output", "/w/shards/0123456789ab"],
    *["--inputs", "dedup=/w/dedup/aa", "tokenizer=/w/tokenizer/bb"],
]


def spec(engine: Engine, output: Path = OUTPUT) -> LaunchSpec:
    return LaunchSpec(module="jobs.it", engine=engine, inputs=INPUTS, output=output)


@pytest.mark.parametrize("engine", ["spark", "ray", "python"])
def test_a_job_is_a_process_here(engine: Engine) -> None:
    assert native_command(spec(engine), Cluster()) == [sys.executable, "-m", "jobs.it", *JOB]
    assert stop_command(spec(engine), Cluster()) is None


def test_deepspeed_runs_a_process_a_rank() -> None:
    cluster = Cluster(train=TrainCluster(processes=3), ray=RayCluster(jobs_address=ADDRESS))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    assert native_command(spec("deepspeed"), cluster) == [sys.executable, *torchrun, "-m", "jobs.it", *JOB]


def test_a_training_that_restarts_or_has_several_machines_is_one_command_for_all() -> None:
    def launcher(train: TrainCluster) -> list[str]:
        return native_command(spec("deepspeed"), Cluster(train=train))[1 : -len(JOB)]

    restarting = ["-m", "jobs.node", "--standalone", "--nproc-per-node", "2", "--max-restarts", "3", "-m", "jobs.it"]
    assert launcher(TrainCluster(processes=2, max_restarts=3)) == restarting
    several = TrainCluster(processes=8, nodes=4, rendezvous="head:29400", max_restarts=3)
    assert launcher(several) == [
        *["-m", "jobs.node", "--nnodes", "4", "--nproc-per-node", "8", "--rdzv-backend", "c10d"],
        *["--rdzv-endpoint", "head:29400", "--rdzv-id", "gptmill-shards-0123456789ab-720be3"],
        *["--max-restarts", "3", "-m", "jobs.it"],
    ]
    assert launcher(several.model_copy(update={"min_nodes": 2}))[2:4] == ["--nnodes", "2:4"]


def test_a_hostfile_starts_the_ranks_of_all_machines_from_one() -> None:
    cluster = Cluster(train=TrainCluster(processes=8, nodes=2, hostfile="/w/hosts"))
    assert native_command(spec("deepspeed"), cluster) == [
        *[sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", "/w/hosts", "--num_nodes", "2"],
        *["--num_gpus", "8", "--log_level", "warning", "--no_local_rank", "--module", "jobs.it", *JOB],
    ]


def test_a_jobs_address_submits_what_would_run_here_and_nothing_else() -> None:
    cluster = Cluster(ray=RayCluster(jobs_address=ADDRESS))
    follower = [sys.executable, "-m", "jobs.launch.follow", "--target", "ray", "--output", "/w/shards/0123456789ab"]
    assert native_command(spec("ray"), cluster) == [*follower, "--", sys.executable, "-m", "jobs.it", *JOB]
    assert stop_command(spec("ray"), cluster) == [*follower, "--cancel"]
    for engine in ("spark", "python", "deepspeed"):
        assert native_command(spec(engine), cluster) == native_command(spec(engine), Cluster())


def test_ray_train_is_a_job_there_that_starts_the_ranks_itself() -> None:
    cluster = Cluster(ray=RayCluster(jobs_address=ADDRESS), train=TrainCluster(launcher="ray", nodes=4, processes=8))
    follower = [sys.executable, "-m", "jobs.launch.follow", "--target", "ray", "--output", "/w/shards/0123456789ab"]
    assert native_command(spec("deepspeed"), cluster) == [
        *[*follower, "--", sys.executable, "-m", "jobs.ray_train", "jobs.it", *JOB]
    ]
    with pytest.raises(ValueError, match=r"launcher=ray needs cluster\.ray\.jobs_address"):
        Cluster(train=TrainCluster(launcher="ray"))
    with pytest.raises(ValueError, match="min_nodes=2: Ray Train waits until there are all nodes; leave it out"):
        TrainCluster(launcher="ray", nodes=4, min_nodes=2)


def test_a_job_has_one_name_in_one_workspace_and_another_in_the_next() -> None:
    places = [OUTPUT, OUTPUT.with_name("0123456789ac"), Path("/v") / OUTPUT.relative_to("/w")]
    assert len({submission_id(place) for place in places}) == 3
    assert submission_id(OUTPUT) == submission_id(Path(str(OUTPUT)))
