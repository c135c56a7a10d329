"""The command line as a user meets it: examples, clear refusals, exit codes, and no engine where none is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from stage_output import write_output

from gpt_core.recipe_file import load_recipe
from pipelines.plan import make_plan, resolve_paths

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "recipes" / "demo.yaml"
COMMANDS = (
    "shards push",
    "export airflow",
    "export dagster",
    "export skypilot",
    "run",
    "sweep",
    "plan",
    "status",
    "logs",
    "cancel",
    "gc",
    "doctor",
    "generate",
    "lineage",
    "report",
    "schema",
)


def gptmill(*arguments: str, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    command = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.run(
        command, cwd=cwd, env={**environment, "COLUMNS": "200"}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_shows_an_example(command: str) -> None:
    done = gptmill(*command.split(), "--help")
    assert done.returncode == 0
    assert f"Example: gptmill {command}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", str(DEMO), "--set", "pretrain.learning_rat=1"], "did you mean 'learning_rate'?"),
        (["run", "none.yaml"], "none.yaml: 1 problem(s)\n  cannot be read: No such file or directory"),
        (["run", str(DEMO), "--set", "corpus.inputs=[{path: gone.jsonl}]"], "corpus.inputs.0.path: "),
        (["run", str(DEMO), "--set", "finetune.test=gone.jsonl"], "finetune.test: "),
        (["run", str(DEMO), "--set", "workspace=/proc/none"], "workspace: /proc/none: "),
        (["run", str(DEMO), "--set", "workspace=s3://bucket/x"], "s3:// is not there yet"),
        (["run", str(DEMO), "--only", "dedup", "--until", "dedup"], "exclude each other"),
        (["run", str(DEMO), "--only", "nothing"], "nothing is no stage of this recipe; it has clean, dedup"),
        (["plan", str(DEMO), "--until", "nothing"], "nothing is no stage of this recipe"),
        (["report", str(DEMO), "--set", "workspace={tmp}/w"], "no stage is made yet; start with: gptmill run"),
        (["generate", "/nowhere", "--prompt", "x"], "/nowhere"),
        (
            ["sweep", str(DEMO), "--set", "dedup.bands=16"],
            "--set: 1 problem(s)\n  no field has several values; list them",
        ),
        (["sweep", str(DEMO), "--set", "name=a,b", "--only", "x", "--until", "y"], "exclude each other"),
        (["lineage", "models:/demo"], "models:/demo: write it as models:/NAME@ALIAS or models:/NAME/VERSION"),
        (
            ["lineage", "{tmp}"],
            "no manifest.json there; give models:/NAME@ALIAS, an output folder or runs/RECIPE/STAGE",
        ),
        (["shards", "push", str(DEMO), "s3://a:b@c/d"], "URI: holds more than a bucket and a folder; leave out user:"),
        (["shards", "push", str(DEMO), "file:///x", "--set", "workspace={tmp}/w"], "the stage shards is not made yet"),
        (
            ["run", str(DEMO), "--set", "cluster.train.shards_from=s3://a:b@c/d"],
            "shards_from: holds more than a",
        ),
        (["run", str(DEMO), "--only", "dedup", "--set", "workspace={tmp}/w"], "its input clean is not made yet"),
        (["run", str(DEMO), "--set", "tracking.uri=https://me:planted@h"], "uri: holds more than a server's address"),
        (
            ["run", str(DEMO), "--set", "tracking.uri=[https://me:planted@h"],
            "tracking.uri=[https://***@h: 1 problem",
        ),
        (["run", str(DEMO), "--set", "finetune.test=s3://me:planted@h/x"], "finetune.test: 's3://***@h/x' is refused"),
        (["plan", str(DEMO), "--set", "cluster.ray.jobs_address=http://me:planted@h"], '"http://***@h" is refused'),
    ],
)
def test_what_a_user_did_wrong_is_said_and_exits_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = gptmill(*(argument.replace("{tmp}", str(tmp_path)) for argument in arguments))
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "planted" not in done.stdout + done.stderr
    assert done.returncode == 2


def test_push_copies_the_shards_tells_how_they_are_used_and_goes_on(tmp_path: Path) -> None:
    workspace = ["--set", f"workspace={tmp_path}/w"]
    rows = json.loads(gptmill("plan", str(DEMO), *workspace, "--json").stdout)
    (output,) = [Path(row["output"]) for row in rows if row["stage"] == "shards"]
    recipe = resolve_paths(load_recipe(DEMO, [f"workspace={tmp_path}/w"]))
    (shards,) = [planned for planned in make_plan(recipe) if planned.stage.name == "shards"]
    (output / "train").mkdir(parents=True)
    (output / "train" / "shard-00000.arrow").write_text("tokens")
    write_output(output, "shards", identity=shards.identity)

    uri = f"file://{tmp_path}/copies"
    done = gptmill("shards", "push", str(DEMO), uri, *workspace)
    assert done.returncode == 0, done.stderr
    assert "sent       1 files, 0.0 MB; 0 stood there" in done.stdout
    assert f"use it     --set cluster.train.shards_from={uri}" in done.stdout
    copied = tmp_path / "copies" / output.name
    assert (copied / "train" / "shard-00000.arrow").read_text() == "tokens"
    assert (copied / "manifest.json").read_bytes() == (output / "manifest.json").read_bytes()
    assert "sent       0 files, 0.0 MB; 1 stood there" in gptmill("shards", "push", str(DEMO), uri, *workspace).stdout


def test_a_refused_recipe_leaves_nothing_behind(tmp_path: Path) -> None:
    gptmill("run", str(DEMO), "--set", f"workspace={tmp_path}/w", "--set", "finetune.test=gone.jsonl")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.name != ".digests.json"] == []


def test_a_plan_names_every_path_and_command_before_anything_has_run(tmp_path: Path) -> None:
    done = gptmill("plan", str(DEMO), "--set", f"workspace={tmp_path}/w", "--json")
    rows = json.loads(done.stdout)
    assert [row["stage"] for row in rows] == [
        "clean",
        "dedup",
        "tokenizer",
        "shards",
        "pretrain",
        "finetune",
        "evaluate",
    ]
    assert {row["action"] for row in rows} == {"run"}
    for row in rows:
        assert Path(row["output"]).parent == tmp_path / "w" / row["stage"]
        assert row["output"] in row["command"]
    assert rows[1]["inputs"] == {"clean": rows[0]["output"]}
    assert "torch.distributed.run" in rows[4]["command"]
    assert list(tmp_path.iterdir()) == []


def test_planning_imports_no_engine() -> None:
    code = (
        "import sys; from pathlib import Path; from gpt_core.recipe_file import load_recipe\n"
        "import pipelines.cli; from pipelines.plan import make_plan, resolve_paths\n"
        f"make_plan(resolve_paths(load_recipe(Path({str(DEMO)!r}))))\n"
        "print([m for m in ('pyspark', 'ray', 'torch', 'deepspeed', 'mlflow', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_finetune_section_left_out_leaves_out_its_stage() -> None:
    done = gptmill("plan", str(DEMO), "--set", "finetune=null", "--json")
    rows = {row["stage"]: row for row in json.loads(done.stdout)}
    assert "finetune" not in rows
    assert list(rows["evaluate"]["inputs"]) == ["shards", "pretrain"]


def test_the_schema_is_json_and_knows_every_section() -> None:
    schema = json.loads(gptmill("schema").stdout)
    assert {"corpus", "clean", "pretrain", "cluster"} <= schema["properties"].keys()


def test_the_doctor_examines_the_machine() -> None:
    done = gptmill("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok   python" in done.stdout
    assert "ok   java" in done.stdout
