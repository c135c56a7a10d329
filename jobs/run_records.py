"""What a tracking store is told about a run, as plain values within MLflow's limits. No engine is imported here."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from gpt_core.artifact import MANIFEST, Artifact
from gpt_core.fingerprint import Json
from gpt_core.store_uri import without_secrets
from gpt_core.training.curves import STEPS, read_steps
from jobs.metric_queue import Point

# Limits of MLflow 3.17, mlflow/utils/validation.py
MAX_PARAMS_A_BATCH = 100
MAX_METRICS_A_BATCH = 1_000
MAX_PARAM_CHARACTERS = 6_000
MAX_TAG_CHARACTERS = 8_000
MAX_DIGEST_CHARACTERS = 36
MAX_NAME_CHARACTERS = 250

SMALL_FILES = (MANIFEST, "stats.json", "curves.json", "evaluation.json", "samples.json")
MAX_SMALL_FILE_BYTES = 5_000_000

Item = TypeVar("Item")


@dataclass(frozen=True)
class DatasetRecord:
    """A thing that a stage read: `sha256` is that of a raw file, or the fingerprint of a stage's output."""

    name: str
    role: str
    sha256: str
    location: str

    @property
    def digest(self) -> str:
        """As much of the SHA-256 as a dataset's digest may hold."""
        return self.sha256[:MAX_DIGEST_CHARACTERS]


@dataclass(frozen=True)
class RecordedRun:
    """What a store knows of a run: its tags, and what it read."""

    run_id: str
    experiment_id: str
    tags: dict[str, str]
    datasets: tuple[DatasetRecord, ...]


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model. `created_ms` is in Unix milliseconds."""

    name: str
    version: str
    aliases: tuple[str, ...]
    run_id: str | None
    tags: dict[str, str]
    created_ms: int
    source: str = ""  # where its files were taken from


def flatten_parameters(tree: Mapping[str, Json], *, whole: str) -> dict[str, str]:
    """Each leaf by its path, `pretrain.learning_rate` -> "0.0006"; a list is one leaf, written as JSON.

    Strings stand as they are, null is "null". What is too long for the store is cut, and says that the artifact `whole`
    has all of it.
    """
    return {store_name(path): cut_parameter(text, whole=whole) for path, text in _leaves(tree, "")}


def cut_parameter(text: str, *, whole: str) -> str:
    """`text` as a parameter's value; a long one ends with the artifact that has it whole."""
    end = f" ... (whole in {whole})"
    return text if len(text) <= MAX_PARAM_CHARACTERS else text[: MAX_PARAM_CHARACTERS - len(end)] + end


def is_cut(parameters: Mapping[str, str], *, whole: str) -> bool:
    """Whether any of the values was too long."""
    return any(text.endswith(f" ... (whole in {whole})") for text in parameters.values())


def store_name(text: str) -> str:
    """`text`, which may hold a label's or a source's name, as a parameter or a metric may be called."""
    parts = re.sub(r"[^\w\-. /:]", "_", text).split("/")  # MLflow takes it for a path, which must be in its normal form
    return "/".join(part for part in parts if part not in ("", ".", ".."))[:MAX_NAME_CHARACTERS].rstrip("/") or "_"


def datasets_of(identity: Mapping[str, Json], inputs: Mapping[str, Path]) -> list[DatasetRecord]:
    """The raw files and the earlier outputs that an identity names; `inputs` says where the outputs stand."""
    files, outputs = identity.get("files"), identity.get("inputs")
    records = []
    for role, entries in files.items() if isinstance(files, dict) else ():
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                name = str(entry["name"])
                records.append(DatasetRecord(name, role, str(entry["sha256"]), name))
    for stage, digest in outputs.items() if isinstance(outputs, dict) else ():
        records.append(DatasetRecord(stage, "input", str(digest), str(inputs.get(stage, stage))))
    return records


def metrics_of(artifact: Artifact) -> dict[str, float]:
    """The manifest's counts and figures, and what the stage took, by names that MLflow accepts."""
    manifest = artifact.manifest
    usage = {
        "wall_seconds": manifest.wall_seconds,
        "cpu_seconds": manifest.cpu_seconds,
        "peak_memory_bytes": manifest.peak_memory_bytes,
    }
    values = {**manifest.counts, **manifest.figures, **usage}
    return {store_name(name): float(value) for name, value in values.items()}


def points_of(artifact: Artifact) -> list[Point]:
    """Every point of the metrics that the stage's job sends while it trains, as its files have them."""
    if artifact.has(STEPS):
        return [
            Point(store_name(name), value, entry.unix_ms, entry.step)
            for entry in read_steps(artifact.file(STEPS))
            for name, value in entry.figures.items()
        ]
    if artifact.manifest.stage != "finetune" or not artifact.has("curves.json"):
        return []
    when = int(datetime.fromisoformat(artifact.manifest.created_at).timestamp() * 1000)
    runs = json.loads(artifact.file("curves.json").read_text(encoding="utf-8"))
    return [
        Point(store_name(f"{start}_{name}"), value, when, int(step))
        for start, curves in runs.items()
        for name, points in curves.items()
        for step, value in points
    ]


def small_files_of(artifact: Artifact) -> list[Path]:
    """The manifest and those small JSON files that the stage wrote."""
    paths = [artifact.root / name for name in SMALL_FILES if name == MANIFEST or artifact.has(name)]
    return [path for path in paths if path.stat().st_size <= MAX_SMALL_FILE_BYTES]


def cut_tag(text: str) -> str:
    """`text` as a tag's value, without secrets: its end is what matters in a message, so the front is cut."""
    text = without_secrets(text)
    return text if len(text) <= MAX_TAG_CHARACTERS else "..." + text[3 - MAX_TAG_CHARACTERS :]


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """`items` in order, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _leaves(tree: Mapping[str, Json], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value if isinstance(value, str) else json.dumps(value)
