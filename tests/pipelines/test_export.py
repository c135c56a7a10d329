"""Files for schedulers: what stands in them is the recipe, whatever its names and values; and they are readable."""

import ast
import shlex
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from gpt_core.recipe_file import load_recipe
from pipelines.airflow import render_airflow
from pipelines.cli import app
from pipelines.dagster import render_dagster
from pipelines.export import Export
from tiny_project import ROOT

DEMO = ROOT / "recipes" / "demo.yaml"
HOSTILE = 'a"""; import os; os._exit(3) #\\\n{{ 7 * 7 }} $(reboot) \U0001f600 \x00.yaml'
STAGES = {
    "clean": [],
    "dedup": ["clean"],
    "tokenizer": ["dedup"],
    "shards": ["dedup", "tokenizer"],
    "pretrain": ["shards", "tokenizer"],
    "finetune": ["pretrain"],
    "evaluate": ["shards", "pretrain", "finetune"],
}


def airflow(export: Export) -> str:
    return render_airflow(export, start=date(2026, 3, 4))


RENDERERS = pytest.mark.parametrize("render", [airflow, render_dagster])


def demo_export(text: str = "tame", *, overrides: tuple[str, ...] = ()) -> Export:
    return Export(
        recipe=load_recipe(DEMO, overrides),
        path=Path(text),
        overrides=[f"evaluate.prompts=[{text}]"],
        gptmill=text,
        folder=Path("/", text),
        parameters={"evaluate.prompts": [text, 1e-3, True]},
        schedule=text,
        command=["gptmill", text],
    )


def constants_of(source: str) -> dict[str, Any]:
    """What the names at the head of the file are assigned, without running it."""
    values = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return values


@RENDERERS
def test_whatever_a_value_holds_it_stays_a_value(render: Callable[[Export], str]) -> None:
    source = render(demo_export(HOSTILE))
    assert source.isascii()
    told = constants_of(source)
    assert (told["RECIPE"], told["GPTMILL"], told["SCHEDULE"]) == (HOSTILE, HOSTILE, HOSTILE)
    assert told["FOLDER"] == str(Path("/", HOSTILE))
    assert told["SETTINGS"] == ["--set", f"evaluate.prompts=[{HOSTILE}]"]
    tame = ast.parse(render(demo_export()))
    assert [type(node) for node in ast.parse(source).body] == [type(node) for node in tame.body]
    docstring = ast.get_docstring(ast.parse(source))
    assert docstring is not None
    assert shlex.join(["gptmill", HOSTILE]) in docstring


def test_fields_to_trigger_with_stand_there_as_they_are() -> None:
    assert constants_of(airflow(demo_export(HOSTILE)))["PARAMETERS"] == {"evaluate.prompts": [HOSTILE, 1e-3, True]}


@RENDERERS
def test_each_stage_follows_those_that_it_reads(render: Callable[[Export], str]) -> None:
    assert constants_of(render(demo_export()))["STAGES"] == STAGES
    without = constants_of(render(demo_export(overrides=("finetune=null",))))["STAGES"]
    assert without == {k: [n for n in v if n != "finetune"] for k, v in STAGES.items() if k != "finetune"}


@RENDERERS
def test_the_file_is_formatted_and_names_no_module_of_gptmill(render: Callable[[Export], str]) -> None:
    source = render(demo_export())
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "120", "--check", "-"]
    assert subprocess.run(command, input=source, text=True, capture_output=True).returncode == 0
    named = {
        name
        for node in ast.walk(ast.parse(source))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not {name for name in named if name and name.split(".")[0] in ("gpt_core", "jobs", "pipelines")}


def test_the_command_line_writes_the_dag_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = ["export", "airflow", "recipes/demo.yaml", "--set", "pretrain.tokens=2000000"]
    done = CliRunner().invoke(
        app, [*words, "--param", "pretrain.tokens", "--start", "2026-03-04", "--schedule", "@daily"]
    )
    assert done.exit_code == 0, done.output
    assert "START = datetime(2026, 3, 4, tzinfo=timezone.utc)\n" in done.output
    told = constants_of(done.output)
    assert (told["NAME"], told["RECIPE"], told["FOLDER"]) == ("demo", "recipes/demo.yaml", str(ROOT))
    assert told["SETTINGS"] == ["--set", "pretrain.tokens=2000000"]
    assert told["PARAMETERS"] == {"pretrain.tokens": 2_000_000}
    assert Path(told["GPTMILL"]).name == "gptmill"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "pretrain.token=1"], "did you mean 'tokens'?"),
        (["--param", "pretrain.token"], "pretrain.token has no value in the recipe; name a field that has one"),
        (["--param", "pretrain"], "pretrain has no value"),
    ],
)
def test_what_the_recipe_refuses_is_not_written(words: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["export", "airflow", str(DEMO), *words])
    assert done.stdout == ""
    assert message in str(done.exception)


def test_skypilot_gets_the_recipe_below_the_folder_that_it_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    recipe = tmp_path / "recipes" / "demo.yaml"
    claimed = "workspace: /data/workspace\ncluster:\n  kubernetes: {claim: corpus}\n"
    recipe.write_text(DEMO.read_text().replace("cluster:\n", claimed, 1))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["export", "skypilot", str(recipe), "--accelerators", "H100:8"])
    assert done.exit_code == 0, done.output
    task = yaml.safe_load(done.stdout)
    assert task["envs"]["GPTMILL_RECIPE"] == "recipes/demo.yaml"
    assert task["resources"]["accelerators"] == "H100:8"
    monkeypatch.chdir(tmp_path / "recipes")
    done = CliRunner().invoke(app, ["export", "skypilot", str(DEMO)])
    assert "SkyPilot copies the working folder" in str(done.exception)
