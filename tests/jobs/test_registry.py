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
from jobs.registry import MAX_DESCRIPTION_CHARACTERS, Measured, compare, describe_folder, register_models
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


def test_a_description_is_the_card_without_the_fields_in_front_and_cut_to_what_databases_hold(tmp_path: Path) -> None:
    assert describe_folder(tmp_path) == ""
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# A model\n\nIt tells.\n")
    assert describe_folder(tmp_path) == "# A model\n\nIt tells."
    (tmp_path / "README.md").write_text("# A model\n" + "a line of its card\n" * 400)
    cut = describe_folder(tmp_path)
    assert len(cut) <= MAX_DESCRIPTION_CHARACTERS
    assert cut.startswith("# A model\na line of its card\n")
    assert "its card\n\n... (cut;" in cut


def test_the_champions_alias_is_no_alias_for_every_version(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tracking\.alias: 'champion' is the best version's"):
        check_tracking(recipe_in(tmp_path, alias="champion"))


# ------------------------------------------------------------------------------------------------- the registry


def recipe_in(workspace: Path, **tracking: str) -> Recipe:
    return parse_recipe(
        {
            "name": "tiny",
            "workspace": str(workspace),
            "corpus": {"inputs": [{"path": "a.jsonl"}]},
            "finetune": {"train": "t.jsonl", "test": str(workspace / "test.jsonl"), "max_tokens": 12},
            "evaluate": {"sample_tokens": 2},
            "tracking": tracking,
        },
        origin="test",
    )


class Registry:
    """A registry in a workspace, and models to register there."""

    def __init__(self, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workspace, self.recipe = workspace, recipe_in(workspace)
        _, self.run_id = start_watched(self.recipe, "evaluate", monkeypatch)
        self.pretrained = make_language_model(workspace / "pretrain")
        self.client = Store(tracking_uri(self.recipe)).client

    def write_test(self, *texts: str) -> str:
        path = self.workspace / "test.jsonl"
        path.write_text("".join(json.dumps({"text": text, "label": "sea"}) + "\n" for text in texts))
        return file_sha256(path)

    def tune(self, seed: int, **fields: str) -> Path:
        assert self.recipe.finetune is not None
        return make_task_model(
            self.workspace / f"finetune-{seed}", self.pretrained, self.recipe.finetune, LABELS, seed=seed, **fields
        )

    def register(self, folder: Path, accuracy: float, low: float, high: float) -> None:
        figures = {"test_accuracy": accuracy, "test_accuracy_low": low, "test_accuracy_high": high}
        register_models(self.recipe, task_folder=folder, language_folder=None, figures=figures)

    def aliases(self, name: str = "tiny-classifier") -> dict[str, str]:
        return {alias: str(number) for alias, number in self.client.get_registered_model(name).aliases.items()}

    def tags(self, number: str, name: str = "tiny-classifier") -> dict[str, str]:
        return dict(self.client.get_model_version(name, number).tags)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return Registry(tmp_path, monkeypatch)


@pytest.mark.mlflow
def test_the_champion_moves_to_what_is_better_on_the_same_test_set_alone(registry: Registry) -> None:
    sha256 = registry.write_test("the sea", "a river", "the")
    folders = [registry.tune(seed, card=f"# Model {seed}\n") for seed in range(4)]
    registry.register(folders[0], 0.80, 0.78, 0.82)
    assert registry.aliases() == {"candidate": "1", "champion": "1"}
    first = read_manifest(folders[0].parent)
    assert first is not None
    assert registry.tags("1") == {
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
    assert registry.aliases() == {"candidate": "2", "champion": "1"}
    assert registry.tags("2")["gptmill.champion"].startswith("does not beat version 1")
    assert registry.client.get_registered_model("tiny-classifier").description == "# Model 0"
    registry.register(folders[2], 0.84, 0.82, 0.86)
    assert registry.aliases() == {"candidate": "3", "champion": "3"}
    assert registry.tags("3")["gptmill.champion"] == "beats version 1: test_accuracy 0.84 [0.82, 0.86] against 0.8"
    assert registry.client.get_registered_model("tiny-classifier").description == "# Model 2"
    assert registry.client.get_model_version("tiny-classifier", "2").description == "# Model 1"

    # another test set: no version beats it, however good
    registry.write_test("the sea")
    registry.register(folders[3], 0.99, 0.98, 1.0)
    assert registry.aliases() == {"candidate": "4", "champion": "3"}
    assert "not comparable with version 3" in registry.tags("4")["gptmill.champion"]
    # the champion scored on it: comparable again, and no second version of the same model
    registry.register(folders[2], 0.90, 0.88, 0.92)
    assert registry.aliases() == {"candidate": "3", "champion": "3"}
    registry.register(folders[3], 0.99, 0.98, 1.0)
    assert registry.aliases() == {"candidate": "4", "champion": "4"}
    assert len(registry.client.search_model_versions("name = 'tiny-classifier'")) == 4


@pytest.mark.mlflow
def test_a_version_knows_its_run_its_model_and_its_figure(registry: Registry) -> None:
    registry.write_test("the sea")
    registry.register(registry.tune(1), 0.8, 0.7, 0.9)
    run = registry.client.get_run(registry.run_id)
    (model,) = [registry.client.get_logged_model(output.model_id) for output in run.outputs.model_outputs]
    assert model.experiment_id == run.info.experiment_id
    assert model.artifact_location.startswith((registry.workspace / "mlartifacts").as_uri())
    assert {metric.key: metric.value for metric in model.metrics} == {"test_accuracy": 0.8}
    assert run.data.tags["gptmill.registered_model"] == "models:/tiny-classifier/1"
    version = registry.client.get_model_version("tiny-classifier", "1")
    assert (version.run_id, version.model_id) == (run.info.run_id, model.model_id)


@pytest.mark.mlflow
def test_language_models_are_compared_by_bits_per_byte_on_the_same_shards(registry: Registry) -> None:
    same = [make_language_model(registry.workspace / f"pretrain-{seed}", seed=seed) for seed in (1, 2)]
    other = make_language_model(registry.workspace / "pretrain-3", seed=3, shards="6" * 64)
    for folder, bits in ((same[0], 2.5), (same[1], 2.4), (other, 1.0)):
        register_models(
            registry.recipe,
            task_folder=None,
            language_folder=folder,
            figures={"validation_bits_per_byte": bits, "validation_bits_per_byte.tales": 9.0},
        )
    name = "tiny-language-model"
    assert registry.aliases(name) == {"candidate": "3", "champion": "2"}
    assert registry.tags("2", name)["gptmill.champion"] == "beats version 1: validation_bits_per_byte 2.4 against 2.5"
    assert registry.tags("3", name)["gptmill.champion"].startswith("not comparable with version 2")
    assert registry.tags("1", name)["gptmill.held_out"] == "5" * 64


@pytest.mark.mlflow
def test_a_model_that_cannot_be_registered_costs_a_warning_not_the_evaluation(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    register_models(
        registry.recipe, task_folder=registry.workspace / "none" / "model", language_folder=None, figures={}
    )
    assert "was not recorded" in caplog.text
