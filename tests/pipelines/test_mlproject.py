"""MLproject's entry points, and what `mlflow run` makes of its parameters."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gpt_core.errors import InputError
from pipelines.gpt import STAGES
from pipelines.mlproject import command_line

ROOT = Path(__file__).parents[2]
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())


def test_undeclared_parameters_are_fields_of_the_recipe_and_options_stay_options() -> None:
    arguments = [
        "r.yaml",
        "--only",
        "clean",
        "--pretrain.tokens",
        "3_000_000",
        "--set",
        "a.b=[1, 2]",
        "--workspace",
        "w",
    ]
    assert command_line(arguments) == [
        "run", "r.yaml", "--only", "clean", "--set", "pretrain.tokens=3_000_000", "--set", "a.b=[1, 2]",
        "--set", "workspace=w",
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", [[], [""], ["r.yaml", "--only"], ["r.yaml", "pretrain.tokens", "3"]])
def test_what_mlflow_would_never_append_is_refused(arguments: list[str]) -> None:
    with pytest.raises(InputError, match=r"give RECIPE \[--name value\]"):
        command_line(arguments)


def test_main_and_every_stage_are_entry_points_that_take_a_recipe() -> None:
    commands = {name: entry["command"] for name, entry in PROJECT["entry_points"].items()}
    main = commands.pop("main")
    assert commands == {stage.name: f"{main} --only {stage.name}" for stage in STAGES}
    defaults = {entry["parameters"]["recipe"]["default"] for entry in PROJECT["entry_points"].values()}
    assert defaults == {"recipes/demo.yaml"}
    assert (ROOT / defaults.pop()).exists()


@pytest.mark.mlflow
def test_mlflow_run_hands_its_parameters_to_the_recipe(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "MLFLOW_TRACKING_URI": store,
    }
    parameters = ["-P", f"workspace={tmp_path}", "-P", "clean.languages=[en, fr]", "-P", "pretrain.token=3_000_000"]
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager", "local", *parameters]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        "error: recipes/demo.yaml: 1 problem(s)\n  pretrain.token: unknown field; did you mean 'tokens'?" in done.stderr
    )
    assert shlex.join(["--clean.languages", "[en, fr]"]) in done.stderr
