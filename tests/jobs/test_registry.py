"""Versions, aliases, tags and descriptions in a real registry, and the rules by which a champion is found."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from served_models import make_language_model, make_task_model
from tracked_runs import VARIABLES, start_watched

from gpt_core.artifact import read_manifest
from gpt_core.errors import UserError
from gpt_core.fingerprint import file_sha256
from gpt_core.recipe import Recipe
from gpt_core.recipe_file import parse_recipe
from jobs.mlflow_store import Store
from jobs.registry import MAX_DESCRIPTION_CHARACTERS, Measured, compare, describe, register_models
from jobs.run_records import Version
from jobs.tracking import check_tracking, tracking_uri

LABELS = ["land", "sea"]
NEW = Measured("test_accuracy", 0.843, 0.829, 0.857, 1, "aa")
LOSS = Measured("test_loss", 2.0, 1.9, 2.1, -1, "aa")


def version(measured: Measured, number: str = "3", **other: float) -> Version:
    return Version(number, replace(measured, **other).tags())


# ---------------------------------------------------------------------------------------------------- the rule


def test_the_first_version_is_the_champion() -> None:
    assert compare(NEW, None, None) == (True, "first version: test_accuracy 0.843 [0.829, 0.857]")


@pytest.mark.parametrize(
    ("new", "theirs", "expected", "words"),
    [
        (NEW, 0.802, True, "beats version 3: test_accuracy 0.843 [0.829, 0.857] against 0.802"),
        (NEW, 0.835, False, "does not beat version 3: test_accuracy 0.843 [0.829, 0.857] against 0.835"),
        (NEW, 0.829, False, "does not beat version 3: test_accuracy 0.843 [0.829, 0.857] against 0.829"),
        (LOSS, 2.2, True, "beats version 3: test_loss 2 [1.9, 2.1] against 2.2"),
        (LOSS, 2.05, False, "does not beat version 3: test_loss 2 [1.9, 2.1] against 2.05"),
    ],
)
def test_a_version_beats_the_champion_by_more_than_its_interval(
    new: Measured, theirs: float, expected: bool, words: str
) -> None:
    assert compare(new, None, version(new, value=theirs)) == (expected, words)


@pytest.mark.parametrize(
    ("champion", "words"),
    [
        (replace(NEW, held_out="bb"), "which was scored on other data"),
        (replace(NEW, metric="test_macro_f1"), "which was scored by another figure"),
    ],
)
def test_a_champion_that_was_scored_otherwise_is_not_comparable_and_stays(champion: Measured, words: str) -> None:
    best, told = compare(replace(NEW, low=0.9), None, version(champion, value=0.1))
    assert not best
    assert words in told
    assert told.endswith("version 3 stays")


def test_a_champion_that_is_evaluated_again_stays() -> None:
    assert compare(NEW, "3", version(NEW, value=0.99)) == (True, "is the champion: test_accuracy 0.843 [0.829, 0.857]")


def test_a_description_is_the_card_without_its_header_and_cut_to_what_databases_hold(tmp_path: Path) -> None:
    assert describe(tmp_path, "First.", "Second.") == "First.\n\nSecond."
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# A model\n\nIt tells.\n")
    assert describe(tmp_path, "First.") == "First.\n\n# A model\n\nIt tells."
    (tmp_path / "README.md").write_text("# A model\n" + "a line of its card\n" * 400)
    cut = describe(tmp_path, "First.")
    assert len(cut) <= MAX_DESCRIPTION_CHARACTERS
    assert cut.startswith("First.\n\n# A model\na line of its card\n")
    assert "its card\n\n... (the whole card" in cut


def test_the_champions_alias_is_no_alias_for_every_version(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tracking\.alias: 'champion' is the best version's"):
        check_tracking(recipe_in(tmp_path, alias="champion"))


# ------------------------------------------------------------------------------------------------- the registry


def recipe_in(workspace: Path, *, folder: Path | None = None, **tracking: str) -> Recipe:
    test = (folder or workspace) / "test.jsonl"
    return parse_recipe(
        {
            "name": "tiny",
            "workspace": str(workspace),
            "corpus": {"inputs": [{"path": "a.jsonl"}]},
            "finetune": {"train": "t.jsonl", "test": str(test), "max_tokens": 12},
            "evaluate": {"sample_tokens": 2},
            "tracking": tracking,
        },
        origin="test",
    )


class Registry:
    """The registry of a workspace, and models in a test's own folder that are registered there by the test's names."""

    def __init__(self, workspace: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workspace, self.folder = workspace, folder
        self.task, self.language = f"{folder.name}-task", f"{folder.name}-language"
        names = {"registered_model": self.task, "registered_language_model": self.language}
        self.recipe = recipe_in(workspace, folder=folder, **names)
        _, self.run_id = start_watched(self.recipe, "evaluate", monkeypatch)
        self.pretrained = make_language_model(folder / "pretrain")
        self.client = Store(tracking_uri(self.recipe)).client

    def write_test(self, *texts: str) -> str:
        path = self.folder / "test.jsonl"
        path.write_text("".join(json.dumps({"text": text, "label": "sea"}) + "\n" for text in texts))
        return file_sha256(path)

    def tune(self, seed: int, *, card: str = "") -> Path:
        assert self.recipe.finetune is not None
        root = self.folder / f"finetune-{seed}"
        return make_task_model(root, self.pretrained, self.recipe.finetune, LABELS, seed=seed, card=card)

    def register(self, folder: Path, accuracy: float, low: float, high: float) -> None:
        figures = {"test_accuracy": accuracy, "test_accuracy_low": low, "test_accuracy_high": high}
        register_models(self.recipe, task_folder=folder, language_folder=None, figures=figures)

    def aliases(self, name: str) -> dict[str, str]:
        return {alias: str(number) for alias, number in self.client.get_registered_model(name).aliases.items()}

    def tags(self, name: str, number: str) -> dict[str, str]:
        return dict(self.client.get_model_version(name, number).tags)

    def description(self, name: str) -> str:
        return str(self.client.get_registered_model(name).description)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests: making the database takes two seconds."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture
def registry(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return Registry(workspace, tmp_path, monkeypatch)


@pytest.mark.mlflow
def test_the_champion_moves_to_what_is_better_on_the_same_test_set_alone(registry: Registry) -> None:
    name, sha256 = registry.task, registry.write_test("the sea", "a river", "the")
    folders = [registry.tune(seed, card=f"# Model {seed}\n") for seed in range(4)]
    registry.register(folders[0], 0.80, 0.78, 0.82)
    assert registry.aliases(name) == {"candidate": "1", "champion": "1"}
    first = read_manifest(folders[0].parent)
    assert first is not None
    assert registry.tags(name, "1") == {
        "gptmill.recipe": "tiny",
        "gptmill.task": "classification",
        "gptmill.fingerprint": first.fingerprint,
        "gptmill.output": str(folders[0].parent),
        "gptmill.metric": "test_accuracy",
        "gptmill.value": "0.8",
        "gptmill.interval": "[0.78, 0.82]",
        "gptmill.held_out": sha256,
        "gptmill.champion": "first version: test_accuracy 0.8 [0.78, 0.82]",
    }
    registry.register(folders[1], 0.81, 0.79, 0.83)
    assert registry.aliases(name) == {"candidate": "2", "champion": "1"}
    assert registry.tags(name, "2")["gptmill.champion"].startswith("does not beat version 1")
    assert registry.description(name).startswith("The champion is version 1: test_accuracy 0.8 [0.78, 0.82].\n")
    registry.register(folders[2], 0.84, 0.82, 0.86)
    assert registry.aliases(name) == {"candidate": "3", "champion": "3"}
    told = registry.tags(name, "3")["gptmill.champion"]
    assert told == "beats version 1: test_accuracy 0.84 [0.82, 0.86] against 0.8"
    assert registry.description(name).startswith("The champion is version 3: test_accuracy 0.84 [0.82, 0.86].\n")
    assert registry.client.get_model_version(name, "2").description == (
        "Does not beat version 1: test_accuracy 0.81 [0.79, 0.83] against 0.8.\n\n"
        f"`mlflow models serve -m models:/{name}/2 --env-manager local` answers rows of `text`.\n\n# Model 1"
    )

    registry.write_test("the sea")  # another test set: no version is better, whatever its figure
    registry.register(folders[3], 0.99, 0.98, 1.0)
    assert registry.aliases(name) == {"candidate": "4", "champion": "3"}
    assert "not comparable with version 3" in registry.tags(name, "4")["gptmill.champion"]
    registry.register(folders[2], 0.90, 0.88, 0.92)  # the champion scored on that: comparable, and still version 3
    assert registry.aliases(name) == {"candidate": "3", "champion": "3"}
    registry.register(folders[3], 0.99, 0.98, 1.0)
    assert registry.aliases(name) == {"candidate": "4", "champion": "4"}
    assert len(registry.client.search_model_versions(f"name = '{name}'")) == 4


@pytest.mark.mlflow
def test_a_version_its_run_and_its_logged_model_know_each_other_and_the_figure(registry: Registry) -> None:
    registry.write_test("the sea")
    registry.register(registry.tune(1), 0.8, 0.7, 0.9)
    run = registry.client.get_run(registry.run_id)
    (model,) = [registry.client.get_logged_model(output.model_id) for output in run.outputs.model_outputs]
    assert model.experiment_id == run.info.experiment_id
    assert model.artifact_location.startswith((registry.workspace / "mlartifacts").as_uri())
    assert {metric.key: metric.value for metric in model.metrics} == {"test_accuracy": 0.8}
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": registry.task, "version": 1}]
    assert run.data.tags["gptmill.registered_model"] == f"models:/{registry.task}/1"
    version = registry.client.get_model_version(registry.task, "1")
    assert (version.run_id, version.source) == (run.info.run_id, f"models:/{model.model_id}")


@pytest.mark.mlflow
def test_language_models_are_compared_by_bits_per_byte_on_the_same_shards(registry: Registry) -> None:
    same = [make_language_model(registry.folder / f"pretrain-{seed}", seed=seed) for seed in (1, 2)]
    other = make_language_model(registry.folder / "pretrain-3", seed=3, shards="6" * 64)
    for folder, bits in ((same[0], 2.5), (same[1], 2.4), (other, 1.0)):
        figures = {"validation_bits_per_byte": bits, "validation_bits_per_byte.tales": 9.0}
        register_models(registry.recipe, task_folder=None, language_folder=folder, figures=figures)
    name = registry.language
    assert registry.aliases(name) == {"candidate": "3", "champion": "2"}
    assert registry.tags(name, "2")["gptmill.champion"] == "beats version 1: validation_bits_per_byte 2.4 against 2.5"
    assert registry.tags(name, "3")["gptmill.champion"].startswith("not comparable with version 2")
    assert registry.tags(name, "1")["gptmill.held_out"] == "5" * 64


@pytest.mark.mlflow
def test_a_model_that_cannot_be_registered_costs_a_warning_not_the_evaluation(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    register_models(registry.recipe, task_folder=registry.folder / "none/model", language_folder=None, figures={})
    assert "was not recorded" in caplog.text
