"""`mlflow run PROJECT --backend gptmill --backend-config cluster.json`: the stages run where that file says.

cluster.json is a recipe's section `cluster`, whole or in part, laid over the recipe's own; what `-P` says goes over
both. Parameters and entry points are those of MLproject. No environment is made: the runner is a process of this one's,
on this machine, which submits the stages and follows them. Started by the command line, which waits for MLflow's own
backends alone, it goes on by itself and logs to a file; `mlflow.projects.run(synchronous=True)` waits.

This module is that runner too: `python -m pipelines.mlflow_backend run RECIPE ...` is `gptmill run RECIPE ...`, and
MLflow's run ends with it also where it failed before it had taken that over.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import click
import mlflow
from mlflow.entities import RunStatus
from mlflow.projects import SubmittedRun
from mlflow.projects import utils as projects
from mlflow.projects.backend.abstract_backend import AbstractBackend

from gpt_core.errors import PreemptedError, RecipeError, UserError
from gpt_core.fingerprint import Json
from gpt_core.recipe_file import load_recipe
from gpt_core.store_uri import without_secrets
from jobs.tracking import PARENT_RUN_ID
from pipelines import cli
from pipelines.mlproject import command_line
from pipelines.plan import RUNS

MAIN = "main"  # MLproject's entry point for all stages; the others are named as theirs
ORIGIN = "--backend-config"
LOG = "mlflow-run.log"  # beside the links to the recipe's outputs
OF_MLFLOW = (  # what MLflow adds to a backend's settings
    projects.PROJECT_ENV_MANAGER,
    projects.PROJECT_SYNCHRONOUS,
    projects.PROJECT_DOCKER_ARGS,
    projects.PROJECT_STORAGE_DIR,
    projects.PROJECT_BUILD_IMAGE,
    projects.PROJECT_DOCKER_AUTH,
)

logger = logging.getLogger("mlflow.projects.gptmill")  # MLflow's command line shows what is logged below its name


class RefusedError(UserError, click.ClickException):
    """What `mlflow run` was asked for is refused: its command line shows the words alone, and exits 2."""


class GptmillRun(SubmittedRun):
    """The runner of a recipe, and MLflow's run that it records in."""

    def __init__(self, run_id: str, runner: "subprocess.Popen[bytes]", cancel: Sequence[str], folder: str) -> None:
        self._run_id, self._runner, self._cancel, self._folder = run_id, runner, cancel, folder

    @property
    def run_id(self) -> str:
        """MLflow's."""
        return self._run_id

    def wait(self) -> bool:
        """The runner has ended. Returns whether all that was asked for is made."""
        return self._runner.wait() == 0

    def get_status(self) -> str:
        """The runner's state in MLflow's words."""
        code = self._runner.poll()
        if code is None:
            return str(RunStatus.to_string(RunStatus.RUNNING))
        if code in (PreemptedError.exit_code, -signal.SIGTERM, -signal.SIGKILL):
            return str(RunStatus.to_string(RunStatus.KILLED))
        return str(RunStatus.to_string(RunStatus.FAILED if code else RunStatus.FINISHED))

    def cancel(self) -> None:
        """The runner has ended, its stage with its work kept, and no job of the recipe is left on a cluster."""
        if self._runner.poll() is None:
            with suppress(ProcessLookupError):
                self._runner.terminate()
            self._runner.wait()
            subprocess.run(self._cancel, cwd=self._folder, check=False)


class GptmillBackend(AbstractBackend):
    """MLflow's plugin; pyproject.toml names it."""

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, str],
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,  # noqa: ARG002  the signature is MLflow's, which has set it for this process
        experiment_id: str,
    ) -> GptmillRun:
        """The runner has started. Raises RefusedError before there is a run of MLflow for what is refused."""
        folder = str(projects.fetch_and_validate_project(project_uri, version, entry_point, params))
        entry = projects.load_project(folder).get_entry_point(entry_point)
        recipe = params.get("recipe") or entry.parameters["recipe"].default
        named = [word for name, value in params.items() if name != "recipe" for word in (f"--{name}", value)]
        try:
            require_no_environment(backend_config.get(projects.PROJECT_ENV_MANAGER))
            words = command_line([recipe, *named])
            settings = cluster_settings({k: v for k, v in backend_config.items() if k not in OF_MLFLOW})
            log = _check(Path(folder), recipe, settings, words)
        except UserError as error:
            raise RefusedError(without_secrets(str(error))) from None
        run = projects.get_or_create_run(None, project_uri, experiment_id, folder, version, entry_point, params)
        run_id = str(run.info.run_id)
        command = [*words[:2], *settings, *words[2:], *([] if entry_point == MAIN else ["--only", entry_point])]
        waits = bool(backend_config[projects.PROJECT_SYNCHRONOUS])
        runner = _start(command, folder, projects.get_run_env_vars(run_id, experiment_id), log=None if waits else log)
        if not waits:
            logger.info("=== Run (ID '%s') goes on by itself; it logs to %s ===", run_id, log)
        named_recipe = [*words[1:2], *settings, *_options(words, "--set")]
        return GptmillRun(run_id, runner, [sys.executable, "-m", "pipelines", "cancel", *named_recipe], folder)


def require_no_environment(manager: str | None) -> None:
    """`mlflow run` was not asked to make one. Raises UserError."""
    if manager not in (None, "local"):
        raise UserError(
            f"--env-manager {manager} is refused: the stages run in gptmill's environment, or in that of "
            "cluster.archive; leave it out"
        )


def cluster_settings(cluster: Mapping[str, Json]) -> list[str]:
    """`--set` for each field that cluster.json gives."""
    return [word for path, value in _leaves(cluster, "cluster") for word in ("--set", f"{path}={json.dumps(value)}")]


def _leaves(tree: Mapping[str, Json], path: str) -> Iterator[tuple[str, Json]]:
    for name, value in tree.items():
        if not name.isidentifier():
            raise RecipeError([f"{path}: {name!r} is no field's name"], origin=ORIGIN)
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}.{name}")
        else:
            yield f"{path}.{name}", value


def _check(folder: Path, recipe: str, settings: Sequence[str], words: Sequence[str]) -> Path:
    """Where the runner logs. Raises RecipeError that says whether the recipe is at fault, or the settings."""
    own = _options(words, "--set")[1::2]
    resolved = load_recipe(folder / recipe, own)
    try:
        load_recipe(folder / recipe, [*settings[1::2], *own])
    except RecipeError as error:
        raise RecipeError(error.problems, origin=ORIGIN) from None
    return folder / resolved.workspace / RUNS / resolved.name / LOG


def _options(words: Sequence[str], name: str) -> list[str]:
    """The pairs of `name` and a value in `run RECIPE [--option value]...`."""
    pairs = zip(words[2::2], words[3::2], strict=True)
    return [word for option, value in pairs if option == name for word in (option, value)]


def _start(
    command: Sequence[str], folder: str, additions: Mapping[str, str], *, log: Path | None
) -> "subprocess.Popen[bytes]":
    """The runner, in a session of its own; what it prints goes to `log`, or where this process prints."""
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with nullcontext() if log is None else log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.mlflow_backend", *command],
            cwd=folder,
            env={**os.environ, **additions},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT if stream else None,
            start_new_session=True,
        )


def main() -> None:
    """Run `gptmill`, and exit as it does; MLflow's run has ended by then."""
    try:
        cli.main()
    except SystemExit as ended:
        if ended.code:
            _end_run(os.environ[PARENT_RUN_ID])
        raise


def _end_run(run_id: str) -> None:
    """The run has failed, unless the runner has ended it."""
    client = mlflow.MlflowClient()
    if not RunStatus.is_terminated(RunStatus.from_string(client.get_run(run_id).info.status)):
        client.set_terminated(run_id, RunStatus.to_string(RunStatus.FAILED))


if __name__ == "__main__":
    main()
