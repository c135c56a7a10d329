"""The shards stage on three Ray nodes, submitted through the Jobs API: who submits, attaches, kills and leaves changes
no byte, and a stage runs once.

Where a test needs a job that is surely under way, another job holds all CPUs of the cluster until it is stopped.
"""

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray_cluster import RayCluster, wait_until
from ray_jobs import ROOT, STEP_SECONDS, end, jobs_of, spawn, statuses
from shards_job import made, prepare, run_job, whole, write_dedup, write_tokenizer
from stage_output import write_output

from gpt_core.artifact import FileEntry
from gpt_core.recipe import Cluster
from gpt_core.recipe import RayCluster as Settings
from gpt_core.recipe_file import load_recipe
from jobs.launch.command import native_command
from jobs.launch.spec import LaunchSpec, read_handle, submission_id
from pipelines.plan import make_plan, resolve_paths

pytestmark = pytest.mark.ray
FILES = 36
HOLD = """
import sys, pathlib, ray, time
ray.init(log_to_driver=False)
@ray.remote(num_cpus=1)
class Held:
    def is_up(self): return True
held = [Held.remote() for _ in range(int(sys.argv[1]))]
ray.get([one.is_up.remote() for one in held])
pathlib.Path(sys.argv[2]).touch()
time.sleep(600)
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Some 1.5 MB of words in FILES files, a task each, and a tokenizer that makes many tokens of them."""
    folder = tmp_path_factory.mktemp("inputs")
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 9))) for _ in range(5000)]
    documents = [(f"id-{i}", " ".join(draw.choices(words, k=200)), f"source-{i % 3}") for i in range(FILES * 30)]
    text_bytes = sum(len(text) for _, text, _ in documents)
    dedup = write_dedup(folder / "dedup", documents, files=FILES, text_bytes=text_bytes)
    return {"dedup": dedup, "tokenizer": write_tokenizer(folder / "tokenizer")}


@pytest.fixture(scope="module")
def at_home(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[FileEntry, ...]:
    """What the job makes without a cluster, but for encoder.json, which tells of the attempt."""
    output = tmp_path_factory.mktemp("home") / "shards"
    done = run_job(output, inputs["dedup"], inputs["tokenizer"], cwd=ROOT, cpus=2)
    assert done.returncode == 0, done.stderr
    return made(output)


def start(cluster: RayCluster, output: Path, inputs: dict[str, Path], **environment: str) -> "subprocess.Popen[str]":
    """A submitter of the job that makes `output`, with the cluster's token unless `environment` says otherwise."""
    if not output.exists():
        prepare(output, jobs_address=cluster.jobs_address)
    spec = LaunchSpec(module="jobs.tokenize_corpus", engine="ray", inputs=inputs, output=output)
    command = native_command(spec, Cluster(ray=Settings(jobs_address=cluster.jobs_address)))
    return spawn(command, environment or cluster.environment)


def follower(cluster: RayCluster, output: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Submits, follows or cancels by hand, what a recipe does not name."""
    if not output.exists():
        prepare(output, jobs_address=cluster.jobs_address)
    command = [sys.executable, "-m", "jobs.launch.follow", "--target", "ray", "--output", str(output)]
    return spawn([*command, *arguments], cluster.environment)


@contextmanager
def all_cpus_held(cluster: RayCluster, folder: Path) -> Iterator[None]:
    """Nothing that needs a CPU runs on the cluster inside the block."""
    output = folder / "holds" / "it"
    hold = [sys.executable, "-c", HOLD, str(len(cluster.nodes)), str(folder / "up")]
    holder, name = follower(cluster, output, "--", *hold), submission_id(output)
    wait_until((folder / "up").exists, seconds=STEP_SECONDS)
    try:
        yield
    finally:
        assert end(follower(cluster, output, "--cancel")) == f"cancelled the job {name}\n"
    assert f"the job {name} was stopped; run again to start it anew" in end(holder, 3)
    assert end(follower(cluster, output, "--cancel")) == f"no job {name} runs\n"


def require_no_token(cluster: RayCluster, *places: Path, said: str = "") -> None:
    """The token stands in no file below `places` and in nothing `said`."""
    assert cluster.token not in said
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert [path for path in files if cluster.token.encode() in path.read_bytes()] == []


def test_submitted_to_three_nodes_it_gives_the_bytes_of_a_laptop(
    cluster: RayCluster, inputs: dict[str, Path], at_home: tuple[FileEntry, ...], tmp_path: Path
) -> None:
    output = tmp_path / "shards" / "it"
    said = end(start(cluster, output, inputs))
    assert made(output) == at_home
    assert f"submitted the ray job {submission_id(output)}\n" in said
    assert "Running entrypoint" in said
    handle = read_handle(output)
    assert handle is not None
    assert handle.name == submission_id(output)
    assert end(start(cluster, output, inputs)) == f"{output} is whole already\n"
    assert statuses(cluster, output) == [("", "SUCCEEDED")]
    (job,) = jobs_of(cluster, submission_id(output))
    assert job["driver_info"], "the job did not join the cluster"
    require_no_token(cluster, tmp_path, said=said)


def test_submitted_again_while_it_runs_it_is_attached_to(
    cluster: RayCluster, inputs: dict[str, Path], at_home: tuple[FileEntry, ...], tmp_path: Path
) -> None:
    output = tmp_path / "shards" / "it"
    with all_cpus_held(cluster, tmp_path):
        submitters = [start(cluster, output, inputs) for _ in range(2)]
        wait_until(lambda: statuses(cluster, output) == [("", "RUNNING")], seconds=STEP_SECONDS)
        submitters.append(start(cluster, output, inputs))
        assert submitters[2].stdout is not None
        line = submitters[2].stdout.readline()
        assert line == f"attached to the ray job {submission_id(output)}, running\n"
    said = [end(submitter) for submitter in submitters]
    assert sum("submitted the ray job" in text for text in said) == 1
    assert all("Running entrypoint" in text for text in said)
    assert statuses(cluster, output) == [("", "SUCCEEDED")]
    assert made(output) == at_home


def test_killed_and_interrupted_runs_leave_the_job_and_the_next_one_attaches(
    cluster: RayCluster, inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Through `gptmill run`, with inputs made by hand."""
    recipe, output = a_recipe(cluster, inputs, tmp_path)
    run = [sys.executable, "-m", "pipelines", "run", str(recipe), "--only", "shards"]
    with all_cpus_held(cluster, tmp_path):
        killed = spawn(run, cluster.environment)
        wait_until(lambda: statuses(cluster, output) == [("", "RUNNING")], seconds=STEP_SECONDS)
        killed.kill()
        said = killed.communicate()[0]

        interrupted = spawn(run, cluster.environment)
        wait_until(lambda: "attached to the ray job" in (output / "log.txt").read_text(), seconds=STEP_SECONDS)
        interrupted.send_signal(signal.SIGINT)
        said += end(interrupted, 5)
        assert f"-m jobs.launch.follow --target ray --output {output} --cancel\n" in said
        assert "detached; the job, once submitted, goes on\n" in (output / "log.txt").read_text()
        assert statuses(cluster, output) == [("", "RUNNING")]
    said += end(spawn(run, cluster.environment))
    assert whole(output).manifest.stage == "shards"
    assert statuses(cluster, output) == [("", "SUCCEEDED")]
    require_no_token(cluster, tmp_path, said=said)


def a_recipe(cluster: RayCluster, inputs: dict[str, Path], folder: Path) -> tuple[Path, Path]:
    """A recipe whose shards stage is submitted to the cluster and has its inputs; and where its output goes."""
    (folder / "corpus.jsonl").write_text('{"text": "one"}\n')
    path = folder / "it.yaml"
    path.write_text(
        f"name: it\nworkspace: {folder / 'w'}\ncorpus: {{inputs: [{{path: {folder / 'corpus.jsonl'}}}]}}\n"
        f"shards: {{validation_fraction: 0.2}}\ncluster: {{ray: {{jobs_address: '{cluster.jobs_address}'}}}}\n"
    )
    plan = {planned.stage.name: planned for planned in make_plan(resolve_paths(load_recipe(path)))}
    for stage, given in inputs.items():
        output = plan[stage].output
        output.parent.mkdir(parents=True)
        output.symlink_to(given)
    return path, plan["shards"].output


def test_a_node_killed_in_the_middle_changes_no_byte(
    cluster: RayCluster, inputs: dict[str, Path], at_home: tuple[FileEntry, ...], tmp_path: Path
) -> None:
    output = tmp_path / "shards" / "it"
    submitter = start(cluster, output, inputs)

    def in_the_middle() -> bool:
        assert submitter.poll() is None, submitter.communicate()
        try:
            progress = json.loads((output / "progress.json").read_text())
        except FileNotFoundError:
            return False
        return progress["unit"] == "documents" and progress["done"] > 0

    wait_until(in_the_middle, seconds=STEP_SECONDS)
    done = json.loads((output / "progress.json").read_text())
    cluster.kill_node()
    assert submitter.poll() is None, "the job ended before its node"
    assert done["done"] < done["total"]
    end(submitter)
    assert made(output) == at_home
    assert statuses(cluster, output) == [("", "SUCCEEDED")]
    cluster.start_node()
    cluster.wait_until_ready()


def test_without_the_right_token_nobody_gets_in(cluster: RayCluster, inputs: dict[str, Path], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    output = tmp_path / "shards" / "it"
    said = end(start(cluster, output, inputs, RAY_AUTH_MODE="disabled"), 2)
    assert "wants a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH" in said
    said += end(start(cluster, output, inputs, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(wrong)), 2)
    assert f"refuses the token of {wrong}; take the one that the cluster was started with" in said
    said += end(start(cluster, output, inputs, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="1" * 64), 2)
    assert "refuses the token of RAY_AUTH_TOKEN;" in said
    assert "Traceback" not in said
    assert "0" * 64 not in said
    assert "1" * 64 not in said
    assert json.loads((output / "error.json").read_text())["kind"] == "user"
    assert statuses(cluster, output) == []


def test_the_doctor_and_a_run_say_so_before_anything_starts(
    cluster: RayCluster, inputs: dict[str, Path], tmp_path: Path
) -> None:
    recipe, output = a_recipe(cluster, inputs, tmp_path)
    gptmill = [sys.executable, "-m", "pipelines"]
    said = end(spawn([*gptmill, "doctor", str(recipe)], {}), 2)
    assert re.search(rf"^BAD +ray jobs +cluster.ray.jobs_address={cluster.jobs_address}: wants a token", said, re.M)
    said = end(spawn([*gptmill, "run", str(recipe), "--only", "shards"], {}), 2)
    assert f"error: cluster.ray.jobs_address={cluster.jobs_address}: wants a token" in said
    assert not output.exists()


def test_a_job_that_fails_brings_its_own_error_and_makes_way(
    cluster: RayCluster, inputs: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "tokenizer").mkdir()
    without = {**inputs, "tokenizer": write_output(tmp_path / "tokenizer", "tokenizer").root}
    output = tmp_path / "shards" / "it"
    said = end(start(cluster, output, without), 3)
    assert "error: " in said
    assert "the manifest lists no tokenizer.json" in said
    assert json.loads((output / "error.json").read_text())["kind"] == "stage"

    (output / "recipe.json").write_text('{"name": 1}')
    said = end(start(cluster, output, inputs), 2)
    assert "recipe.json: 1 problem(s)" in said
    assert json.loads((output / "error.json").read_text())["kind"] == "user"
    assert statuses(cluster, output) == [("", "FAILED")]

    prepare(output, jobs_address=cluster.jobs_address)
    end(start(cluster, output, inputs))
    assert statuses(cluster, output) == [("", "FAILED"), ("-2", "SUCCEEDED")]


def test_a_command_that_tells_no_error_is_told_by_its_job(cluster: RayCluster, tmp_path: Path) -> None:
    failing, ending = tmp_path / "it" / "failing", tmp_path / "it" / "ending"
    both = (
        follower(cluster, failing, "--", "sh", "-c", "exit 3"),
        follower(cluster, ending, "--", "echo", "a  b", "$HOME"),
    )
    said, name = end(both[0], 3), submission_id(failing)
    assert f"error: the job {name} failed: Job entrypoint command failed with exit code 3\n" in said
    said, name = end(both[1], 3), submission_id(ending)
    assert "\na  b $HOME\n" in said
    assert f"error: the job {name} ended well, but without a manifest: it has failed\n" in said
    again = follower(cluster, ending, "--", "true")  # Ray's word counts for nothing
    assert f"submitted the ray job {name}-2\n" in end(again, 3)


def test_with_an_archive_the_job_runs_under_the_python_that_ray_was_started_with(
    cluster: RayCluster, tmp_path: Path
) -> None:
    output = tmp_path / "it" / "packed"
    prepare(output, jobs_address=cluster.jobs_address)
    recipe = json.loads((output / "recipe.json").read_text())
    recipe["cluster"]["archive"] = "gptmill.tar.gz"
    (output / "recipe.json").write_text(json.dumps(recipe))
    end(follower(cluster, output, "--", sys.executable, "-c", "print('it ran')"), 3)
    (job,) = jobs_of(cluster, submission_id(output))
    assert job["entrypoint"].startswith("python -c ")  # the first on the PATH of the nodes
    assert "PYTHONPATH" not in job["runtime_env"]["env_vars"]


def test_a_cluster_that_forgot_the_job_or_is_gone_is_told(cluster: RayCluster, tmp_path: Path) -> None:
    """Takes the cluster down."""
    target = f"open_target('ray', Cluster(ray=RayCluster(jobs_address={cluster.jobs_address!r})))"
    ask = f"""
from gpt_core.recipe import Cluster, RayCluster
from jobs.launch.target import open_target
target = {target}
print(target.latest("gone"), target.look("gone").state, target.pass_on("gone", None))
"""
    assert end(spawn([sys.executable, "-c", ask], cluster.environment)) == "None lost None\n"

    output = tmp_path / "it" / "sleeping"
    prepare(output, jobs_address=cluster.jobs_address)
    options = ["--target", "ray", "--output", str(output), "--", "sleep", "600"]
    submit = "import sys, jobs.launch.follow as it; it.PATIENCE_SECONDS = 1; it.main(sys.argv[1:])"
    submitter = spawn([sys.executable, "-c", submit, *options], cluster.environment)
    wait_until(lambda: statuses(cluster, output) == [("", "RUNNING")], seconds=STEP_SECONDS)
    require_no_token(cluster, *(path for path in cluster.folder.iterdir() if path.is_dir()))
    started = time.monotonic()
    cluster.stop()
    assert f"the job {submission_id(output)} may go on: run again to attach to it" in end(submitter, 3)
    assert time.monotonic() - started < 30
