"""What a real MLflow server with accounts lets us do, asked before a run; and what it takes in the end.

One server for all tests: `owner` made the experiment `shared`, in which `writer` may write and `reader` read, and the
registered model `owned-classifier`, which both may read.
"""

import dataclasses
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow_server import ADMIN, MlflowServer
from planted_secrets import EVERY, holders
from tracked_runs import VARIABLES, history, identity_of, make_output, recipe_in

from gpt_core.errors import SetupError
from gpt_core.fingerprint import Json
from jobs.pipeline_run import open_pipeline_run
from jobs.tracking import IMPATIENCE
from jobs.tracking_check import PASSWORD, TOKEN, USERNAME, check_tracking
from tiny_project import environment

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.mlflow
ACCOUNTS = ("owner", "writer", "reader")


def password_of(name: str) -> str:
    return f"{EVERY}password-of-{name}"


@dataclasses.dataclass(frozen=True)
class Shared:
    server: MlflowServer
    experiment_id: str


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    with pytest.MonkeyPatch.context() as environment:
        for name in (*VARIABLES, TOKEN):
            environment.delenv(name, raising=False)
        with MlflowServer(tmp_path_factory.mktemp("server"), admin_password=password_of(ADMIN)) as server:
            log_in(environment, ADMIN)
            from mlflow import MlflowClient
            from mlflow.server.auth.client import AuthServiceClient

            accounts = AuthServiceClient(server.uri)
            for name in ACCOUNTS:
                accounts.create_user(name, password_of(name))
            log_in(environment, "owner")
            client = MlflowClient(server.uri)
            experiment_id = client.create_experiment("shared")
            client.create_registered_model("owned-classifier")
            accounts.grant_user_permission("writer", "experiment", experiment_id, "EDIT")
            yield Shared(server, experiment_id)


def log_in(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(USERNAME, name)
    environment.setenv(PASSWORD, password_of(name))


@pytest.fixture(autouse=True)
def _no_tracking_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, USERNAME, PASSWORD, TOKEN):
        monkeypatch.delenv(name, raising=False)


def client_of(shared: Shared) -> "MlflowClient":
    from mlflow import MlflowClient

    return MlflowClient(shared.server.uri)


def test_nothing_stays_of_the_check_but_a_file_where_the_account_may_not_delete(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_in(tmp_path, uri=shared.server.uri, experiment="shared")
    kept = shared.server.artifacts / shared.experiment_id
    for name, left in (("writer", ["gptmill.probe"]), ("owner", [])):
        log_in(monkeypatch, name)
        check_tracking(recipe)
        assert [path.name for path in kept.rglob("*") if path.is_file()] == left
    client = client_of(shared)
    assert client.get_experiment(shared.experiment_id).tags == {}
    assert client.search_runs([shared.experiment_id]) == []
    assert [model.name for model in client.search_registered_models()] == ["owned-classifier"]
    assert not list(tmp_path.iterdir())
    owned = recipe_in(tmp_path, uri=shared.server.uri, experiment="shared", registered_model="owned-classifier")
    check_tracking(owned)
    assert client.get_registered_model("owned-classifier").tags == {}


LOGS_IN = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment"


@pytest.mark.parametrize(
    ("account", "tracking", "expected"),
    [
        ("nobody", {}, rf"^tracking\.uri: .* does not let nobody in: 401 You are not authenticated.*; {LOGS_IN}"),
        ("", {}, rf"^tracking\.uri: .* does not let us in: 401 You are not authenticated.*; {LOGS_IN}"),
        (
            "reader",
            {},
            r"^tracking\.experiment: .* forbids reader to write runs in 'shared': 403 .*; let its owner grant reader",
        ),
        (
            "writer",
            {"registered_model": "owned-classifier"},
            r"^tracking\.registered_model: .* forbids writer to register 'owned-classifier': 403 .*, or name another",
        ),
        (
            "writer",
            {"uri": "http://no-such-host.invalid:5000"},
            r"^tracking\.uri: .*invalid:5000 cannot be used: [a-z ]*name (or|res)[a-z ]*; start it, correct tracking\.",
        ),
    ],
)
def test_what_a_server_does_not_let_us_do_is_said_with_the_way_out(
    shared: Shared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    account: str,
    tracking: dict[str, Json],
    expected: str,
) -> None:
    if account:
        log_in(monkeypatch, account)
    recipe = recipe_in(tmp_path, **{"uri": shared.server.uri, "experiment": "shared", **tracking})
    with pytest.raises(SetupError, match=expected) as refusal:
        check_tracking(recipe)
    assert EVERY not in str(refusal.value)


def test_artifacts_that_cannot_be_written_are_refused_with_the_place(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch, "owner")
    elsewhere = "file:///dev/null/artifacts"  # as of a server that passes no artifacts on, on a disk that is not here
    if client_of(shared).get_experiment_by_name("elsewhere") is None:
        client_of(shared).create_experiment("elsewhere", artifact_location=elsewhere)
    with pytest.raises(
        SetupError, match=f"let owner write artifacts to {elsewhere}: not a directory.*; make room and let"
    ):
        check_tracking(recipe_in(tmp_path, uri=shared.server.uri, experiment="elsewhere"))
    artifacts, away = shared.server.artifacts, shared.server.folder / "away"
    artifacts.rename(away)
    artifacts.touch()  # the server fails to write, as on a full disk
    try:
        expected = (
            r"let owner write artifacts to mlflow-artifacts:/\d+: 500 of the server, whose log says why; the folder"
        )
        with pytest.raises(SetupError, match=expected):
            check_tracking(recipe_in(tmp_path, uri=shared.server.uri, experiment="shared"))
    finally:
        artifacts.unlink()
        away.rename(artifacts)


def test_a_server_takes_all_that_a_run_has_within_its_limits_and_says_nothing_on_the_terminal(
    shared: Shared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    log_in(monkeypatch, "writer")
    for name, value in IMPATIENCE.items():
        monkeypatch.setenv(name, value)
    recipe = recipe_in(tmp_path, uri=shared.server.uri, experiment="\u044f\u0437\u044b\u043a \u8a00\u8a9e")
    run = open_pipeline_run(
        recipe, command=["gptmill", "x" * 9_000, "http://me:planted-password@host/x?key=planted-key"]
    )
    decisions: dict[str, Json] = {f"C++/C# {n} \u8a9e": "\u8a9e" * 7_000 if n < 5 else n for n in range(250)}
    identity = {**identity_of("pretrain"), "recipe": {"class_weights": decisions}}
    stage = run.start_stage("pretrain", identity=identity, inputs={}, command=["\u8a9e" * 9_000])
    assert stage is not None
    names = ("loss", "loss.//news/\u8a9e?")
    points = [{"step": n, "unix_ms": 1_700_000_000_000 + n, **dict.fromkeys(names, 1.0 / n)} for n in range(1, 2_502)]
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points), encoding="utf-8")
    run.store.log_metrics(stage, {"loss": 9.0}, step=7)  # what the job had sent
    run.finish_stage(stage, make_output(tmp_path, "pretrain", {}, written=["steps.jsonl"]))
    run.finish("FINISHED")
    assert not run.missed
    assert history(run.store, stage, "loss") == [(n, 9.0 if n == 7 else 1.0 / n) for n in range(1, 2_502)]
    assert len(history(run.store, stage, "loss./news/\u8a9e_")) == 2_501
    stored = run.store.client.get_run(stage).data
    assert len([key for key in stored.params if key.startswith("class_weights.C__/C_ ")]) == 250
    assert len(stored.params["class_weights.C__/C_ 0 \u8a9e"]) == 6_000
    assert stored.tags["gptmill.command"] == "..." + "\u8a9e" * 7_996 + "'"
    told = run.store.client.get_run(run.run_id).data.tags["gptmill.command"]
    assert len(told) == 8_000
    assert told.endswith("xxx 'http://***@host/x?***'")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    shared.server.kill()
    run.finish("FINISHED")
    shared.server.start()
    assert {record.name for record in caplog.records if record.levelno >= logging.WARNING} == {"gptmill"}
    assert capfd.readouterr() == ("", "")  # but what the logger of gptmill says


@pytest.mark.parametrize(("verb", "sign"), [("run", "error: "), ("doctor", "BAD tracking ")])
def test_a_wrong_password_ends_run_and_doctor_with_2_before_anything_starts(
    shared: Shared, tmp_path: Path, verb: str, sign: str
) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    recipe = {
        "name": "tiny",
        "workspace": "workspace",
        "corpus": {"inputs": [{"path": "corpus.jsonl"}]},
        "tracking": {"uri": shared.server.uri},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    variables = {**environment(), USERNAME: "writer", PASSWORD: f"{EVERY}wrong"}
    command = [sys.executable, "-m", "pipelines", verb, "recipe.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith(("error", "BAD"))]
    told = f"{sign}tracking.uri: MLflow's store {shared.server.uri} does not let writer in: 401 "
    assert " ".join(line.split()).startswith(told)
    assert EVERY not in done.stdout + done.stderr
    assert not holders(tmp_path)
