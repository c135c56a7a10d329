"""What a person sees of a pre-training while it runs: the figures of its steps, in three places.

steps.jsonl of the output has them all and outlives a kill; MLflow gets them as they come; progress.json, which
`gptmill run` shows, has the few that matter. Times are of whole steps: a step ends when its loss is known on the host,
behind all of its work on the device. Figures of the machine are of the MACHINE_STEPS steps before, of all ranks.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping

from gpt_core.training.curves import STEPS, Recording, StepLog, read_steps
from gpt_core.training.engine import Engine
from gpt_core.training.loop import StepFigures
from gpt_core.training.peak import Peak, find_peak, utilization
from jobs.job import Job
from jobs.tracking import MetricSink

MACHINE_STEPS = 10
HISTORY_LINES = 500  # of a resumed run that MLflow gets at once; the runner sends the others at the end
SKIPPED = "skipped_steps"

logger = logging.getLogger("gptmill")


class Recorder(Recording):
    """The figures of one run, from step `done` on. Every rank makes one and calls it; rank 0 writes."""

    def __init__(
        self,
        job: Job,
        engine: Engine,
        sink: MetricSink,
        *,
        done: int,
        flops_per_token: int,
        waited: Callable[[], float],
    ) -> None:
        self._job, self._engine, self._sink = job, engine, sink
        self._steps, self._step_tokens = job.recipe.pretrain_steps, job.recipe.step_tokens
        self._flops_per_token, self._waited = flops_per_token, waited
        super().__init__(StepLog(job.output / STEPS, done=done) if engine.rank == 0 else None)
        self._skipped = 0
        self._shown: dict[str, float] = {}
        self._started: tuple[int, float] | None = None  # the first step of this process, and when it was done
        self._begin_window(done)
        if self._log is not None and done:
            self._tell_history()
        self._peak_flops = self._find_peak()

    def _tell_history(self) -> None:
        """MLflow, which may have begun a new run, has the course of the steps before."""
        entries = list(read_steps(self._job.output / STEPS))
        stride = math.ceil(len(entries) / HISTORY_LINES)
        for index, entry in enumerate(entries):
            self._skipped = int(entry.figures.get(SKIPPED, self._skipped))
            if "validation_loss" in entry.figures:
                self._shown["validation_loss"] = entry.figures["validation_loss"]
            if index % stride == 0 or "learning_rate" not in entry.figures:
                self._sink(entry.step, entry.figures, unix_ms=entry.unix_ms)

    def _find_peak(self) -> float:
        """FLOP/s of all ranks together. Every rank looks, and on a CPU measures, at the same time."""
        half = self._job.recipe.pretrain.precision != "fp32"
        self._engine.barrier()
        peak: Peak = find_peak(self._job.recipe.cluster.train.peak_flops, self._engine.device, half=half)
        total = self._engine.sum_over_ranks([peak.flops])[0]
        formula = (
            f"{self._flops_per_token:,} FLOPs a token (6 N_matmul + 12 n_layer T n_embd) x tokens/s / "
            f"{total:.4g} FLOP/s of {self._engine.world_size} ranks ({peak.source})"
        )
        logger.info("model FLOP utilization: %s", formula)
        self._sink.tag("gptmill.mfu", formula)
        return total

    @property
    def validation_loss(self) -> float | None:
        """The last one, of this attempt or on rank 0 of the ones before; None before the first validation."""
        return self._shown.get("validation_loss")

    def step(self, figures: StepFigures, losses: Mapping[str, float]) -> None:
        """A step is done. `losses` has its means by name, `train_loss` among them; a skipped step's do not count."""
        step = figures.step
        self._busy_seconds += figures.seconds
        values = {
            "learning_rate": figures.learning_rate,
            "tokens_per_second": self._step_tokens / figures.seconds,
        }
        if figures.skipped:
            self._skipped += 1
            values[SKIPPED] = self._skipped
        else:
            values |= {**losses, "gradient_norm": figures.gradient_norm}
            self._shown["loss"] = losses["train_loss"]
        if step % MACHINE_STEPS == 0 or step == self._steps:
            values |= self._measure_machine(step)
        self._add(step, values)
        self._report(step)
        if self._started is None:  # the first step warms up: it compiles, opens files and shows no pace
            self._started = step, time.monotonic()
            self._begin_window(step)

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        """The validation behind `step` gave these figures."""
        self._shown["validation_loss"] = values["validation_loss"]
        self._add(step, values)
        self._report(step)

    def sample(self, step: int, prompt: str, text: str) -> None:
        """The model as of `step` goes on from `prompt` with `text`. On rank 0."""
        logger.info("step %d: %r goes on %r", step, prompt, text)
        assert self._log is not None
        self._log.add(step, {}, sample={"prompt": prompt, "text": text})
        self._sink.text(f"samples/step-{step:06d}.txt", f"{prompt}|{text}\n")

    def _measure_machine(self, step: int) -> dict[str, float]:
        """Figures of the steps since the last of these, over all ranks: the slowest to wait, the fullest memory."""
        steps, seconds, waited = step - self._steps_before, self._busy_seconds, self._waited()
        own = [(waited - self._waited_before) / seconds, float(self._engine.memory_bytes())]
        rank, others = self._engine.rank, self._engine.world_size - self._engine.rank - 1
        every = self._engine.sum_over_ranks([*[0.0] * 2 * rank, *own, *[0.0] * 2 * others])
        self._begin_window(step)
        rate = steps * self._step_tokens / seconds
        figures = {
            "mfu": utilization(rate, flops_per_token=self._flops_per_token, peak_flops=self._peak_flops),
            "data_wait": max(every[::2]),
            "memory_bytes": max(every[1::2]),
            **self._seconds_left(step),
        }
        self._shown["mfu"] = figures["mfu"]
        return figures

    def _begin_window(self, step: int) -> None:
        self._busy_seconds, self._waited_before, self._steps_before = 0.0, self._waited(), step

    def _seconds_left(self, step: int) -> dict[str, float]:
        """As long as the steps to come take at the pace so far, validations, checkpoints and all."""
        first, when = self._started or (step, 0.0)
        if step == first:  # a validation may stand behind the first step
            return {}
        return {"seconds_left": (time.monotonic() - when) / (step - first) * (self._steps - step)}

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        if self._log is not None:
            self._log.add(step, values)
        self._sink(step, values)

    def _report(self, step: int) -> None:
        shown: dict[str, float] = {
            name: self._shown[name] for name in ("loss", "validation_loss", "mfu") if name in self._shown
        }
        if self._skipped:
            shown[SKIPPED] = self._skipped
        done, total = step * self._step_tokens, self._steps * self._step_tokens
        self._job.report(done, total, "tokens", **shown, **self._seconds_left(step))
