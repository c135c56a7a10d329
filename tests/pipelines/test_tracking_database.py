"""A PostgreSQL database as MLflow's store: its password comes from the environment and stays there."""

import shutil
import subprocess
from pathlib import Path

import pytest
from planted_secrets import EVERY, SECRETS, holders
from postgres_server import PostgresServer
from tracked_runs import VARIABLES, recipe_in

from gpt_core.errors import SetupError
from jobs.pipeline_run import open_pipeline_run
from jobs.tracking import TRACKING_URI
from jobs.tracking_check import check_tracking
from tiny_project import Project, environment


@pytest.mark.mlflow
@pytest.mark.pipeline
def test_a_databases_password_is_used_and_neither_shown_nor_stored(
    project: Project, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = tmp_path / "workspace"
    for name in ("clean", "dedup", "tokenizer", "shards"):
        shutil.copytree(whole / name, workspace / name)
    with PostgresServer(f"{EVERY}database/p@ss word") as database:
        command = project.command("run", workspace, "--until", "pretrain", "--set", "pretrain.tokens=5120")
        variables = {**environment(), **SECRETS, TRACKING_URI: database.uri}
        done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"' in done.stdout
        losses, runs, everything = database.ask(
            "select count(distinct step) from metrics where key = 'train_loss'",
            "select string_agg(name, ' ' order by start_time) from runs where status = 'FINISHED'",
            "select string_agg(query_to_xml('select * from ' || table_name, true, false, '')::text, '') "
            "from information_schema.tables where table_schema = 'public'",
        )
        assert (losses, runs) == (10, "tiny pretrain")
        assert "gptmill.command" in str(everything)
        assert EVERY not in f"{everything}{done.stdout}"

        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        recipe, unrecorded = recipe_in(tmp_path / "other"), tmp_path / "unrecorded.json"
        monkeypatch.setenv(TRACKING_URI, database.uri.replace(EVERY, f"{EVERY}wrong"))
        with pytest.raises(
            SetupError, match=r"\*\*\*@127.* cannot be used: .* password authentication failed"
        ) as refusal:
            check_tracking(recipe)
        monkeypatch.setenv(TRACKING_URI, database.uri)
        run = open_pipeline_run(recipe, command=["--set", f"tracking.uri={database.uri}"], unrecorded=unrecorded)
    run.finish("FINISHED")
    assert "unrecorded.json names what was not recorded" in caplog.text
    assert {record.name for record in caplog.records if record.levelname != "INFO"} == {"gptmill"}
    assert unrecorded.exists()
    assert EVERY not in f"{refusal.value}{caplog.text}"
    assert not holders(tmp_path)
