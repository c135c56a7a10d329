"""Where a model comes from: from a registered version or an output back to every raw file, by fingerprints.

An output's manifest names the fingerprints of what it was made of. Each is looked for where the manifest says, then in
the workspace, then in MLflow: the manifest that its stage's run holds, else what that run recorded as read. Nothing is
believed for its place: what is found counts only where its fingerprint is the one that was looked for.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from gpt_core.artifact import MANIFEST, Manifest, read_manifest
from gpt_core.errors import ArtifactError, GptmillError, InputError, SetupError
from gpt_core.fingerprint import SHORT, fingerprint
from gpt_core.recipe import Recipe
from gpt_core.store_uri import without_secrets
from jobs.environment import environment
from jobs.job import RECIPE
from jobs.metric_queue import reason_of
from jobs.run_records import DatasetRecord, RecordedRun, RegisteredVersion, datasets_of
from jobs.tracking import IMPATIENCE, TRACKING_URI

if TYPE_CHECKING:
    from jobs.mlflow_store import Store

MODELS = "models:/"
Found = Literal["disk", "MLflow's manifest", "MLflow's run", "nowhere"]


@dataclass(frozen=True)
class Output:
    """A stage's output in the chain. `manifest` is None where no more than a run, or nothing, is left of it."""

    stage: str
    fingerprint: str
    found: Found
    root: Path | None = None  # on this disk
    manifest: Manifest | None = None
    run: RecordedRun | None = None  # what told of it, where its folder is gone
    reads: tuple[DatasetRecord, ...] = ()

    @property
    def inputs(self) -> dict[str, str]:
        """Stage -> fingerprint of the earlier outputs that it was made of."""
        return {record.name: record.sha256 for record in self.reads if record.role == "input"}

    @property
    def raw_files(self) -> list[DatasetRecord]:
        """The user's own files that the stage read."""
        return [record for record in self.reads if record.role != "input"]


@dataclass
class Lineage:
    """What a model was made of: `outputs` by fingerprint, its own first. `problems` names what is not found."""

    subject: str
    version: RegisteredVersion | None
    outputs: dict[str, Output] = field(default_factory=dict)
    recipe: Recipe | None = None
    recipe_from: str | None = None
    problems: list[str] = field(default_factory=list)


class Places:
    """Where outputs are looked for: workspaces on this disk, then the tracking store at `uri`.

    A sqlite database that is not there yet is not made.
    """

    def __init__(self, workspaces: Sequence[Path], uri: str) -> None:
        self.workspaces = list(workspaces)
        self.uri = uri
        self._shown = without_secrets(uri)
        self._store: Store | None = None
        self._problem: str | None = None

    @contextmanager
    def _asking(self) -> Iterator["Store"]:
        """The store; what it answers wrongly becomes a SetupError that names it and the way out."""
        way_out = f"start it, or name another with --recipe, --workspace or {TRACKING_URI}"
        if self._problem is not None:  # a store that is away is asked once
            raise SetupError(self._problem)
        path = self.uri.removeprefix("sqlite:///")
        if path != self.uri and not Path(path).exists():
            self._problem = f"MLflow's store {self._shown} is not there; name another with --recipe or --workspace"
            raise SetupError(self._problem)
        try:
            with environment(IMPATIENCE):
                if self._store is None:
                    from jobs.mlflow_store import Store  # two seconds, where the disk does not know

                    self._store = Store(self.uri)
                yield self._store
        except GptmillError:
            raise
        except Exception as error:
            self._problem = f"MLflow's store {self._shown} cannot be asked: {reason_of(error)}; {way_out}"
            raise SetupError(self._problem) from error

    def version(self, subject: str) -> RegisteredVersion:
        """The registered version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` means. Raises UserError."""
        match = re.fullmatch(r"models:/([^/@]+)(?:@([\w-]+)|/(\d+))", subject)
        if match is None:
            raise InputError(f"{subject}: write it as models:/NAME@ALIAS or models:/NAME/VERSION")
        with self._asking() as store:
            version = store.model_version(match[1], alias=match[2], version=match[3])
        if version is None:
            raise InputError(
                f"{subject}: {self._shown} has no such version; see its models, or name another store with --recipe, "
                f"--workspace or {TRACKING_URI}"
            )
        return version

    def versions(self) -> list[RegisteredVersion]:
        """All versions of all registered models. Raises SetupError where the store cannot be asked."""
        with self._asking() as store:
            return store.registered_versions()

    def run_tags(self, run_id: str) -> dict[str, str]:
        """The tags of a run; none where the run is gone. Raises SetupError where the store cannot be asked."""
        with self._asking() as store:
            return store.run_tags(run_id)

    def version_folder(self, version: RegisteredVersion) -> Path:
        """A folder with the version's files. Raises SetupError."""
        with self._asking() as store:
            return store.version_folder(version)

    def find(self, stage: str | None, digest: str, hints: Sequence[Path], problems: list[str]) -> Output:
        """The output with the fingerprint `digest`, wherever something is left of it. A stage may be unknown."""
        pattern = f"{stage or '*'}/{digest[:SHORT]}"
        candidates = [*hints, *(root for workspace in self.workspaces for root in sorted(workspace.glob(pattern)))]
        for root in dict.fromkeys(path.absolute() for path in candidates):
            try:
                manifest = read_manifest(root)
            except (ArtifactError, OSError) as error:
                problems.append(str(error))
                continue
            if manifest is not None and manifest.fingerprint == digest:
                self.workspaces = list(dict.fromkeys([*self.workspaces, root.parent.parent]))
                reads = datasets_of(manifest.identity, {name: Path(path) for name, path in manifest.inputs.items()})
                return Output(manifest.stage, digest, "disk", root=root, manifest=manifest, reads=tuple(reads))
        output = self._recorded(digest, problems)
        if output is None:
            gone = f"{stage or 'output'} {digest[:SHORT]}: neither on this disk nor in MLflow; what it was made of"
            problems.append(f"{gone} cannot be told")
            return Output(stage or "output", digest, "nowhere")
        problems.append(f"{output.stage} {digest[:SHORT]}: its files are gone; {output.found} tells what it was")
        return output

    def _recorded(self, digest: str, problems: list[str]) -> Output | None:
        """What MLflow keeps of the output."""
        try:
            with self._asking() as store:
                runs = store.runs_tagged("gptmill.fingerprint", digest)
                for run in runs:
                    manifest = _manifest_of(store.artifact_text(run.run_id, MANIFEST), digest)
                    if manifest is not None:
                        inputs = {name: Path(path) for name, path in manifest.inputs.items()}
                        reads = tuple(datasets_of(manifest.identity, inputs))
                        return Output(
                            manifest.stage, digest, "MLflow's manifest", manifest=manifest, run=run, reads=reads
                        )
        except SetupError as error:
            if str(error) not in problems:
                problems.append(str(error))
            return None
        if not runs:
            return None
        stage = runs[0].tags.get("gptmill.stage", "output")
        return Output(stage, digest, "MLflow's run", run=runs[0], reads=runs[0].datasets)

    def recipe_text(self, output: Output) -> tuple[str | None, str]:
        """(the resolved recipe as JSON, or None; where it stands), of the run that made the output."""
        if output.root is not None and (output.root / RECIPE).is_file():
            return (output.root / RECIPE).read_text(encoding="utf-8"), str(output.root / RECIPE)
        try:
            with self._asking() as store:
                runs = [output.run] if output.run else store.runs_tagged("gptmill.fingerprint", output.fingerprint)
                for run in runs:
                    parent = run.tags.get("mlflow.parentRunId")
                    text = store.artifact_text(parent, RECIPE) if parent else None
                    if text is not None:
                        return text, f"{RECIPE} of MLflow's run {parent}"
        except SetupError:  # told where outputs were looked for
            pass
        return None, ""


def trace(subject: str, places: Places) -> Lineage:
    """Everything that the registered version or the output folder `subject` was made of.

    Raises UserError where `subject` is neither.
    """
    if subject.startswith(MODELS):
        version = places.version(subject)
        digest = version.tags.get("gptmill.fingerprint")
        if digest is None:
            raise InputError(f"{subject}: has no tag gptmill.fingerprint: gptmill did not register it")
        told = version.tags.get("gptmill.output")
        hints = [Path(told), Path(told).parent] if told else []
        lineage = Lineage(subject, version)
        first = places.find(None, digest, hints, lineage.problems)
    else:
        lineage = Lineage(subject, None)
        manifest, root = _named_output(subject, places.workspaces)
        first = places.find(manifest.stage, manifest.fingerprint, [root], lineage.problems)
    lineage.outputs[first.fingerprint] = first
    _follow(first, places, lineage)
    _read_recipe(first, places, lineage)
    return lineage


def _named_output(subject: str, workspaces: Sequence[Path]) -> tuple[Manifest, Path]:
    """The output that a path names, as it stands or within a workspace; links are followed."""
    candidates = [Path(subject), *(workspace / subject for workspace in workspaces)]
    for path in candidates:
        root = path.resolve()
        manifest = read_manifest(root)
        if manifest is not None:
            return manifest, root
    raise InputError(
        f"{subject}: no {MANIFEST} there; give models:/NAME@ALIAS, an output folder or runs/RECIPE/STAGE of the "
        f"workspace ({', '.join(map(str, workspaces))})"
    )


def _follow(output: Output, places: Places, lineage: Lineage) -> None:
    """Every output that `output` was made of is in the lineage, behind it."""
    for record in output.reads:
        if record.role == "input" and record.sha256 not in lineage.outputs:
            hints = [Path(record.location)]
            found = places.find(record.name, record.sha256, hints, lineage.problems)
            lineage.outputs[record.sha256] = found
            _follow(found, places, lineage)


def _read_recipe(first: Output, places: Places, lineage: Lineage) -> None:
    text, where = places.recipe_text(first)
    if text is None:
        lineage.problems.append("the resolved recipe is gone; manifests tell each stage's own part of it")
        return
    lineage.recipe_from = where
    lineage.recipe = parsed_recipe(text, where, lineage.problems)


def parsed_recipe(text: str, where: str, problems: list[str]) -> Recipe | None:
    """The recipe of a recipe.json, or None for one that this gptmill does not understand, which is a problem."""
    try:
        return Recipe.model_validate_json(text)
    except ValidationError as error:
        problems.append(f"{where}: is of another gptmill: {error.error_count()} of its fields are not understood")
        return None


def _manifest_of(text: str | None, digest: str) -> Manifest | None:
    """The manifest in `text`, where it is whole and the one that was looked for."""
    if text is None:
        return None
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError:
        return None
    whole = manifest.fingerprint == digest == fingerprint(dict(manifest.identity))
    return manifest if whole else None
