"""What a stage's output folder says of the stage, in one line."""

import json
import time
from pathlib import Path
from typing import Any

from jobs.job import ERROR, PROGRESS
from pipelines.display import describe_progress
from pipelines.lease import lease_owner
from pipelines.plan import PlannedStage


def stage_status(planned: PlannedStage) -> str:
    """`made ...`, `running: ...`, `failed: ...` or `not made: ...`."""
    output = planned.output
    if planned.artifact is not None:
        manifest = planned.artifact.manifest
        size = sum(entry.size_bytes for entry in manifest.files)
        return f"made {manifest.created_at}, {len(manifest.files)} files, {size / 1e6:,.1f} MB: {output}"
    owner = lease_owner(output)
    if owner is not None:
        return f"running: {_progress(output / PROGRESS)} (process {owner['pid']} on {owner['host']})"
    failure = _read(output / ERROR)
    if failure:
        return f"failed: {str(failure['message']).splitlines()[0]}"
    return f"not made: {planned.why}"


def _progress(path: Path) -> str:
    report = _read(path)
    if not report:
        return "starting"
    age = time.time() - path.stat().st_mtime
    state = describe_progress(report["done"], report["total"], report["unit"], rate=0, measures=report["measures"])
    return f"{state}, {age:.0f} s ago"


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content
