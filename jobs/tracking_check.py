"""Will MLflow's store take what a run gives it? Asked before anything starts, so that no training is made for nothing.

Asked by doing it, with the account that the run will use: a tag of the experiment and a file among its artifacts are
written and deleted, no run is made. An account that may write and not delete leaves the file: 33 bytes, always the
same.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt_core.errors import SetupError, UserError
from gpt_core.recipe import Recipe
from gpt_core.store_uri import tracking_uri_problem, without_secrets
from jobs.environment import environment
from jobs.metric_queue import reason_of
from jobs.tracking import (
    CHAMPION,
    IMPATIENCE,
    RETRIES,
    SERVERS,
    TRACKING_URI,
    find_experiment,
    open_store,
    registered_language_model,
    registered_model,
    tracking_uri,
)

SQLITE_FILE = "sqlite:///"
USERNAME, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"


def check_tracking(recipe: Recipe) -> None:
    """The store answers and lets us in, takes runs and artifacts in the recipe's experiment, and versions of its model.

    Makes the workspace's own store (two seconds, once). Raises UserError with the URI, without its secrets, what it
    answered and the way out; at a server that is away at once, not after MLflow's four minutes of trying.
    """
    _check_alias(recipe.tracking.alias)
    uri, experiment = tracking_uri(recipe), recipe.tracking.experiment
    problem = tracking_uri_problem(uri, in_recipe=False)
    if problem is not None:
        raise UserError(f"{TRACKING_URI} in the environment {problem}")
    with environment(IMPATIENCE):
        with worded(recipe), _one_maker(uri):
            store = open_store(recipe)
            experiment_id = find_experiment(recipe, store)
        ask = f"let its owner grant {_account()} EDIT, or name another"
        with worded(recipe, field="tracking.experiment", act=f"write runs in {experiment!r}", way_out=ask):
            store.try_runs(experiment_id)
        location = store.artifact_location(experiment_id)
        once = environment({RETRIES: "0"})  # a server that failed to write closes: its first answer says more
        act = f"write artifacts to {without_secrets(location)}"
        with worded(recipe, act=act, way_out=_artifacts_need(location)), once:
            store.try_artifacts(location)
        for field, name in _registered_names(recipe) if uri.startswith(SERVERS) else ():  # a database lets everybody
            with worded(recipe, field=field, act=f"register {name!r}", way_out=ask):
                store.try_registration(name)


@contextmanager
def _one_maker(uri: str) -> Iterator[None]:
    """Of runs that begin at the same moment, one makes the database file: two would fail in each other's migrations."""
    if not uri.startswith(SQLITE_FILE):
        yield
        return
    path = Path(uri.removeprefix(SQLITE_FILE))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _registered_names(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(field, name) of each model that the recipe registers."""
    if recipe.finetune is not None:
        yield "tracking.registered_model", registered_model(recipe)
    if recipe.corpus is not None:
        yield "tracking.registered_language_model", registered_language_model(recipe)


def _check_alias(alias: str) -> None:
    if not re.fullmatch(r"[\w-]+", alias) or re.fullmatch(r"[vV]\d+|latest", alias):
        raise UserError(
            f"tracking.alias: {alias!r} is no alias for MLflow; use letters, digits, - and _, not v9 or latest"
        )
    if alias == CHAMPION:
        raise UserError(f"tracking.alias: {alias!r} is the best version's, which gptmill finds; name another")


def _artifacts_need(location: str) -> str:
    if location.startswith("mlflow-artifacts:"):
        return "the folder or bucket of its --artifacts-destination needs room and must let it write"
    return (
        "make room and let this machine write there, or let the server pass artifacts on, in a new experiment: "
        "mlflow server --serve-artifacts --artifacts-destination"
    )


def _account() -> str:
    """Who we are to the server: a name, never what proves it."""
    return os.environ.get(USERNAME) or ("the token's owner" if os.environ.get(TOKEN) else "us")


@contextmanager
def worded(recipe: Recipe, *, field: str = "", act: str = "", way_out: str = "") -> Iterator[None]:
    """Any failure inside becomes a SetupError: of which field, which store, what it answered, and the way out."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        from jobs.mlflow_store import http_status  # mlflow, which has failed just now

        given = TRACKING_URI if os.environ.get(TRACKING_URI) else "workspace"
        given = field or (given if recipe.tracking.uri is None else "tracking.uri")
        status = http_status(error)
        if status == 401:
            way_out = f"set {USERNAME} and {PASSWORD}, or {TOKEN}, in the environment to an account that it knows"
        elif isinstance(error, ImportError):
            way_out = "install its database's driver here, such as psycopg[binary]"
        elif status == 403 and not way_out:
            way_out = f"let its administrator grant {_account()} what a run needs, or correct tracking.experiment"
        elif not way_out:
            way_out = (
                f"start it, correct {given}, or leave tracking.uri and {TRACKING_URI} out to record in the workspace"
            )
        refusals = {401: f"does not let {_account()} in", 403: f"forbids {_account()} to {act or 'use it'}"}
        answer = refusals.get(status or 0) or (f"does not let {_account()} {act}" if act else "cannot be used")
        store = f"MLflow's store {without_secrets(tracking_uri(recipe))}"
        raise SetupError(f"{given}: {store} {answer}: {reason_of(error)}; {way_out}") from error
