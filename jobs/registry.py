"""The models of a run in MLflow's registry, and which of them is the champion.

Every model that was evaluated is a version, at the alias `tracking.alias`. A version stays `champion` until one is
better by more than chance: its headline figure on the same held-out data, at the lower bound of its interval, beats
the champion's value. Other data, another figure: not comparable, and the champion stays. A tag of the version tells
the comparison. A model that has a version already (of the same fingerprint) gets no second one: its tags are told
anew, as when `evaluate` ran again with other prompts or another test file.

Importing this module does not import mlflow.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_core.artifact import Manifest, read_manifest
from gpt_core.errors import ArtifactError
from gpt_core.fingerprint import file_sha256
from gpt_core.recipe import Recipe
from gpt_core.tasks.request import PROMPT
from jobs.environment import environment
from jobs.run_records import Version
from jobs.tracking import CHAMPION, PATIENCE, open_store, recording, watched_run

if TYPE_CHECKING:
    from jobs.mlflow_store import Store
    from jobs.served_models import ServedModel

CARD = "README.md"  # a model card, beside the weights
LANGUAGE_METRIC = "validation_bits_per_byte"
EXAMPLE_ROWS = 2
MAX_DESCRIPTION_CHARACTERS = 5_000  # of MLflow's databases
FINGERPRINT, COMPARED = "gptmill.fingerprint", "gptmill.champion"
METRIC, VALUE, INTERVAL, HELD_OUT = "gptmill.metric", "gptmill.value", "gptmill.interval", "gptmill.held_out"


@dataclass(frozen=True)
class Measured:
    """A model's headline figure on held-out data; `sign` -1: less is better. `low` and `high` bound it, or are it."""

    metric: str
    value: float
    low: float
    high: float
    sign: int
    held_out: str  # SHA-256 of the test file, or the fingerprint of the shards

    @classmethod
    def of_figures(cls, figures: Mapping[str, float], metric: str, *, sign: int, held_out: str) -> "Measured":
        """The figure `metric`, and where they are known its bounds."""
        value = figures[metric]
        low, high = (figures.get(f"{metric}_{bound}", value) for bound in ("low", "high"))
        return cls(metric, value, low, high, sign, held_out)

    def __str__(self) -> str:
        bounds = f" [{self.low:.4g}, {self.high:.4g}]" if self.low < self.high else ""
        return f"{self.metric} {self.value:.4g}{bounds}"

    def tags(self) -> dict[str, str]:
        """What a later version is compared by."""
        interval = {INTERVAL: f"[{self.low:.6g}, {self.high:.6g}]"} if self.low < self.high else {}
        return {METRIC: self.metric, VALUE: f"{self.value:.6g}", **interval, HELD_OUT: self.held_out}


@dataclass(frozen=True)
class Candidate:
    """A model that is to be registered as `name`. `served` makes what MLflow logs, once it is known to be needed."""

    name: str
    folder: Path
    fingerprint: str
    measured: Measured
    tags: Mapping[str, str]
    columns: tuple[str, ...]  # of a request
    run_tag: str  # of the run that registers it, with the version's URI
    served: "Callable[[], ServedModel]"

    def describe(self, told: str, version: str) -> str:
        """What the model's page says: `told`, how to ask it, and its card. Lists of versions show the first line."""
        columns = " and ".join(f"`{column}`" for column in self.columns)
        ask = f"`mlflow models serve -m models:/{version} --env-manager local` answers rows of {columns}."
        return describe(self.folder, told, ask)


def register_models(
    recipe: Recipe, *, task_folder: Path | None, language_folder: Path | None, figures: Mapping[str, float]
) -> None:
    """The models in the folders (Hugging Face layout, in outputs with a manifest) are versions in the registry.

    `figures` are those of the evaluation: test_{headline} and validation_bits_per_byte, with their bounds `_low` and
    `_high`. Does nothing without GPTMILL_MLFLOW_RUN_ID; a store that fails costs a warning.
    """
    run_id = watched_run("RANK")
    if run_id is None:
        return
    for folder, describe in ((language_folder, _language_candidate), (task_folder, _task_candidate)):
        if folder is not None:
            with recording(f"the model in {folder}"), environment(PATIENCE):
                register(open_store(recipe), describe(recipe, folder, figures), run_id, recipe.tracking.alias)


def register(store: "Store", candidate: Candidate, run_id: str, alias: str) -> str:
    """The candidate is the version at `alias`, and at `champion` where that is due; returns its number."""
    name, measured = candidate.name, candidate.measured
    number = store.version_tagged(name, FINGERPRINT, candidate.fingerprint)
    champion = store.version_at(name, CHAMPION)
    best, told = compare(measured, number, champion)
    tags = {**candidate.tags, COMPARED: told}
    if number is None:
        number = store.log_version(candidate.served(), run_id, name, tags, {measured.metric: measured.value})
    store.tell_version(name, number, tags, candidate.describe(f"{told[0].upper()}{told[1:]}.", f"{name}/{number}"))
    for each in {alias, CHAMPION} if best else {alias}:
        store.point(name, each, number)
    if best:
        told = f"The champion is version {number}: {measured}."
        store.describe_model(name, candidate.describe(told, f"{name}@{CHAMPION}"))
    store.tag(run_id, {candidate.run_tag: f"models:/{name}/{number}"})
    return number


def compare(new: Measured, number: str | None, champion: Version | None) -> tuple[bool, str]:
    """Whether `new`, of the version `number` where it has one already, is the champion from now on, and why."""
    if champion is None:
        return True, f"first version: {new}"
    if champion.number == number:
        return True, f"is the champion: {new}"
    theirs = f"version {champion.number}"
    for tag, ours, what in ((METRIC, new.metric, "by another figure"), (HELD_OUT, new.held_out, "on other data")):
        if champion.tags.get(tag) != ours:
            return False, f"not comparable with {theirs}, which was scored {what}: {new}; {theirs} stays"
    value = float(champion.tags[VALUE])
    bound = new.low if new.sign > 0 else new.high
    better = new.sign * bound > new.sign * value
    return better, f"{'beats' if better else 'does not beat'} {theirs}: {new} against {value:.4g}"


def describe(folder: Path, *opening: str) -> str:
    """The opening lines, and the model card in the folder without its YAML header, cut to what databases hold."""
    path = folder / CARD
    card = path.read_text(encoding="utf-8") if path.exists() else ""
    if card.startswith("---\n"):
        card = card.partition("\n---\n")[2]
    text = "\n\n".join([*opening, card.strip()]).strip()
    if len(text) > MAX_DESCRIPTION_CHARACTERS:
        rest = f"\n\n... (the whole card is {CARD} among the model's files)"
        text = text[: MAX_DESCRIPTION_CHARACTERS - len(rest)].rpartition("\n")[0] + rest
    return text


def _task_candidate(recipe: Recipe, folder: Path, figures: Mapping[str, float]) -> Candidate:
    from gpt_core.tasks.labelled import read_rows
    from gpt_core.tasks.scores import headline
    from gpt_core.tasks.spec import TaskSpec

    settings = recipe.finetune
    assert settings is not None
    spec = TaskSpec.read(folder)
    name, sign = headline(spec.target)
    test = Path(settings.test)

    def served() -> "ServedModel":
        from jobs.served_models import serve_task

        return serve_task(folder, read_rows(test, settings)[:EXAMPLE_ROWS], recipe.evaluate)

    return _candidate(
        recipe,
        folder,
        name=recipe.tracking.registered_model or f"{recipe.name}-classifier",
        task=spec.task,
        measured=Measured.of_figures(figures, f"test_{name}", sign=sign, held_out=file_sha256(test)),
        columns=spec.fields[:1] if spec.target == "text" else spec.fields,
        run_tag="gptmill.registered_model",
        served=served,
    )


def _language_candidate(recipe: Recipe, folder: Path, figures: Mapping[str, float]) -> Candidate:
    def served() -> "ServedModel":
        from jobs.served_models import serve_language_model

        return serve_language_model(folder, recipe.evaluate)

    inputs = _manifest_of(folder).identity["inputs"]
    assert isinstance(inputs, dict)
    return _candidate(
        recipe,
        folder,
        name=recipe.tracking.registered_language_model or f"{recipe.name}-language-model",
        task="language model",
        measured=Measured.of_figures(figures, LANGUAGE_METRIC, sign=-1, held_out=str(inputs["shards"])),
        columns=(PROMPT,),
        run_tag="gptmill.registered_language_model",
        served=served,
    )


def _candidate(
    recipe: Recipe,
    folder: Path,
    *,
    name: str,
    task: str,
    measured: Measured,
    columns: tuple[str, ...],
    run_tag: str,
    served: "Callable[[], ServedModel]",
) -> Candidate:
    manifest = _manifest_of(folder)
    commit = {"gptmill.git_commit": manifest.git_commit} if manifest.git_commit else {}
    return Candidate(
        name=name,
        folder=folder,
        fingerprint=manifest.fingerprint,
        measured=measured,
        tags={
            "gptmill.recipe": recipe.name,
            "gptmill.task": task,
            FINGERPRINT: manifest.fingerprint,
            "gptmill.output": str(folder.parent),
            **commit,
            **measured.tags(),
        },
        columns=columns,
        run_tag=run_tag,
        served=served,
    )


def _manifest_of(folder: Path) -> Manifest:
    """The manifest of the output in which the model's folder stands."""
    manifest = read_manifest(folder.parent)
    if manifest is None:
        raise ArtifactError(f"{folder.parent}: has no manifest; run the stage again")
    return manifest
