"""A training under Ray Train: the driver, which runs as a job of Ray's Jobs API.

    python -m jobs.ray_train jobs.pretrain --recipe OUT/recipe.json --output OUT --inputs shards=... tokenizer=...

Ray Train places a worker on each of `cluster.train.nodes` machines with room for its `processes` ranks, waits until it
can, and after a lost rank or machine starts all of them again, `max_restarts` times; the job goes on behind its last
checkpoint. SIGTERM is passed on to a rank, so that all leave behind a checkpoint.
"""

import argparse
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_core.artifact import MANIFEST
from gpt_core.errors import GptmillError, PreemptedError, StageError, TransientError
from gpt_core.recipe import TrainCluster
from gpt_core.recipe_file import load_recipe
from jobs.job import ERROR, end_with_error
from jobs.ray_context import last_line, ray_context

if TYPE_CHECKING:
    from ray.train import TrainingFailedError

    from jobs.ray_ranks import RanksOfAMachine


def main(argv: list[str] | None = None) -> None:
    """The training has ended with a manifest; else the exit code is that of the error that error.json tells."""
    arguments, command = _parse_arguments(argv)
    output: Path = arguments.output
    try:
        cluster = load_recipe(arguments.recipe).cluster
        os.environ["RAY_COLOR_PREFIX"] = "0"
        with ray_context(cluster.ray, pass_on_logs=True):
            _train(cluster.train, command, output)
    except GptmillError as error:
        if (output / ERROR).exists() and not (output / MANIFEST).exists():  # a rank knew better
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        end_with_error(error, output)


def resources_of_a_machine(train: TrainCluster, *, gpus: bool) -> dict[str, float]:
    """What Ray is asked for, for the ranks of a machine: a CPU a thread, and a GPU a rank where there are any."""
    cpus = {"CPU": float(train.processes * (train.threads_per_process or 1))}
    return {**cpus, "GPU": float(train.processes)} if gpus else cpus


def _parse_arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """What the driver needs of them, and the command of a rank, behind the interpreter."""
    parser = argparse.ArgumentParser(description="A training of gptmill under Ray Train.")
    parser.add_argument("module", help="the job, jobs.pretrain or jobs.finetune")
    parser.add_argument("--recipe", type=Path, required=True, help="the resolved recipe, JSON")
    parser.add_argument("--output", type=Path, required=True, help="the prepared output folder")
    words = sys.argv[1:] if argv is None else argv
    return parser.parse_known_args(words)[0], ["-m", *words]


def _train(train: TrainCluster, command: Sequence[str], output: Path) -> None:
    """The ranks have ended well. Raises PreemptedError, TransientError or StageError."""
    import ray
    from ray.train import TrainingFailedError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from jobs.ray_ranks import RanksOfAMachine, StopRequest

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    stop = ray.remote(num_cpus=0)(StopRequest).options(scheduling_strategy=here).remote()
    asked = _pass_on_sigterm(stop, output)
    resources = resources_of_a_machine(train, gpus=ray.cluster_resources().get("GPU", 0) > 0)
    print(f"Ray Train: {train.nodes} machine(s) with {resources} each", flush=True)
    try:
        code = _run(train, resources, RanksOfAMachine(command=command, processes=train.processes, stop=stop))
    except TrainingFailedError as error:
        if not asked.is_set():
            raise _failure(error) from None
        code = PreemptedError.exit_code
    if code == PreemptedError.exit_code:
        raise PreemptedError("SIGTERM stopped it; the same command goes on behind its last checkpoint")


def _run(train: TrainCluster, resources: dict[str, float], ranks: "RanksOfAMachine") -> int:
    """What `run_ranks` returned on the first machine. Raises TrainingFailedError."""
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer  # TorchTrainer would meet beside our ranks

    from jobs.ray_ranks import run_ranks

    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    with tempfile.TemporaryDirectory() as storage:  # Ray Train writes two small files there, and no checkpoint
        trainer = DataParallelTrainer(
            run_ranks,
            train_loop_config=dict(ranks),
            scaling_config=ScalingConfig(
                num_workers=train.nodes,
                use_gpu="GPU" in resources,
                resources_per_worker=resources,
                placement_strategy="STRICT_SPREAD",
            ),
            run_config=RunConfig(
                storage_path=storage,
                failure_config=FailureConfig(max_failures=train.max_restarts),
                logging_config=LoggingConfig(log_level="WARNING"),
            ),
        )
        code: int = trainer.fit().return_value
        return code


def _pass_on_sigterm(stop: Any, output: Path) -> threading.Event:
    """From now on SIGTERM makes the StopRequest `stop`, and sets what is returned; it ends a driver that only waits."""
    import ray

    asked = threading.Event()

    def pass_on() -> None:
        asked.wait()
        if not ray.get(stop.make.remote()):
            error = PreemptedError("SIGTERM stopped it before it began; the same command starts it again")
            with suppress(SystemExit):
                end_with_error(error, output)
            os._exit(error.exit_code)  # the main thread waits for Ray

    threading.Thread(target=pass_on, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    return asked


def _failure(error: "TrainingFailedError") -> StageError:
    """Which rank failed first, or that Ray lost a machine."""
    from jobs.ray_ranks import RankFailedError

    told = [last_line(failure) for failure in getattr(error, "worker_failures", {}).values()]
    lost = [line for line in told if RankFailedError.__name__ not in line]
    if lost or not told:
        return TransientError(f"Ray lost a part of the training: {(lost or [last_line(error)])[0]}")
    return StageError(f"the training failed: {told[0].partition(': ')[2]}; the log says why")


if __name__ == "__main__":
    main()
