"""Checkpoints below {output}/checkpoints: `step-{n}/` is whole when its manifest.json lists it, checksums and all.

The engine writes its files, every rank has written, then rank 0 writes the manifest and moves the `latest` pointer.
Resuming takes the newest whole checkpoint that was made by the same job on as many ranks; a damaged one is passed
over for the one before. Only files whose checksum was verified are handed to the engine, which may unpickle them.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpt_core.artifact import MANIFEST, list_files, write_atomically, write_json
from gpt_core.fingerprint import Json, file_sha256
from gpt_core.training.engine import Engine

LATEST = "latest"

logger = logging.getLogger("gptmill")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run. `conditions` must be equal for a checkpoint to be loaded."""

    folder: Path
    conditions: dict[str, Json]
    keep: int

    def save(self, engine: Engine, step: int, state: dict[str, Json]) -> None:
        """After `step` steps, all that a resumed run needs stands on disk. Every rank must call."""
        target = self.folder / f"step-{step}"
        if engine.rank == 0:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
        engine.barrier()
        engine.save(target, state)
        engine.barrier()
        if engine.rank == 0:
            files: list[Json] = [entry.model_dump() for entry in list_files(target, [target])]
            write_json(target / MANIFEST, {"step": step, "conditions": self.conditions, "files": files})
            write_atomically(self.folder / LATEST, target.name)
            self._retire()
        engine.barrier()

    def load_newest(self, engine: Engine) -> tuple[int, dict[str, Json]]:
        """(steps done, state) of the newest whole checkpoint, now in the engine; (0, {}) without one.

        Rank 0 chooses, for all. Every rank must call.
        """
        chosen = next(self._whole(), 0) if engine.rank == 0 else 0
        step = int(engine.sum_over_ranks([float(chosen)])[0])
        if not step:
            return 0, {}
        state = engine.load(self.folder / f"step-{step}")
        logger.info("resumed behind step %d", step)
        return step, state

    def _steps(self) -> list[int]:
        names = [path.name for path in self.folder.glob("step-*") if (path / MANIFEST).exists()]
        return sorted((int(name.removeprefix("step-")) for name in names), reverse=True)

    def _whole(self) -> Iterator[int]:
        for step in self._steps():
            problem = self._problem(self.folder / f"step-{step}")
            if problem is None:
                yield step
            else:
                logger.warning("checkpoint step-%d is passed over: %s", step, problem)

    def _problem(self, folder: Path) -> str | None:
        """Why a checkpoint cannot be resumed from, or None."""
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            for name, value in self.conditions.items():
                if manifest["conditions"].get(name) != value:
                    return f"{name} was {manifest['conditions'].get(name)}, now it is {value}"
            for entry in manifest["files"]:
                if file_sha256(folder / entry["path"]) != entry["sha256"]:
                    return f"{entry['path']} is not what was written"
        except (OSError, ValueError, KeyError) as error:
            return f"cannot be read: {error}"
        return None

    def _retire(self) -> None:
        for step in self._steps()[self.keep :]:
            shutil.rmtree(self.folder / f"step-{step}")
