"""What a pre-training takes is told by `plan`, and `plan` and `run` refuse what a rank's memory cannot hold."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from stage_output import write_output

from gpt_core.errors import UserError
from gpt_core.model.config import DecoderConfig
from gpt_core.model.hf_config import config_fields
from gpt_core.recipe_file import load_recipe
from gpt_core.tokenizer.files import count_ids
from pipelines.plan import make_plan, resolve_paths
from pipelines.training_plan import PROCESS_BYTES, Machine, TrainingPlan, plan_training, require_memory

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "recipes" / "demo.yaml"
GIB = 2**30
CPU = Machine(8 * GIB)
GPU = Machine(512 * GIB, gpus=8, gpu_bytes=80 * GIB)
# 8.2 billion parameters: 115 GB of weights and states in bf16
LARGE = (
    "model={architecture: qwen3, n_layer: 40, n_head: 32, n_embd: 4096, context_length: 2048}",
    "pretrain.precision=bf16",
    "pretrain.batch_sequences=64",
    "pretrain.tokens=1000000000",
    "tokenizer.vocab_size=32000",
    "finetune=null",
)


@pytest.fixture(autouse=True)
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def planned(tmp_path: Path, *overrides: str, machine: Machine = CPU) -> TrainingPlan:
    recipe = resolve_paths(load_recipe(DEMO, [f"workspace={tmp_path}/w", *overrides]))
    training = plan_training(recipe, make_plan(recipe), machine=machine)
    assert training is not None
    return training


def refusal(training: TrainingPlan) -> str:
    with pytest.raises(UserError) as caught:
        require_memory(training)
    return str(caught.value)


def gptmill(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # the same figures where there is a GPU
    command = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_plan_tells_what_the_pretraining_takes(tmp_path: Path) -> None:
    done = gptmill(
        "plan", str(DEMO), "--set", f"workspace={tmp_path}/w", "--set", "cluster.train.memory_bytes=2000000000"
    )
    assert done.returncode == 0, done.stderr
    table = done.stdout.split("pretrain, estimated\n")[1]
    assert [line.rstrip() for line in table.splitlines()] == [
        "parameters      1,394,048, 39% of them in embeddings of 4,224 rows",
        "tokens          3,399,680 in 1,660 steps of 2,048",
        "  a parameter   2.44; 20 are worth most for their arithmetic",
        "FLOPs           3.1e13, 9.14M a token",
        "memory a rank   670 MB of 2 GB, as the loss is made:",
        "  weights       5.58 MB",
        "  optimizer     5.58 MB",
        "  activations   43.1 MB",
        "  buffers       15.3 MB",
        "  process       600 MB",
        "checkpoints     22.3 MB each, 3 at most at once: 66.9 MB",
    ]


def test_programs_read_the_same_figures(tmp_path: Path) -> None:
    rows = json.loads(gptmill("plan", str(DEMO), "--set", f"workspace={tmp_path}/w", "--json").stdout)
    estimates = {row["stage"]: row["estimate"] for row in rows if "estimate" in row}
    assert list(estimates) == ["pretrain"]
    told = estimates["pretrain"]
    assert (told["parameters"], told["steps"], told["tokens"]) == (1_394_048, 1660, 3_399_680)
    assert told["flops"] == told["flops_per_token"] * told["tokens"]
    parts = ("weights", "optimizer", "gradients", "activations", "buffers", "host")
    assert told["memory"]["need_bytes"] == sum(told["memory"][part] for part in parts) + PROCESS_BYTES


def test_epochs_are_told_where_the_shards_are_made(tmp_path: Path) -> None:
    recipe = resolve_paths(load_recipe(DEMO, [f"workspace={tmp_path}/w"]))
    for stage in make_plan(recipe)[:4]:
        stage.output.mkdir(parents=True)
        (stage.output / "file").write_text("made")
        counts = {"vocab_size": 2_000, "train_tokens": 1_699_840}
        write_output(stage.output, stage.stage.name, counts, identity=stage.identity)
    training = plan_training(recipe, make_plan(recipe), machine=CPU)
    assert training is not None
    assert training.train_tokens == 1_699_840
    assert training.training.config.vocab_size == 2_048  # of the tokenizer that was learned, not of the one asked for
    out = gptmill("plan", str(DEMO), "--set", f"workspace={tmp_path}/w").stdout
    assert "3,399,680 in 1,660 steps of 2,048, 2 epochs of 1,699,840" in out


def test_a_training_that_is_made_or_left_out_is_not_estimated(tmp_path: Path) -> None:
    recipe = resolve_paths(load_recipe(DEMO, [f"workspace={tmp_path}/w"]))
    assert plan_training(recipe, make_plan(recipe, until="shards"), machine=CPU) is None


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_training_that_cannot_fit_is_refused_before_anything_starts(command: str, tmp_path: Path) -> None:
    memory = ["--set", "cluster.train.memory_bytes=640_000_000"]
    done = gptmill(command, str(DEMO), "--set", f"workspace={tmp_path}/w", *memory)
    assert done.returncode == 2
    assert done.stderr == (
        "error: pretrain: needs 670 MB a rank, and cluster.train.memory_bytes is 640 MB; set cluster.train."
        "micro_batch_sequences=2, or cluster.train.activation_checkpointing=true, or cluster.train.processes=8\n"
    )
    assert not list((tmp_path / "w").glob("*/*/log.txt"))


def test_every_way_out_that_is_named_is_one(tmp_path: Path) -> None:
    overrides = ("cluster.train.processes=8", "cluster.train.zero_stage=1", "cluster.train.micro_batch_sequences=1")
    training = planned(tmp_path, *LARGE, *overrides, machine=GPU)
    assert refusal(training) == (  # DeepSpeed sums bf16 gradients of all parameters in fp32 at stage 1
        "pretrain: needs 127 GB a GPU, and this machine has 85.9 GB; set cluster.train.zero_stage=2, "
        "or cluster.train.offload=optimizer"
    )
    for settings in ({"zero_stage": 2}, {"offload": "optimizer"}):
        require_memory(training.with_settings(settings))
    assert "needs 127 GB" in refusal(training.with_settings({"activation_checkpointing": True}))


def test_where_nothing_alone_is_enough_what_is_together_is_named(tmp_path: Path) -> None:
    small = Machine(512 * GIB, gpus=8, gpu_bytes=24 * GIB)
    training = planned(tmp_path, *LARGE, "cluster.train.processes=8", "cluster.train.zero_stage=1", machine=small)
    message = refusal(training)
    assert message.endswith(
        "nothing alone is enough; together cluster.train.micro_batch_sequences=1 and "
        "cluster.train.activation_checkpointing=true and cluster.train.zero_stage=3 are"
    )
    require_memory(
        training.with_settings({"micro_batch_sequences": 1, "activation_checkpointing": True, "zero_stage": 3})
    )


def test_a_model_too_large_for_all_settings_is_told_what_is_still_missing(tmp_path: Path) -> None:
    message = refusal(planned(tmp_path, *LARGE))
    assert "a rank, and this machine has 4.29 GB; with cluster.train.micro_batch_sequences=1 and " in message
    assert "zero_stage=3 it still needs " in message
    assert message.endswith("GB a rank, and this machine has 4.29 GB; take a smaller model, or more memory")


def test_what_is_offloaded_must_fit_into_the_hosts_memory(tmp_path: Path) -> None:
    tight = Machine(64 * GIB, gpus=8, gpu_bytes=80 * GIB)
    overrides = ("processes=8", "zero_stage=3", "offload=optimizer", "micro_batch_sequences=1")
    message = refusal(planned(tmp_path, *LARGE, *(f"cluster.train.{it}" for it in overrides), machine=tight))
    assert message.startswith("pretrain: needs 164 GB in the host's memory, and this machine has 68.7 GB; ")


def test_without_a_gpu_ranks_share_the_machines_memory(tmp_path: Path) -> None:
    one, two = (planned(tmp_path, f"cluster.train.processes={count}").have_bytes for count in (1, 2))
    assert (one, two) == (8 * GIB, 4 * GIB)
    assert planned(tmp_path, machine=GPU).have_bytes == 80 * GIB
    assert planned(tmp_path, "cluster.train.memory_bytes=5000", machine=GPU).have_bytes == 5000


def test_the_smallest_gpu_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\nprintf '81559\\n40960\\n'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    machine = Machine.here()
    assert (machine.gpus, machine.gpu_bytes) == (2, 40960 * 2**20)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Machine.here().gpus == 0
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    script.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert Machine.here().gpus == 0


def test_a_model_to_go_on_from_has_its_own_rows(tmp_path: Path) -> None:
    recipe = resolve_paths(load_recipe(DEMO, [f"workspace={tmp_path}/w"]))
    fields = config_fields(DecoderConfig.from_recipe(recipe.model, 999), end_of_text_id=0)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Qwen3ForCausalLM"], **fields}))
    (tmp_path / "model.safetensors").write_text("weights")
    training = planned(tmp_path, f"pretrain.init_from={tmp_path}").training
    assert training.config.vocab_size == 1_024


def test_ids_of_an_existing_tokenizer_are_counted_from_its_files(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "b": 7}}, "added_tokens": [{"id": 9}]}')
    assert count_ids(tmp_path) == 10
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": [["a", 0.1], ["b", 0.2]]}}')  # Unigram's
    assert count_ids(tmp_path / "tokenizer.json") == 2
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "c": 4}')
    assert count_ids(tmp_path) == 5
    (tmp_path / "vocab.json").write_text("[")
    assert count_ids(tmp_path) is None


def test_an_estimate_loads_no_engine() -> None:
    code = (
        "import sys; from pathlib import Path; from gpt_core.recipe_file import load_recipe\n"
        "from pipelines.plan import make_plan, resolve_paths; from pipelines.training_plan import plan_training\n"
        f"recipe = resolve_paths(load_recipe(Path({str(DEMO)!r}))); plan_training(recipe, make_plan(recipe))\n"
        "print([m for m in ('torch', 'deepspeed', 'pyarrow', 'numpy', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
