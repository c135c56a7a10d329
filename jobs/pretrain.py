"""Pre-training with DeepSpeed ZeRO: token shards in, a language model in Hugging Face layout out.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m jobs.pretrain --recipe ... --output ...

Killed and started again, on any number of ranks at any ZeRO stage, it goes on behind its last checkpoint with the same
samples in the same order; on as many ranks it ends with the same weights. SIGTERM to any rank is a wish to stop: all
save behind the same step and exit 75.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch

from gpt_core.artifact import write_json
from gpt_core.data.batches import TrainingSamples, ValidationWindows
from gpt_core.data.shard_cache import ShardCache, open_side
from gpt_core.errors import PreemptedError
from gpt_core.fingerprint import Json, fingerprint
from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.model.hf import save_language_model
from gpt_core.tokenizer.tokenizer import Tokenizer, copy_tokenizer
from gpt_core.training.checkpoint import Checkpoints
from gpt_core.training.curves import Curves
from gpt_core.training.engine import Engine
from gpt_core.training.loop import MicroBatch, StepFigures, train
from gpt_core.training.objective import LanguageObjective
from gpt_core.training.schedule import Schedule
from gpt_core.training.tasks import IGNORED
from gpt_core.training.zero_config import micro_batch_size
from jobs.job import Job, Outcome, read_identity, run_job
from jobs.preemption import note_sigterm
from jobs.tracking import MetricSink, metric_logger
from jobs.zero import ZeroEngine, join_ranks

VALIDATION_LOSS = "validation_loss"
SKIPPED = "skipped_steps"  # a series that stands in the curves where a step had no finite figures
LOSS_STEPS = 20  # over which the training loss that is told at the end is averaged


@dataclass(frozen=True)
class Batches:
    """This rank's micro-batches of every step and of the validation."""

    samples: TrainingSamples
    validation: ValidationWindows
    rank: int
    world_size: int
    micro_batch: int

    def of_step(self, step: int) -> Iterator[MicroBatch]:
        """This rank's sequences of the step as inputs and targets."""
        batch = self.samples.batch(step, rank=self.rank, world_size=self.world_size)
        for start in range(0, len(batch.ids), self.micro_batch):
            part = slice(start, start + self.micro_batch)
            yield _micro_batch(batch.ids[part, :-1], batch.targets[part])

    def of_validation(self) -> Iterator[MicroBatch]:
        """The rank's part of the validation windows; windows that only fill count nothing."""
        size = self.micro_batch * self.world_size
        for start in range(0, len(self.validation), size):
            dealt = range(start, min(start + size, len(self.validation)))[self.rank :: self.world_size]
            windows = self.validation.take(dealt)  # (B, T + 1)
            filling = ((0, self.micro_batch - len(dealt)), (0, 0))
            inputs = np.pad(windows[:, :-1], filling)
            yield _micro_batch(inputs, np.pad(windows[:, 1:], filling, constant_values=IGNORED))


def make(job: Job) -> Outcome:
    """The model is trained and exported; checkpoints go with the manifest."""
    recipe, settings = job.recipe, job.recipe.pretrain
    rank, world_size = join_ranks(recipe.cluster.train)
    tokenizer = Tokenizer.load(job.inputs["tokenizer"].file("tokenizer.json").parent)
    decoder = Decoder(DecoderConfig.from_recipe(recipe.model, tokenizer.vocab_size))
    decoder.init_weights(settings.seed)
    batches = _open_batches(job, tokenizer, rank=rank, world_size=world_size)
    engine = ZeroEngine(
        LanguageObjective(decoder, settings.precision),
        settings,
        recipe.cluster.train,
        micro_batch=batches.micro_batch,
    )
    checkpoints = Checkpoints(
        job.output / "checkpoints",
        identity=fingerprint(read_identity(job.output)),
        settings=recipe.cluster.train,
    )
    curves = _train(job, engine, batches, checkpoints)
    weights = engine.weights()
    if rank:
        return Outcome([])
    trained = Decoder(decoder.config)  # a new one: ZeRO 3 has left the old one without weights
    trained.load_state_dict({name.removeprefix("model.decoder."): value for name, value in weights.items()})
    return replace(_export(job, trained, tokenizer, curves, batches.samples), scratch=checkpoints.scratch())


def _open_batches(job: Job, tokenizer: Tokenizer, *, rank: int, world_size: int) -> Batches:
    recipe, shards = job.recipe, job.inputs["shards"]
    settings, T = recipe.pretrain, recipe.model.context_length  # noqa: N806
    cache, processes = ShardCache.of_recipe(recipe, shards), recipe.cluster.train.processes
    train_set, validation_set = (
        open_side(shards, side, cache=cache, processes=processes, tokenizer_digest=tokenizer.digest)
        for side in ("train", "validation")
    )
    validation = ValidationWindows(validation_set, T, max_tokens=settings.validation_tokens)
    samples = TrainingSamples(train_set, T, settings, ignored=IGNORED)
    samples.require(recipe.pretrain_steps)
    samples.tell(recipe.pretrain_steps)
    if cache is not None and rank == 0:
        cache.warn_if_short(samples)
    return Batches(
        samples=samples,
        validation=validation,
        rank=rank,
        world_size=world_size,
        micro_batch=micro_batch_size(
            settings.batch_sequences,
            world_size=world_size,
            at_most=recipe.cluster.train.micro_batch_sequences,
        ),
    )


def _micro_batch(inputs: np.ndarray, targets: np.ndarray) -> MicroBatch:
    """Inputs and targets (B, T) as tensors of their own, contiguous: views of one row of ids keep T + 1 a row."""
    return MicroBatch((torch.from_numpy(inputs.copy()), torch.from_numpy(targets.copy())))


def _train(job: Job, engine: Engine, batches: Batches, checkpoints: Checkpoints) -> Curves:
    """The engine's weights are trained to the end of the schedule; returns every figure on the way."""
    settings, step_tokens = job.recipe.pretrain, job.recipe.step_tokens
    schedule = Schedule(
        shape=settings.schedule,
        peak=settings.learning_rate,
        final=settings.final_learning_rate,
        warmup_steps=math.ceil(settings.warmup_tokens / step_tokens),
        steps=job.recipe.pretrain_steps,
    )
    n_targets = lru_cache(maxsize=1)(batches.samples.n_targets)  # asked for by every micro-batch
    done, state = checkpoints.load_newest(engine)
    curves = Curves(state.get("curves"))  # type: ignore[arg-type]
    with closing(metric_logger(job.recipe)) as sink, note_sigterm() as stop_requested:
        for figures in train(
            engine,
            schedule,
            batches=batches.of_step,
            weigh=lambda step, loss: (loss / n_targets(step), [loss]),
            seed=settings.seed,
            first_step=done,
            signals=lambda: (stop_requested(), checkpoints.written),
        ):
            step = figures.step
            report = partial(job.report, step * step_tokens, schedule.steps * step_tokens, "tokens")
            _record(curves, sink, figures, step_tokens=step_tokens, n_targets=n_targets(step - 1), report=report)
            if step % settings.validate_every_steps == 0 or step == schedule.steps:
                values = _validate(engine, batches)
                curves.add(step, values)
                sink(step, values)
            due = step % job.recipe.cluster.train.checkpoint_every_steps == 0 and step < schedule.steps
            _keep(checkpoints, engine, figures, curves, due=due)
    checkpoints.complete(engine)
    return curves


def _keep(checkpoints: Checkpoints, engine: Engine, figures: StepFigures, curves: Curves, *, due: bool) -> None:
    """A checkpoint is written where one is due, and where one begun in the background is written, it is completed.

    Raises PreemptedError, on all ranks alike, behind a checkpoint of this step, where a rank was asked to stop.
    """
    stopped, written = figures.signals
    if due or stopped:
        state: dict[str, Json] = {"curves": curves.all()}
        checkpoints.save(engine, figures.step, state, validation_loss=curves.newest(VALIDATION_LOSS))
    elif written == engine.world_size:
        checkpoints.complete(engine)
    if stopped:
        checkpoints.complete(engine)
        raise PreemptedError(f"SIGTERM stopped it behind step {figures.step}; {checkpoints.way_on()}")


def _record(
    curves: Curves,
    sink: MetricSink,
    figures: StepFigures,
    *,
    step_tokens: int,
    n_targets: int,
    report: Callable[..., None],
) -> None:
    values = {"learning_rate": figures.learning_rate, "tokens_per_second": step_tokens / figures.seconds}
    measures = {}
    if figures.skipped:
        curves.add(figures.step, {SKIPPED: 1})
    else:
        measures["loss"] = figures.sums[0] / n_targets
        values |= {"train_loss": measures["loss"], "gradient_norm": figures.gradient_norm}
    curves.add(figures.step, values)
    sink(figures.step, values)
    report(**measures)


def _validate(engine: Engine, batches: Batches) -> dict[str, float]:
    """Nats per token over the validation windows, on every rank."""
    nats = tokens = 0.0
    for batch in batches.of_validation():
        nats += float(engine.predict(*batch.inputs))
        tokens += float((batch.inputs[1] != IGNORED).sum())
    nats, tokens = engine.sum_over_ranks([nats, tokens])
    return {VALIDATION_LOSS: nats / tokens}


def _export(job: Job, decoder: Decoder, tokenizer: Tokenizer, curves: Curves, samples: TrainingSamples) -> Outcome:
    """The trained decoder in Hugging Face layout, with its tokenizer and its curves."""
    model = job.output / "model"
    model.mkdir()
    save_language_model(decoder, model, end_of_text_id=tokenizer.end_of_text_id)
    source = job.inputs["tokenizer"].root
    copy_tokenizer(source, model, model_max_length=decoder.config.context_length)
    write_json(job.output / "curves.json", curves.thinned())
    steps = int(curves.series["learning_rate"][-1][0])
    T = samples.context_length  # noqa: N806
    by_source = samples.count_sequences(steps * samples.batch_sequences) if job.recipe.pretrain.mixture else {}
    counts = job.inputs["shards"].manifest.counts
    loss = curves.last(VALIDATION_LOSS)
    return Outcome(
        paths=[model, job.output / "curves.json"],
        counts={
            "parameters": decoder.config.n_parameters,
            "steps": steps,
            "skipped_steps": len(curves.series.get(SKIPPED, [])),
            "tokens": steps * samples.batch_sequences * T,
            "unused_tokens": samples.unused_tokens,
            **{f"tokens.{source}": count * T for source, count in by_source.items()},
        },
        figures={
            "train_loss": curves.mean_of_last("train_loss", LOSS_STEPS),
            "validation_loss": loss,
            "validation_bits_per_byte": loss / math.log(2) * counts["validation_tokens"] / counts["validation_bytes"],
            "tokens_per_second": curves.mean_of_last("tokens_per_second", steps),
            **({"padding": samples.padding} if job.recipe.pretrain.packing == "best_fit" else {}),
        },
        engines=("deepspeed", "torch"),
    )


if __name__ == "__main__":
    run_job("pretrain", make, keeps=("checkpoints",))
