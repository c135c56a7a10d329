"""A stage's output by hand: whatever stands in a folder, with a manifest that lists it."""

from collections.abc import Mapping
from pathlib import Path

from gpt_core.artifact import Manifest, list_files, utc_now, write_manifest
from gpt_core.fingerprint import fingerprint


def write_output(root: Path, stage: str, counts: Mapping[str, int]) -> Path:
    """All files below `root` are an output of `stage`. Returns `root`."""
    manifest = Manifest(
        stage=stage,
        fingerprint=fingerprint({}),
        identity={},
        recipe_name="test",
        created_at=utc_now(),
        inputs={},
        files=list_files(root, [root]),
        counts=dict(counts),
        figures={},
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
    return root
