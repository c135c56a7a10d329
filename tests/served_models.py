"""Tiny models to register, and MLflow's scoring server over them on loopback."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import tokenizers
import torch
from stage_output import write_output

from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import TaskModel
from gpt_core.model.hf import save_language_model, save_task_model
from gpt_core.model.start import load_for_task
from gpt_core.recipe import Finetune, Model
from gpt_core.tasks.spec import TaskSpec
from gpt_core.tasks.tokenizer import write_task_tokenizer
from gpt_core.tokenizer.tokenizer import Tokenizer, build_backend, close_vocabulary

PATIENCE_SECONDS = 120.0
CONTEXT = 32
MODEL = Model(n_layer=2, n_head=2, n_embd=32, context_length=CONTEXT)


def make_language_model(root: Path, *, shards: str = "5" * 64, seed: int = 1) -> Path:
    """A random language model in an output of pre-training, read from those shards; its folder."""
    folder = root / "model"
    backend = build_backend()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["the river and the mountain by the sea"] * 4, trainer)
    tokenizer = close_vocabulary(backend, "<|endoftext|>")
    tokenizer.save(folder)
    decoder = Decoder(DecoderConfig.from_recipe(MODEL, tokenizer.vocab_size))
    decoder.init_weights(seed)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(10 if parameter.ndim > 1 else 1)  # so that texts differ
    save_language_model(decoder, folder, end_of_text_id=tokenizer.end_of_text_id)
    write_output(root, "pretrain", identity={"stage": "pretrain", "seed": seed, "inputs": {"shards": shards}})
    return folder


def make_task_model(
    root: Path, pretrained: Path, settings: Finetune, labels: Sequence[str] = (), *, seed: int = 1, card: str = ""
) -> Path:
    """A model of the task with a random head in an output of fine-tuning; its folder."""
    folder = root / "model"
    tokenizer = Tokenizer.load(pretrained)
    spec = TaskSpec.of_recipe(
        settings, tuple(labels), max_tokens=settings.max_tokens or CONTEXT, vocab_size=tokenizer.vocab_size
    )
    model: TaskModel | Decoder = load_for_task(pretrained, tokenizer.vocab_size)
    if spec.marks is not None:
        assert isinstance(model, Decoder)
        model = TaskModel(model, n_outputs=spec.n_outputs, target=spec.target, dropout=0.1, seed=seed)
        with torch.no_grad():
            model.score.weight.mul_(20)  # so that answers differ
    save_task_model(model, folder, spec, end_of_text_id=tokenizer.end_of_text_id)
    write_task_tokenizer(pretrained, folder, spec)
    if card:
        (folder / "README.md").write_text(card)
    write_output(root, "finetune", identity={"stage": "finetune", "seed": seed, "inputs": {}})
    return folder


@dataclass(frozen=True)
class ScoringServer:
    """`mlflow models serve`, while it runs."""

    address: str

    def ask(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """The predictions."""
        answer = requests.post(f"{self.address}/invocations", json=request, timeout=60)
        assert answer.status_code == 200, answer.text
        predictions: list[dict[str, Any]] = answer.json()["predictions"]
        return predictions

    def refuse(self, request: dict[str, Any]) -> str:
        """What the server says to a request that is wrong."""
        answer = requests.post(f"{self.address}/invocations", json=request, timeout=60)
        assert answer.status_code == 400, answer.text
        return str(answer.json()["message"])


@contextmanager
def serve(folder: Path, tracking_uri: str, *models: str) -> Iterator[list[ScoringServer]]:
    """A server for each model URI, all started together; logs in `folder`. Nothing may be unpickled."""
    processes, servers = [], []
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": tracking_uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "OMP_NUM_THREADS": "1",
    }
    try:
        for number, model in enumerate(models):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
            command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
            with (folder / f"served-{number}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
                    )
                )
            servers.append(ScoringServer(f"http://127.0.0.1:{port}"))
        deadline = time.monotonic() + PATIENCE_SECONDS
        for number, (process, server) in enumerate(zip(processes, servers, strict=True)):
            while not _answers(server):
                assert process.poll() is None, (folder / f"served-{number}.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield servers
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(server: ScoringServer) -> bool:
    try:
        return requests.get(f"{server.address}/ping", timeout=5).ok
    except requests.ConnectionError:
        return False
