"""A stage's output by hand: whatever stands in a folder, with a manifest that lists it."""

from collections.abc import Mapping
from pathlib import Path

from gpt_core.artifact import Artifact, Manifest, list_files, open_artifact, utc_now, write_manifest
from gpt_core.fingerprint import Json, fingerprint


def write_output(
    root: Path,
    stage: str,
    counts: Mapping[str, int] | None = None,
    *,
    identity: dict[str, Json] | None = None,
    inputs: Mapping[str, Path] | None = None,
    figures: Mapping[str, float] | None = None,
) -> Artifact:
    """All files below `root`, hidden ones apart, are a whole output of `stage`."""
    identity = identity or {"stage": stage}
    manifest = Manifest(
        stage=stage,
        fingerprint=fingerprint(identity),
        identity=identity,
        recipe_name="test",
        created_at=utc_now(),
        inputs={name: str(path) for name, path in (inputs or {}).items()},
        files=list_files(root, [path for path in root.iterdir() if not path.name.startswith(".")]),
        counts=dict(counts or {}),
        figures=dict(figures or {}),
        schemas={},
        versions={},
        command=[],
        host="here",
        git_commit=None,
        wall_seconds=0,
        cpu_seconds=0,
        peak_memory_bytes=0,
    )
    write_manifest(root, manifest)
    artifact = open_artifact(root)
    assert artifact is not None
    return artifact
