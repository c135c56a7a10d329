"""Pre-training with DeepSpeed ZeRO: token shards in, a language model in Hugging Face layout out.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m jobs.pretrain --recipe ... --output ...

Killed and started again, on any number of ranks at any ZeRO stage, it goes on behind its last checkpoint with the same
samples in the same order; on as many ranks it ends with the same weights. SIGTERM to any rank is a wish to stop: all
save behind the same step and exit 5.
"""

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch

from gpt_core.artifact import write_atomically, write_json
from gpt_core.data.batches import TrainingSamples, ValidationWindows
from gpt_core.data.shard_cache import ShardCache, open_side
from gpt_core.fingerprint import fingerprint
from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.model.hf import save_language_model
from gpt_core.model.start import start_decoder
from gpt_core.tasks.spec import IGNORED
from gpt_core.tokenizer.tokenizer import Tokenizer, copy_tokenizer
from gpt_core.training.checkpoint import Checkpoints
from gpt_core.training.curves import STEPS, Curves, read_steps
from gpt_core.training.engine import Engine
from gpt_core.training.estimate import training_flops_per_token
from gpt_core.training.guard import Guard
from gpt_core.training.loop import MicroBatch, train
from gpt_core.training.objective import LanguageObjective
from gpt_core.training.prefetch import Prefetch
from gpt_core.training.schedule import Schedule
from gpt_core.training.zero_config import micro_batch_size
from jobs.job import Job, Outcome, read_identity, run_job
from jobs.node_metrics import watch_node
from jobs.preemption import Keeper, note_sigterm
from jobs.pretrain_record import SKIPPED, Recorder
from jobs.pretrain_sample import Sampler
from jobs.tracking import metric_logger
from jobs.zero import ZeroEngine, join_ranks, part_ranks

SAMPLES = "samples.json"
KEPT = ("checkpoints", STEPS)  # between attempts
LOSS_STEPS = 20  # over which the training loss that is told at the end is averaged


@dataclass(frozen=True)
class Batches:
    """This rank's micro-batches of every step and of the validation."""

    samples: TrainingSamples
    validation: ValidationWindows
    tokens_per_byte: float  # of the validation text
    rank: int
    world_size: int
    micro_batch: int
    document_mask: bool

    def of_step(self, step: int) -> Iterator[MicroBatch]:
        """This rank's sequences of the step as inputs and targets, and where the model attends by them, positions."""
        batch = self.samples.batch(step, rank=self.rank, world_size=self.world_size, positions=self.document_mask)
        for start in range(0, len(batch.ids), self.micro_batch):
            part = slice(start, start + self.micro_batch)
            places = [] if batch.positions is None else [batch.positions[part]]
            yield _micro_batch(batch.ids[part, :-1], batch.targets[part], *places)

    def of_validation(self) -> Iterator[MicroBatch]:
        """The rank's part of the validation windows; windows that only fill count nothing."""
        size = self.micro_batch * self.world_size
        for start in range(0, len(self.validation), size):
            dealt = range(start, min(start + size, len(self.validation)))[self.rank :: self.world_size]
            windows = self.validation.take(dealt)  # (B, T + 1)
            filling = ((0, self.micro_batch - len(dealt)), (0, 0))
            places = [np.pad(self.validation.positions(windows), filling)] if self.document_mask else []
            targets = np.pad(windows[:, 1:], filling, constant_values=IGNORED)
            yield _micro_batch(np.pad(windows[:, :-1], filling), targets, *places)


def make(job: Job) -> Outcome:
    """The model is trained and exported; checkpoints go with the manifest."""
    recipe, settings = job.recipe, job.recipe.pretrain
    rank, world_size = join_ranks(recipe.cluster.train)
    tokenizer = Tokenizer.load(job.inputs["tokenizer"].file("tokenizer.json").parent)
    decoder = start_decoder(
        recipe.model, vocab_size=tokenizer.vocab_size, init_from=settings.init_from, seed=settings.seed
    )
    decoder.activation_checkpointing = recipe.cluster.train.activation_checkpointing
    sampler = Sampler.of_recipe(recipe, decoder, tokenizer)
    batches = _open_batches(job, tokenizer, rank=rank, world_size=world_size)
    engine = ZeroEngine(
        LanguageObjective(decoder, settings.precision, z_loss=settings.z_loss),
        settings,
        recipe.cluster.train,
        micro_batch=batches.micro_batch,
    )
    checkpoints = Checkpoints(
        job.output / "checkpoints",
        identity=fingerprint(read_identity(job.output)),
        settings=recipe.cluster.train,
    )
    _train(job, engine, batches, checkpoints, config=decoder.config, sampler=sampler)
    weights = engine.weights()
    if rank:
        return Outcome([])
    trained = Decoder(decoder.config)  # a new one: ZeRO 3 has left the old one without weights
    trained.load_state_dict({name.removeprefix("model.decoder."): value for name, value in weights.items()})
    return replace(_export(job, trained, tokenizer, batches), scratch=checkpoints.scratch())


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
    counts = shards.manifest.counts
    return Batches(
        samples=samples,
        validation=validation,
        tokens_per_byte=counts["validation_tokens"] / counts["validation_bytes"],
        rank=rank,
        world_size=world_size,
        micro_batch=micro_batch_size(
            settings.batch_sequences,
            world_size=world_size,
            at_most=recipe.cluster.train.micro_batch_sequences,
        ),
        document_mask=settings.document_mask,
    )


def _micro_batch(*inputs: np.ndarray) -> MicroBatch:
    """Arrays (B, T) as int64 tensors of their own, contiguous: views of one row of ids keep T + 1 a row."""
    return MicroBatch(tuple(torch.from_numpy(array.astype(np.int64, order="C")) for array in inputs))


def _train(
    job: Job,
    engine: Engine,
    batches: Batches,
    checkpoints: Checkpoints,
    *,
    config: DecoderConfig,
    sampler: Sampler | None,
) -> None:
    """The engine's weights are trained to the end of the schedule; steps.jsonl tells every figure on the way."""
    settings = job.recipe.pretrain
    schedule = Schedule.of_pretraining(job.recipe)
    n_targets = lru_cache(maxsize=1)(batches.samples.n_targets)  # asked for by every micro-batch
    done, state = checkpoints.load_newest(engine)
    guard = Guard.of_settings(settings, state.get("guard"))
    with ExitStack() as stack:
        keeper = Keeper(checkpoints, engine, stack.enter_context(note_sigterm()))
        sink = stack.enter_context(closing(metric_logger(job.recipe)))
        stack.enter_context(watch_node(job.recipe))
        prefetch = stack.enter_context(
            Prefetch(partial(_fetch, batches, engine.device), first=done, stop=schedule.steps)
        )
        recorder = Recorder(
            job,
            engine,
            sink,
            done=done,
            flops_per_token=training_flops_per_token(config, config.context_length),
            waited=lambda: prefetch.waited_seconds,
        )
        stack.enter_context(closing(recorder))
        for figures in train(
            engine,
            schedule,
            batches=prefetch,
            weigh=lambda step, losses: ((losses[0] + settings.z_loss * losses[1]) / n_targets(step), losses),
            guard=guard,
            seed=settings.seed,
            first_step=done,
            signals=keeper.signals,
        ):
            step = figures.step
            nats, z = (value / n_targets(step - 1) for value in figures.sums)
            recorder.step(figures, {"train_loss": nats, **({"z": z} if settings.z_loss else {})})
            if step % settings.validate_every_steps == 0 or step == schedule.steps:
                recorder.validation(step, _validate(engine, batches))
                text = sampler.write(engine) if sampler is not None else None
                if sampler is not None and text is not None:
                    recorder.sample(step, sampler.prompt, text)
            due = step % job.recipe.cluster.train.checkpoint_every_steps == 0 and step < schedule.steps
            keeper.keep(figures, partial(_save, checkpoints, engine, recorder, guard, step), due=due)
    checkpoints.complete(engine)


def _save(checkpoints: Checkpoints, engine: Engine, recorder: Recorder, guard: Guard, step: int) -> None:
    """A checkpoint behind `step` stands, or will."""
    recorder.sync()
    checkpoints.save(engine, step, {"guard": guard.state()}, validation_loss=recorder.validation_loss)


def _fetch(batches: Batches, device: torch.device, step: int) -> list[MicroBatch]:
    """This rank's micro-batches of `step`; for a GPU in pinned memory, so that their copy goes on beside its work."""
    found = list(batches.of_step(step))
    if device.type != "cuda":
        return found
    return [MicroBatch(tuple(tensor.pin_memory() for tensor in batch.inputs)) for batch in found]


def _validate(engine: Engine, batches: Batches) -> dict[str, float]:
    """Nats per token over the validation windows and bits per byte of their text, on every rank."""
    nats = tokens = 0.0
    for batch in batches.of_validation():
        nats += float(engine.predict(*batch.inputs)[0])
        tokens += float((batch.inputs[1] != IGNORED).sum())
    nats, tokens = engine.sum_over_ranks([nats, tokens])
    loss = nats / tokens
    return {"validation_loss": loss, "validation_bits_per_byte": loss / math.log(2) * batches.tokens_per_byte}


def _export(job: Job, decoder: Decoder, tokenizer: Tokenizer, batches: Batches) -> Outcome:
    """The trained decoder in Hugging Face layout, with its tokenizer, its curves and what it wrote on the way."""
    samples, steps_file = batches.samples, job.output / STEPS
    model = job.output / "model"
    model.mkdir()
    save_language_model(decoder, model, end_of_text_id=tokenizer.end_of_text_id)
    source = job.inputs["tokenizer"].root
    copy_tokenizer(source, model, model_max_length=decoder.config.context_length)
    curves = Curves.read(steps_file)
    write_json(job.output / "curves.json", curves.thinned())
    steps = int(curves.series["learning_rate"][-1][0])
    T = samples.context_length  # noqa: N806
    by_source = samples.count_sequences(steps * samples.batch_sequences) if job.recipe.pretrain.mixture else {}
    written = [{"step": entry.step, **entry.sample} for entry in read_steps(steps_file) if entry.sample is not None]
    write_atomically(job.output / SAMPLES, json.dumps(written, indent=1, ensure_ascii=False) + "\n")
    return Outcome(
        paths=[model, job.output / "curves.json", job.output / SAMPLES, steps_file],
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
            "validation_loss": curves.last("validation_loss"),
            "validation_bits_per_byte": curves.last("validation_bits_per_byte"),
            "tokens_per_second": curves.mean_of_last("tokens_per_second", steps),
            **({"padding": samples.padding} if job.recipe.pretrain.packing == "best_fit" else {}),
        },
        engines=("deepspeed", "torch"),
    )


if __name__ == "__main__":
    run_job("pretrain", make, keeps=KEPT, part=part_ranks)
