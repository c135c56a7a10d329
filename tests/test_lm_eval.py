"""lm-eval on an exported language model: tasks of local rows, nothing fetched, figures as worked out here."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from served_models import make_language_model

from gpt_core.model.hf import load_decoder
from gpt_core.tokenizer.tokenizer import Tokenizer

CHOICE = """
task: places
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
TEXT = """
task: likelihood
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{context}}"
metric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}]
"""
PLACES = [" river", " mountain", " sea", " the sea by the mountain"]
CONTEXTS = ["the river and the", "by the sea", "the mountain by the river", "a", "the sea and", "and by"]
ROWS = [{"context": context, "choices": PLACES, "label": place // 2} for place, context in enumerate(CONTEXTS)]


@dataclass(frozen=True)
class Harness:
    """A model and what lm-eval told of it."""

    folder: Path
    results: dict[str, dict[str, Any]]

    @torch.inference_mode()
    def nats(self, text: str, continuation: str) -> float:
        """-log P of the continuation's tokens behind those of an end-of-text token and the text."""
        tokenizer, decoder = Tokenizer.load(self.folder), load_decoder(self.folder).eval()
        before = tokenizer.encode(text) or [tokenizer.end_of_text_id]
        ids = torch.tensor([[*before, *tokenizer.encode(text + continuation)[len(tokenizer.encode(text)) :]]])
        logits = decoder.logits(decoder(ids))[0]
        return float(F.cross_entropy(logits[len(before) - 1 : -1], ids[0, len(before) :], reduction="sum"))


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    root = tmp_path_factory.mktemp("lm_eval")
    folder = make_language_model(root / "pretrain")
    rows = root / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, task in (("places", CHOICE), ("likelihood", TEXT)):
        (root / f"{name}.yaml").write_text(task.replace("ROWS", str(rows)))
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu", "--include_path", str(root)]
    command += ["--model_args", f"pretrained={folder},dtype=float32", "--tasks", "places,likelihood"]
    done = subprocess.run(
        [*command, "--output_path", str(root / "results")],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (written,) = (root / "results").rglob("results_*.json")
    return Harness(folder, json.loads(written.read_text())["results"])


def test_the_accuracy_is_that_of_our_own_likelihoods(harness: Harness) -> None:
    right = 0
    for row in ROWS:
        nats = [harness.nats(str(row["context"]), choice) for choice in PLACES]
        right += nats.index(min(nats)) == row["label"]
    assert 0 < right < len(ROWS)
    assert harness.results["places"]["acc,none"] == pytest.approx(right / len(ROWS))


def test_the_bits_per_byte_are_ours(harness: Harness) -> None:
    bits = sum(harness.nats("", context) for context in CONTEXTS) / math.log(2)
    assert harness.results["likelihood"]["bits_per_byte,none"] == pytest.approx(bits / len("".join(CONTEXTS)), rel=1e-5)
