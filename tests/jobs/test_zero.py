"""DeepSpeed as an Engine on two ranks: every promised combination takes plain torch's steps, and bad ones no trace.

This file is also the script that torchrun starts, once for all combinations.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gpt_core.recipe import TrainCluster
from gpt_core.training.checkpoint_files import detach, write_files
from zero_cases import (
    COMPILED,
    EXACT,
    MICRO_BATCH,
    NAN,
    PARTIAL,
    REFUSED,
    ROUNDED,
    SAVED_AFTER,
    SEQUENCES,
    SPIKE,
    STEPS,
    TAKEN,
    TOKENS,
    Case,
    Scaled,
    batch_of,
    plain_steps,
)

# ---- DeepSpeed, under torchrun -------------------------------------------------------------------------------------


def run_case(case: Case, folder: Path) -> dict[str, object]:
    from jobs.zero import ZeroEngine

    def make(seed: int) -> ZeroEngine:
        return ZeroEngine(Scaled(case, seed=seed), case.settings, case.cluster, micro_batch=MICRO_BATCH)

    def take(engine: ZeroEngine, step: int) -> float:
        share = SEQUENCES // engine.world_size
        ids, targets, factor = batch_of(step)
        for start in range(engine.rank * share, (engine.rank + 1) * share, MICRO_BATCH):
            rows = slice(start, start + MICRO_BATCH)
            loss = engine.forward(ids[rows], targets[rows], factor) / TOKENS
            engine.backward(loss, last=start + MICRO_BATCH == (engine.rank + 1) * share)
        if step == TAKEN[0]:
            engine.predict(ids[rows], targets[rows], factor)
        return engine.step(1.0, norm_limit={REFUSED: -math.inf, SPIKE: 20.0}.get(step, math.inf))

    engine = make(0)
    norms, weights, losses = [], [engine.weights()], []
    for step in range(STEPS):
        norms.append(take(engine, step))
        weights.append(engine.weights())
        if step == SAVED_AFTER:
            (folder / case.name).mkdir(exist_ok=True)
            write_files(detach(engine.state_files(), copy=False), folder / case.name)
            engine.barrier()
    ids, targets, factor = batch_of(0)
    losses = [float(engine.predict(ids[:MICRO_BATCH], targets[:MICRO_BATCH], factor))]
    resumed = make(1)
    resumed.load(folder / case.name)
    again = [take(resumed, step) for step in range(SAVED_AFTER + 1, STEPS)]
    end = resumed.weights()
    if engine.rank:
        return {}
    return {
        "norms": norms,
        "losses": losses,
        "moved": [step for step in range(STEPS) if not same(weights[step], weights[step + 1])],
        "resumed": same(end, weights[-1]) and again == norms[SAVED_AFTER + 1 :],
        "memory_bytes": engine.memory_bytes(),
        "weights": {name: value.tolist() for name, value in end.items()},
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


# ---- the tests -----------------------------------------------------------------------------------------------------


def start(cases: list[Case], folder: Path) -> dict[str, dict[str, list[float]]]:
    root = Path(__file__).parents[2]
    names = [case.name for case in cases]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{root}:{root / 'tests'}",
        "OMP_NUM_THREADS": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    done = subprocess.run(
        [*command, folder, *names], capture_output=True, text=True, env=environment, cwd=root, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "told.json").read_text())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[float]]]:
    return start(EXACT + ROUNDED, tmp_path_factory.mktemp("zero"))


@pytest.fixture(scope="module")
def told_compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[float]]]:
    return start(COMPILED, tmp_path_factory.mktemp("compiled"))


def names(cases: list[Case]) -> list[str]:
    return [case.name for case in cases]


@pytest.mark.train
@pytest.mark.parametrize("case", EXACT, ids=names(EXACT))
def test_steps_are_those_of_plain_torch_on_the_whole_batch(case: Case, told: dict[str, dict[str, list[float]]]) -> None:
    assert_plain(case, told[case.name])


def assert_plain(case: Case, seen: dict[str, list[float]]) -> None:
    norms, weights = plain_steps(case)
    for step, norm in norms.items():
        if math.isfinite(norm):
            assert seen["norms"][step] == pytest.approx(norm, rel=1e-3), step
    for name, value in weights.items():
        torch.testing.assert_close(torch.tensor(seen["weights"][name]), value, atol=2e-4, rtol=1e-3)


@pytest.mark.train
@pytest.mark.parametrize("case", PARTIAL, ids=names(PARTIAL))
def test_what_learns_in_part_comes_to_the_loss_of_plain_torch(
    case: Case, told: dict[str, dict[str, list[float]]]
) -> None:
    model, (ids, targets, factor) = Scaled(case), batch_of(0)
    _, weights = plain_steps(case)
    assert told[case.name]["weights"].keys() == weights.keys()
    begun = model(ids[:MICRO_BATCH], targets[:MICRO_BATCH], factor).item()
    model.load_state_dict(weights, strict=False)
    ended = model(ids[:MICRO_BATCH], targets[:MICRO_BATCH], factor).item()
    assert ended < begun - 0.01
    assert told[case.name]["losses"] == [pytest.approx(ended, rel=1e-4)]


@pytest.mark.train
@pytest.mark.parametrize("case", ROUNDED, ids=names(ROUNDED))
def test_with_products_in_bf16_the_steps_are_nearly_those(case: Case, told: dict[str, dict[str, list[float]]]) -> None:
    assert_nearly_plain(case, told[case.name])


def assert_nearly_plain(case: Case, seen: dict[str, list[float]]) -> None:
    norms, weights = plain_steps(replace(case, precision="fp32"))
    assert [seen["norms"][step] for step in TAKEN] == pytest.approx([norms[step] for step in TAKEN], rel=0.2)
    first = dict(Scaled(case).named_parameters())
    way = nn.utils.parameters_to_vector([value - first[name].detach() for name, value in weights.items()])
    off = nn.utils.parameters_to_vector([torch.tensor(seen["weights"][name]) - weights[name] for name in weights])
    # Muon blows the smallest singular values up, and they are rounding; a wrong direction would give 1.4.
    assert off.norm() / way.norm() < (0.5 if case.optimizer == "muon" else 0.3)


@pytest.mark.train
@pytest.mark.parametrize("case", EXACT + ROUNDED, ids=names(EXACT + ROUNDED))
def test_a_step_that_is_refused_not_finite_or_over_its_limit_moves_nothing(
    case: Case, told: dict[str, dict[str, list[float]]]
) -> None:
    seen = told[case.name]
    assert seen["moved"] == TAKEN
    assert not math.isfinite(seen["norms"][NAN])
    assert math.isfinite(seen["norms"][SPIKE])


@pytest.mark.train
@pytest.mark.parametrize("case", EXACT + ROUNDED, ids=names(EXACT + ROUNDED))
def test_an_engine_that_loads_goes_on_as_the_one_that_saved(
    case: Case, told: dict[str, dict[str, list[float]]]
) -> None:
    assert told[case.name]["resumed"]


@pytest.mark.train
def test_bf16_training_exports_the_fp32_weights_that_it_keeps(told: dict[str, dict[str, list[float]]]) -> None:
    for case in ROUNDED:
        if case.precision == "bf16" and not case.trainable:
            weight = torch.tensor(told[case.name]["weights"]["objective.model.decoder.embedding.weight"])
            assert not torch.equal(weight, weight.bfloat16().float())


@pytest.mark.train
def test_the_memory_of_a_rank_is_told(told: dict[str, dict[str, int]]) -> None:
    assert 10**8 < told[EXACT[0].name]["memory_bytes"] < 10**10


@pytest.mark.train
@pytest.mark.parametrize("case", COMPILED, ids=names(COMPILED))
def test_compiled_blocks_take_the_same_steps(case: Case, told_compiled: dict[str, dict[str, list[float]]]) -> None:
    seen = told_compiled[case.name]
    assert_plain(case, seen)
    assert seen["moved"] == TAKEN
    assert seen["resumed"]


@pytest.mark.train
def test_compilation_happens_once_for_training_and_once_for_validation(
    told_compiled: dict[str, dict[str, list[float]]],
) -> None:
    assert [told_compiled[case.name]["graphs"] for case in COMPILED] == [2] * len(COMPILED)


@pytest.mark.train
def test_without_a_compiler_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpt_core.errors import SetupError
    from jobs.zero import require_compiler

    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SetupError, match=r"cluster.train.compile=true .* no no-such-compiler on PATH; install one"):
        require_compiler()


@pytest.mark.train
def test_without_torchrun_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpt_core.errors import UserError
    from jobs.zero import join_ranks

    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="start training jobs under torchrun"):
        join_ranks(TrainCluster())


def main(folder: Path, chosen: list[str]) -> None:
    """Rank 0 writes told.json: what each chosen case gave."""
    from torch._dynamo.utils import counters

    from jobs.zero import join_ranks

    rank, _ = join_ranks(TrainCluster(threads_per_process=1))
    results = {}
    for case in EXACT + ROUNDED + COMPILED:
        if case.name in chosen:
            torch._dynamo.reset()
            counters.clear()
            results[case.name] = {**run_case(case, folder), "graphs": counters["stats"]["unique_graphs"]}
    if rank == 0:
        (folder / "told.json").write_text(json.dumps(results))
    torch.distributed.barrier()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
