"""Whether the files of a lineage are still what they were: of outputs by their manifests, of the user by identities."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpt_core.artifact import find_damage, find_wrong_size
from gpt_core.data.remote import folders_elsewhere
from gpt_core.errors import GptmillError, SetupError
from gpt_core.fingerprint import SHORT, file_sha256
from gpt_core.recipe import Recipe
from jobs.job import RECIPE
from jobs.run_records import DatasetRecord
from pipelines.gpt import stages_of
from pipelines.lineage import Lineage, Output, Places, parsed_recipe


@dataclass(frozen=True)
class RawFileState:
    """A file of the user's that a stage read. `path` is where the recipe says it stands; `problem` is None if well."""

    record: DatasetRecord
    path: Path | None
    problem: str | None


def check_files(lineage: Lineage, *, recipe: Recipe | None, verify: bool) -> dict[str, list[RawFileState]]:
    """The raw files of each output, by fingerprint; what is wrong with a file stands among the lineage's problems.

    Sizes and presence are looked at, with `verify` every byte. Raw files are sought where `recipe` says, else the
    recipe that made the output.
    """
    states = {}
    for output in lineage.outputs.values():
        lineage.problems += _damages(output, recipe or lineage.recipe, verify=verify)
        states[output.fingerprint] = _raw_states(output, recipe, lineage, verify=verify)
    return states


def check_version(lineage: Lineage, places: Places) -> str | None:
    """Which file of the lineage the registered weights are, byte for byte; None, and a problem told, where none is."""
    assert lineage.version is not None
    name = f"models:/{lineage.version.name}/{lineage.version.version}"
    listed: dict[str, str] = {}
    for output in lineage.outputs.values():
        for entry in output.manifest.files if output.manifest is not None else ():
            listed.setdefault(entry.sha256, f"{output.stage} {output.fingerprint[:SHORT]} {entry.path}")
    try:
        weights = sorted(places.version_folder(lineage.version).rglob("*.safetensors"))
    except (OSError, SetupError) as error:
        lineage.problems.append(f"{name}: its files cannot be read: {error}")
        return None
    strange = [path.name for path in weights if file_sha256(path) not in listed]
    if strange or not weights:
        what = f"{', '.join(strange)} is none of the files" if strange else "holds no weights"
        lineage.problems.append(f"{name}: {what} that the manifests list")
        return None
    return ", ".join(listed[file_sha256(path)] for path in weights)


def _damages(output: Output, recipe: Recipe | None, *, verify: bool) -> Iterator[str]:
    if output.root is None or output.manifest is None:
        return
    elsewhere = folders_elsewhere(recipe, output.stage) if recipe is not None else ()
    for entry in output.manifest.files:
        path = output.root / entry.path
        if entry.path.partition("/")[0] in elsewhere and not path.exists():
            continue  # readers take them from a copy
        problem = find_damage(output.root, entry) if verify else find_wrong_size(output.root, entry)
        if problem is not None:
            yield f"{path}: {problem}"


def _raw_states(output: Output, recipe: Recipe | None, lineage: Lineage, *, verify: bool) -> list[RawFileState]:
    if not output.raw_files:
        return []
    paths = _raw_paths(output, recipe or _own_recipe(output, lineage) or lineage.recipe, lineage.problems)
    states = []
    for record in output.raw_files:
        path = paths.get((record.role, record.name))
        problem = _raw_problem(path, record.sha256, verify=verify)
        if problem is not None and path is not None:
            lineage.problems.append(f"{path}: {problem}")
        states.append(RawFileState(record, path, problem))
    return states


def _own_recipe(output: Output, lineage: Lineage) -> Recipe | None:
    """The recipe of the run that made this output, which may be another than the model's."""
    path = output.root / RECIPE if output.root is not None else None
    if path is None or not path.is_file() or str(path) == lineage.recipe_from:
        return None
    return parsed_recipe(path.read_text(encoding="utf-8"), str(path), lineage.problems)


def _raw_paths(output: Output, recipe: Recipe | None, problems: list[str]) -> Mapping[tuple[str, str], Path]:
    """(role, name) -> path of the raw files that the recipe names for the stage."""
    stages = [stage for stage in stages_of(recipe) if stage.name == output.stage] if recipe is not None else []
    if recipe is None or not stages:
        return {}
    try:
        files = stages[0].raw_files(recipe)
    except GptmillError as error:
        problems.append(f"{output.stage}: its raw files cannot be located: {error}")
        return {}
    return {(raw.role, str(raw.facts.get("name", raw.path.name))): raw.path for raw in files}


def _raw_problem(path: Path | None, sha256: str, *, verify: bool) -> str | None:
    if path is None:
        return "where it stands is not known"
    if not path.is_file():
        return "is gone"
    if verify and file_sha256(path) != sha256:
        return "is not what was read: its checksum differs"
    return None
