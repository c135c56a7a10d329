"""A model is traced back to every raw file, wherever what tells of it still stands; what is lost or changed is said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_workspace import make_outputs, write_project
from typer.testing import CliRunner

from gpt_core.artifact import Artifact
from gpt_core.errors import InputError, SetupError
from gpt_core.fingerprint import file_sha256
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import load_recipe
from jobs.pipeline_run import open_pipeline_run
from jobs.tracking import tracking_uri
from pipelines.cli import app
from pipelines.lineage import Lineage, Places, trace
from pipelines.lineage_check import check_files
from pipelines.lineage_cli import lineage_json

CHAIN = ["finetune", "pretrain", "shards", "dedup", "clean", "tokenizer"]
NO_STORE = "sqlite:////nowhere/mlflow.db"


@pytest.fixture(autouse=True)
def _no_tracking_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)


def look(subject: str, recipe: Recipe, *, uri: str = NO_STORE, verify: bool = False, given: bool = False) -> Lineage:
    found = trace(subject, Places([Path(recipe.workspace)], uri))
    check_files(found, recipe=recipe if given else None, verify=verify)
    return found


def stages(found: Lineage) -> list[str]:
    return [output.stage for output in found.outputs.values()]


@pytest.mark.parametrize("subject", ["runs/tiny/finetune", "{output}"])
def test_an_output_is_traced_to_every_earlier_one_and_every_raw_file(tmp_path: Path, subject: str) -> None:
    recipe, made = make_outputs(write_project(tmp_path))
    found = look(subject.format(output=made["finetune"].root), recipe)
    assert stages(found) == CHAIN
    assert {o.stage: o.fingerprint for o in found.outputs.values()} == {
        stage: made[stage].manifest.fingerprint for stage in CHAIN
    }
    read = {(r.role, r.name): r.sha256 for output in found.outputs.values() for r in output.raw_files}
    raw = {("corpus", "a.jsonl"), ("corpus", "b.jsonl"), ("train", "train.jsonl"), ("validation", "validation.jsonl")}
    assert raw <= read.keys()
    assert all(digest == file_sha256(tmp_path / name) for (_, name), digest in read.items())
    assert found.recipe == recipe
    assert found.problems == []


def test_a_workspace_that_moved_with_its_outputs_is_traced_within_itself(tmp_path: Path) -> None:
    recipe, made = make_outputs(write_project(tmp_path))
    moved = tmp_path / "moved"
    shutil.move(recipe.workspace, moved)
    found = trace(str(moved / "finetune" / made["finetune"].root.name), Places([tmp_path / "none"], NO_STORE))
    assert stages(found) == CHAIN
    assert {output.root and output.root.parents[1] for output in found.outputs.values()} == {moved}


def test_another_output_where_the_manifest_points_is_not_taken_for_it(tmp_path: Path) -> None:
    path = write_project(tmp_path)
    recipe, made = make_outputs(path)
    _, other = make_outputs(path, "dedup.min_jaccard=0.5", "name=other")
    shutil.rmtree(made["dedup"].root)
    shutil.copytree(other["dedup"].root, made["dedup"].root)
    found = look("runs/tiny/shards", recipe)
    (dedup,) = [output for output in found.outputs.values() if output.stage == "dedup"]
    assert (dedup.fingerprint, dedup.found) == (made["dedup"].manifest.fingerprint, "nowhere")
    assert f"dedup {dedup.fingerprint[:12]}: neither on this disk nor in MLflow" in "\n".join(found.problems)


def damage(made: dict[str, Artifact], folder: Path, what: str) -> Path:
    paths = {
        "output's byte": made["shards"].root / "train" / "shard-00000.arrow",
        "output's file": made["shards"].root / "train" / "shard-00000.arrow",
        "raw byte": folder / "a.jsonl",
        "raw file": folder / "train.jsonl",
    }
    path = paths[what]
    if what.endswith("byte"):
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    else:
        path.unlink()
    return path


@pytest.mark.parametrize(
    ("what", "at_a_glance", "said"),
    [
        ("output's byte", False, "the checksum differs from the manifest's"),
        ("output's file", True, "is missing, the manifest says 6"),
        ("raw byte", False, "is not what was read: its checksum differs"),
        ("raw file", True, "is gone"),
    ],
)
def test_a_changed_or_lost_file_is_named(tmp_path: Path, what: str, at_a_glance: bool, said: str) -> None:
    recipe, made = make_outputs(write_project(tmp_path))
    assert look("runs/tiny/finetune", recipe, verify=True).problems == []
    path = damage(made, tmp_path, what)
    assert look("runs/tiny/finetune", recipe, verify=True).problems == [f"{path}: {said}"]
    assert bool(look("runs/tiny/finetune", recipe).problems) == at_a_glance


def test_raw_files_that_moved_are_found_where_the_given_recipe_says(tmp_path: Path) -> None:
    make_outputs(write_project(tmp_path / "old"))
    (tmp_path / "new").mkdir()
    for name in ("a", "b", "train", "validation", "test"):
        shutil.move(tmp_path / "old" / f"{name}.jsonl", tmp_path / "new")
    assert look("runs/tiny/finetune", recipe_at(tmp_path / "old")).problems
    moved = recipe_at(tmp_path / "old", tmp_path / "new")
    assert look("runs/tiny/finetune", moved, verify=True, given=True).problems == []


def recipe_at(folder: Path, raw: Path | None = None) -> Recipe:
    text = (folder / "tiny.yaml").read_text()
    tree = text.replace(f"{folder}/", f"{raw or folder}/").replace(f"workspace: {raw}", f"workspace: {folder}")
    (folder / "now.yaml").write_text(tree)
    return load_recipe(folder / "now.yaml")


@pytest.mark.parametrize("subject", ["runs/tiny/none", "models:/tiny", "models:/tiny@no/alias", "models:/tiny/latest"])
def test_what_names_no_model_is_refused_with_the_way_out(tmp_path: Path, subject: str) -> None:
    recipe, _ = make_outputs(write_project(tmp_path))
    with pytest.raises(InputError, match=r"models:/NAME@ALIAS"):
        look(subject, recipe)


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    recipe, _ = make_outputs(write_project(tmp_path))
    uri = f"sqlite:///{tmp_path}/none.db"
    with pytest.raises(SetupError, match=r"none\.db is not there; name another with --recipe or --workspace"):
        look("models:/tiny@candidate", recipe, uri=uri)
    assert not (tmp_path / "none.db").exists()


# ----------------------------------------------------------------------------------------------- with MLflow


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> "Recorded":
    """A workspace whose stages are recorded and whose model is registered; each call gives the files anew."""
    folder = tmp_path_factory.mktemp("recorded")
    path = write_project(folder)
    recipe, made = make_outputs(path)
    run = open_pipeline_run(recipe)
    for stage, artifact in made.items():
        identity = dict(artifact.manifest.identity)
        inputs = {name: Path(root) for name, root in artifact.manifest.inputs.items()}
        run_id = run.start_stage(stage, identity=identity, inputs=inputs, command=[])
        run.finish_stage(run_id, artifact)
    run.finish("FINISHED")
    client = run.store.client
    source = client.get_run(run.run_id).info.artifact_uri
    client.log_artifacts(run.run_id, str(made["finetune"].root / "model"), "registered")
    client.create_registered_model("tiny")
    tags = {
        "gptmill.fingerprint": made["finetune"].manifest.fingerprint,
        "gptmill.output": str(made["finetune"].root),
    }
    client.create_model_version("tiny", f"{source}/registered", run.run_id, tags=tags)
    client.set_registered_model_alias("tiny", "champion", "1")
    shutil.copytree(recipe.workspace, folder / "copy", symlinks=True)

    def anew() -> tuple[Recipe, dict[str, Artifact], str]:
        for kept in [path for path in (folder / "copy").iterdir() if path.is_dir()]:  # the database stays open
            shutil.rmtree(Path(recipe.workspace) / kept.name)
            shutil.copytree(kept, Path(recipe.workspace) / kept.name, symlinks=True)
        return recipe, made, tracking_uri(recipe)

    return anew


Recorded = Callable[[], tuple[Recipe, dict[str, Artifact], str]]


@pytest.mark.mlflow
@pytest.mark.parametrize("subject", ["models:/tiny@champion", "models:/tiny/1"])
def test_a_registered_version_is_traced_to_its_raw_files(recorded: Recorded, subject: str) -> None:
    recipe, _, uri = recorded()
    found = look(subject, recipe, uri=uri, verify=True)
    assert stages(found) == CHAIN
    assert found.version is not None
    assert (found.version.name, found.version.version, found.version.aliases) == ("tiny", "1", ("champion",))
    assert found.problems == []


@pytest.mark.mlflow
def test_outputs_whose_folders_are_gone_are_traced_by_what_mlflow_keeps(recorded: Recorded) -> None:
    recipe, made, uri = recorded()
    before = look("models:/tiny@champion", recipe, uri=uri)
    for stage in made:
        shutil.rmtree(made[stage].root)
    found = look("models:/tiny@champion", recipe, uri=uri)
    assert {output.found for output in found.outputs.values()} == {"MLflow's manifest"}
    assert {o.fingerprint: (o.stage, o.reads) for o in found.outputs.values()} == {
        o.fingerprint: (o.stage, o.reads) for o in before.outputs.values()
    }
    assert found.recipe == recipe
    assert len(found.problems) == len(CHAIN)
    for manifest in Path(recipe.workspace).glob("mlartifacts/*/artifacts/manifest.json"):
        manifest.unlink()
    bare = look("models:/tiny@champion", recipe, uri=uri)
    assert {output.found for output in bare.outputs.values()} == {"MLflow's run"}
    assert {o.fingerprint: (o.inputs, {r.sha256 for r in o.raw_files}) for o in bare.outputs.values()} == {
        o.fingerprint: (o.inputs, {r.sha256 for r in o.raw_files}) for o in before.outputs.values()
    }


@pytest.mark.mlflow
def test_a_version_that_is_not_there_or_not_of_gptmill_is_refused(recorded: Recorded) -> None:
    recipe, _, uri = recorded()
    for subject in ("models:/tiny@nobody", "models:/tiny/7", "models:/other/1"):
        with pytest.raises(InputError, match=r"has no such version"):
            look(subject, recipe, uri=uri)
    from jobs.mlflow_store import Store

    client = Store(uri).client
    client.create_registered_model("foreign")
    client.create_model_version("foreign", Path(recipe.workspace).as_uri())
    with pytest.raises(InputError, match=r"has no tag gptmill\.fingerprint"):
        look("models:/foreign/1", recipe, uri=uri)


@pytest.mark.mlflow
def test_the_command_draws_the_chain_and_fails_where_verification_does(recorded: Recorded) -> None:
    recipe, made, _ = recorded()
    arguments = ["lineage", "models:/tiny@champion", "--workspace", recipe.workspace, "--verify"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    for told in (
        f"its weights are, byte for byte, finetune {made['finetune'].root.name} model/model.safetensors",
        f"corpus: a.jsonl  sha256 {file_sha256(Path(recipe.workspace).parent / 'a.jsonl')}",
        f"dedup {made['dedup'].root.name} (above)",
        "name: tiny",
        "verified: every file has the checksum of its manifest",
    ):
        assert told in done.stdout
    (weights,) = Path(recipe.workspace).glob("mlartifacts/*/artifacts/registered/model.safetensors")
    weights.write_text("others")
    told_of = CliRunner().invoke(app, [*arguments, "--json"])
    assert told_of.exit_code == 3
    tree: dict[str, Any] = json.loads(told_of.stdout)
    assert tree["verified"] is False
    assert tree["problems"] == ["models:/tiny/1: model.safetensors is none of the files that the manifests list"]
    assert [output["stage"] for output in tree["outputs"]] == CHAIN


def test_the_json_names_every_file_of_every_output(tmp_path: Path) -> None:
    recipe, made = make_outputs(write_project(tmp_path))
    found = trace("runs/tiny/finetune", Places([Path(recipe.workspace)], NO_STORE))
    tree = lineage_json(found, check_files(found, recipe=None, verify=True), weights=None, verified=True)
    assert json.loads(json.dumps(tree)) == tree
    first = tree["outputs"][0]
    assert [entry["path"] for entry in first["manifest"]["files"]] == [e.path for e in made["finetune"].manifest.files]
    assert first["raw_files"][0]["path"] == str(tmp_path / "train.jsonl")
    assert tree["recipe"]["resolved"] == recipe.model_dump(mode="json")
    assert tree["verified"] is True
