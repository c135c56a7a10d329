"""Checkpoints below {output}/checkpoints: `step-{n}/` is whole when its manifest.json lists it, checksums and all.

Every rank writes and hashes its own files, then rank 0 writes the manifest, moves the `latest` pointer and retires what
need not be kept. In the background a rank's state is copied to the host's memory, and a thread writes it while the
training goes on; the manifest follows at a later step, where all ranks have come so far.

A checkpoint that the disk has no room for is given up with a warning: the training goes on, older ones stay. Resuming
takes the newest whole one of the same job, on any number of ranks at any ZeRO stage; a damaged one is passed over for
the one before. Only files whose checksum was verified are handed to the engine, which unpickles them.
"""

import json
import logging
import math
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_core.artifact import MANIFEST, write_atomically, write_json
from gpt_core.errors import ArtifactError, StageError
from gpt_core.fingerprint import Json
from gpt_core.recipe import TrainCluster
from gpt_core.training.checkpoint_files import detach, find_damage, write_files
from gpt_core.training.engine import Engine

LATEST, STATE = "latest", "state.json"

logger = logging.getLogger("gptmill")


@dataclass(frozen=True)
class _Unfinished:
    """A checkpoint that is being written. `files` gives this rank's entries of the manifest, or why there are none."""

    step: int
    validation_loss: float | None
    files: "Future[Json]"


class Checkpoints:
    """The checkpoints of one run, as one rank sees them. Those of another `identity` are not resumed from."""

    def __init__(self, folder: Path, *, identity: str, settings: TrainCluster) -> None:
        self.folder = folder
        self._identity = identity
        self._settings = settings
        self._unfinished: _Unfinished | None = None
        self._writer = ThreadPoolExecutor(1, "checkpoint")

    def save(self, engine: Engine, step: int, state: dict[str, Json], *, validation_loss: float | None = None) -> None:
        """After `step` steps, all that a resumed run needs stands on disk, or will with `complete`. Every rank calls.

        `validation_loss` is the last one, by which the best is kept.
        """
        self.complete(engine)
        if not self._make_room(engine, step):
            return
        files = engine.state_files()
        if engine.rank == 0:
            files[STATE] = json.dumps(state)
        background = self._settings.background_checkpoints
        files = detach(files, copy=background)
        if background:
            written = self._writer.submit(_write, files, self._place(step))
        else:
            written = Future()
            written.set_result(_write(files, self._place(step)))
        self._unfinished = _Unfinished(step, validation_loss, written)
        if not background:
            self.complete(engine)

    @property
    def written(self) -> bool:
        """Whether `complete` has something to do, and need not wait for this rank."""
        return self._unfinished is not None and self._unfinished.files.done()

    def complete(self, engine: Engine) -> None:
        """The checkpoint begun last, if any, is whole, or given up. Every rank must call."""
        if self._unfinished is None:
            return
        begun, self._unfinished = self._unfinished, None
        parts = engine.gather(begun.files.result())
        if engine.rank == 0:
            problem = next((part for part in parts if isinstance(part, str)), None)
            entries = [entry for part in parts if isinstance(part, list) for entry in part]
            problem = problem or self._make_whole(begun, entries)
            if problem is None:
                self._retire(begun.step)
            else:
                self._give_up(begun.step, problem)
        engine.barrier()

    def load_newest(self, engine: Engine) -> tuple[int, dict[str, Json]]:
        """(steps done, state) of the newest usable checkpoint, now in the engine; (0, {}) where none was ever whole.

        Every rank must call. Raises StageError where there are some, and none can be used.
        """
        if engine.rank == 0:
            self._clear_unfinished()
        waiting = self._steps() if engine.rank == 0 else []
        found = int(engine.sum_over_ranks([float(len(waiting))])[0])
        for index in range(found):
            step = int(engine.sum_over_ranks([float(waiting[index]) if waiting else 0.0])[0])
            problem = self._find_problem(engine, step) or self._load(engine, step)
            if problem is None:
                state: dict[str, Json] = json.loads((self._place(step) / STATE).read_text(encoding="utf-8"))
                logger.info("resumed behind step %d", step)
                return step, state
            if engine.rank == 0:
                logger.warning("checkpoint step-%d is passed over: %s", step, problem)
        if found:
            raise StageError(
                f"{self.folder}: none of its {found} checkpoints can be used, as said above; "
                "put them right, or delete the folder to begin at step 0"
            )
        return 0, {}

    def way_on(self) -> str:
        """What a run that ends now can say of the next one. On rank 0 only."""
        steps = self._steps()
        return f"start it again to go on behind step {steps[0]}" if steps else "no checkpoint of it could be written"

    def scratch(self) -> list[Path]:
        """What can go once the stage is whole: all but what `keep_every_steps` and `keep_best` keep, on rank 0."""
        kept = self._chosen(self._steps(), newest=0)
        if not kept:
            return [self.folder]
        return [path for path in self.folder.iterdir() if path not in map(self._place, kept)]

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step}"

    def _steps(self) -> list[int]:
        """Of the whole checkpoints, newest first."""
        names = [path.parent.name for path in self.folder.glob(f"step-*/{MANIFEST}")]
        return sorted((int(name.removeprefix("step-")) for name in names), reverse=True)

    def _manifest(self, step: int) -> dict[str, Any]:
        """Empty where it is damaged."""
        try:
            manifest: dict[str, Any] = json.loads((self._place(step) / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return manifest

    def _clear_unfinished(self) -> None:
        for path in self.folder.glob("step-*"):
            if not (path / MANIFEST).exists():
                shutil.rmtree(path)

    def _make_room(self, engine: Engine, step: int) -> bool:
        """An empty folder for the checkpoint; False, with a warning, where the disk has no room for another one."""
        problem = self._refuse(step) if engine.rank == 0 else None
        if problem is not None:
            self._give_up(step, problem)
        return engine.sum_over_ranks([float(problem is not None)])[0] == 0

    def _refuse(self, step: int) -> str | None:
        try:
            shutil.rmtree(self._place(step), ignore_errors=True)
            self._place(step).mkdir(parents=True)
            steps = self._steps()
            needed = sum(entry["size_bytes"] for entry in self._manifest(steps[0]).get("files", ())) if steps else 0
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            return str(error)
        return None if needed <= free else f"{self.folder} has {free:,} bytes free, the last one took {needed:,}"

    def _give_up(self, step: int, problem: str) -> None:
        shutil.rmtree(self._place(step), ignore_errors=True)
        steps = self._steps()
        logger.warning(
            "no checkpoint behind step %d: %s; the training goes on, the newest checkpoint is %s",
            *(step, problem, f"step-{steps[0]}" if steps else "none"),
        )

    def _make_whole(self, begun: _Unfinished, entries: list[Json]) -> str | None:
        """The manifest and the pointer stand; or why they do not."""
        loss = begun.validation_loss
        manifest: dict[str, Json] = {
            "step": begun.step,
            "identity": self._identity,
            "validation_loss": loss if loss is not None and math.isfinite(loss) else None,
            "files": entries,
        }
        try:
            write_json(self._place(begun.step) / MANIFEST, manifest)
            write_atomically(self.folder / LATEST, self._place(begun.step).name)
        except OSError as error:
            return str(error)
        return None

    def _retire(self, newest: int) -> None:
        """Later ones than the newest were passed over as damaged, and go too."""
        steps = [step for step in self._steps() if step <= newest]
        for step in sorted(set(self._steps()) - self._chosen(steps, newest=self._settings.keep_checkpoints)):
            (self._place(step) / MANIFEST).unlink()  # so that half of it is none
            shutil.rmtree(self._place(step), ignore_errors=True)

    def _chosen(self, steps: list[int], *, newest: int) -> set[int]:
        """The first `newest` of the steps, every `keep_every_steps`-th, and that of the least validation loss."""
        kept = set(steps[:newest])
        if self._settings.keep_every_steps is not None:
            kept.update(step for step in steps if step % self._settings.keep_every_steps == 0)
        if self._settings.keep_best:
            losses = ((self._manifest(step).get("validation_loss"), step) for step in steps)
            kept.update(step for _, step in sorted((loss, step) for loss, step in losses if loss is not None)[:1])
        return kept

    def _find_problem(self, engine: Engine, step: int) -> str | None:
        """Why a checkpoint cannot be used, the same on all ranks, each of which reads its share of the files."""
        manifest = self._manifest(step)
        if not manifest:
            problem: str | None = f"{MANIFEST} cannot be read"
        elif manifest["identity"] != self._identity:
            problem = "it is of another job"
        else:
            share = manifest["files"][engine.rank :: engine.world_size]
            problem = next(filter(None, (find_damage(self._place(step), entry) for entry in share)), None)
        told = engine.gather(problem)
        if not engine.sum_over_ranks([float(problem is not None)])[0]:
            return None
        return next((str(each) for each in told if each is not None), "a rank found it damaged")

    def _load(self, engine: Engine, step: int) -> str | None:
        try:
            engine.load(self._place(step))
        except ArtifactError as error:
            return str(error)
        return None


def _write(files: Mapping[str, Any], root: Path) -> Json:
    """This rank's entries of the manifest; or, a text, why the disk refuses."""
    try:
        return write_files(files, root)
    except OSError as error:
        return str(error)
