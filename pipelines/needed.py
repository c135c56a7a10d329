"""Which outputs of a workspace must stay: those that others are made of, and those that models are registered of.

An output is made of others by the fingerprints in its identity, and of a model that its recipe took from a folder, as
`pretrain.init_from` does, by the checksums of that model's files.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpt_core.errors import SetupError
from gpt_core.fingerprint import SHORT
from gpt_core.store_uri import without_secrets
from jobs.job import RECIPE
from jobs.run_records import RegisteredVersion, datasets_of
from jobs.tracking import REGISTRY_URI, TRACKING_URI, known_stores
from pipelines.lineage import Places, parsed_recipe
from pipelines.workspace import Output, places_in

MODEL_ROLES = ("init_from", "init")  # of raw files that are an earlier model's
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Kin:
    """The outputs of a workspace, and which are made of which."""

    def __init__(self, outputs: Iterable[Output]) -> None:
        self.outputs = list(outputs)
        self._by_digest: dict[str, list[Output]] = {}
        self._by_file: dict[str, set[Path]] = {}
        for output in self.outputs:
            if output.manifest is not None:
                self._by_digest.setdefault(output.manifest.fingerprint, []).append(output)
                for entry in output.manifest.files:
                    self._by_file.setdefault(entry.sha256, set()).add(output.root)
        self._by_root = {output.root: output for output in self.outputs}

    def with_digest(self, digest: str) -> list[Output]:
        """The whole outputs of that fingerprint."""
        return self._by_digest.get(digest, [])

    def ancestry(self, seeds: Iterable[Output]) -> set[Path]:
        """The folders of the seeds and of everything here that they are made of."""
        found: set[Path] = set()
        waiting = list(seeds)
        while waiting:
            output = waiting.pop()
            if output.root not in found:
                found.add(output.root)
                waiting += [parent for digest in output.inputs for parent in self.with_digest(digest)]
                waiting += self._models_of(output)
        return found

    def _models_of(self, output: Output) -> list[Output]:
        """The outputs that hold every file of a model that this one began with."""
        read = datasets_of(output.manifest.identity, {}) if output.manifest is not None else []
        found: list[Output] = []
        for role in MODEL_ROLES:
            holders = [self._by_file.get(record.sha256, set()) for record in read if record.role == role]
            found += [self._by_root[root] for root in set.intersection(*holders)] if holders else []
        return found


@dataclass
class Registered:
    """What the registries say of a workspace: `models` by the folder that holds their output, or one they descend from.

    `problems` is not empty where that cannot be told of all of them.
    """

    models: dict[Path, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def registered_models(workspace: Path, kin: Kin) -> Registered:
    """What every version of every registered model, with or without an alias, descends from, in all known stores."""
    found = Registered()
    stores, found.problems = _stores_of(workspace, kin.outputs)
    for uri in stores:
        places = Places([workspace], uri)
        try:
            for version in places.versions():
                _trace_version(version, places, kin, found)
        except SetupError as error:
            found.problems.append(str(error))
    return found


def _trace_version(version: RegisteredVersion, places: Places, kin: Kin, found: Registered) -> None:
    name = f"models:/{version.name}/{version.version}"
    tags = dict(version.tags)
    if "gptmill.fingerprint" not in tags and version.run_id is not None:  # registered by hand
        tags = {**places.run_tags(version.run_id), **tags}
    told = [*tags.values(), version.source]
    led_to = {place for text in told for place in places_in(text)}
    digests = {text for text in told if _DIGEST.fullmatch(text)}
    for output in kin.outputs:
        if output.place in led_to or (output.manifest is not None and output.manifest.fingerprint in digests):
            found.models.setdefault(output.root, name)
    if "gptmill.fingerprint" in tags:
        hints = [Path(tags["gptmill.output"])] if "gptmill.output" in tags else []
        _trace_digest(tags["gptmill.fingerprint"], name, hints, places, kin, found, set())


def _trace_digest(
    digest: str, name: str, hints: Sequence[Path], places: Places, kin: Kin, found: Registered, seen: set[str]
) -> None:
    """What the model descends from here, past outputs that are no longer in this workspace."""
    if digest in seen:
        return
    seen.add(digest)
    here = kin.with_digest(digest)
    if here:
        for output in here:
            found.models.setdefault(output.root, name)
        return
    gone = places.find(None, digest, hints, [])
    if gone.found == "nowhere":
        found.problems.append(f"{name}: is made of {digest[:SHORT]}, of which neither this disk nor MLflow tells")
    for record in gone.reads:
        if record.role == "input":
            _trace_digest(record.sha256, name, [Path(record.location)], places, kin, found, seen)


def _stores_of(workspace: Path, outputs: Sequence[Output]) -> tuple[list[str], list[str]]:
    """(URIs of every store that a run here can have registered a model in, what is wrong with the list)."""
    given = {without_secrets(uri): uri for name in (TRACKING_URI, REGISTRY_URI) if (uri := os.environ.get(name))}
    stores, problems = [*given.values()], []
    own = workspace / "mlflow.db"
    if own.exists():
        stores.append(f"sqlite:///{own}")
    for uri in dict.fromkeys([*known_stores(workspace), *_recipe_stores(outputs)]):
        if "***" not in uri:
            stores.append(uri)
        elif uri not in given:
            problems.append(f"MLflow's store {uri} holds models of this workspace; put its URI into {TRACKING_URI}")
    if not stores and not problems:
        problems.append(f"no MLflow store of this workspace is known; name it in {TRACKING_URI}")
    return list(dict.fromkeys(stores)), problems


def _recipe_stores(outputs: Sequence[Output]) -> Iterator[str]:
    """The servers that the recipes of the outputs name."""
    for output in outputs:
        try:
            text = (output.root / RECIPE).read_text(encoding="utf-8")
        except OSError:
            continue
        recipe = parsed_recipe(text, str(output.root / RECIPE), [])
        if recipe is not None and recipe.tracking.uri is not None and "sqlite:" not in recipe.tracking.uri:
            yield recipe.tracking.uri
