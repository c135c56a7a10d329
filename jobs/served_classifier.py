"""The registered classifier: texts in, labels and probabilities out. Logged as code, so that nothing is pickled.

MLflow copies this file and gpt_core beside the weights and runs it when the model is loaded. It therefore imports
nothing of jobs. Input: a column `text`. Output, a row for each: `label` (string), `score` (its probability) and
`probabilities` (label -> probability). Texts are encoded as in fine-tuning: longer ones are cut at the end.
"""

import importlib.metadata
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Map

from gpt_core.model.heads import TaskModel
from gpt_core.model.hf import load_task_model
from gpt_core.tasks.labelled import Row
from gpt_core.tasks.sequences import encode_rows
from gpt_core.tokenizer.tokenizer import Tokenizer

ARTIFACT = "classifier"  # the folder with config.json, model.safetensors and tokenizer.json
MAX_BATCH_TOKENS = 16_384  # padding in
DISTRIBUTIONS = ("numpy", "pandas", "pydantic", "pyyaml", "safetensors", "tokenizers", "torch")


class ServedClassifier(PythonModel):
    """A pyfunc over a fine-tuned classifier; `model_config` holds `max_tokens`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Weights, labels and tokenizer are in memory, on the GPU where there is one."""
        folder = Path(context.artifacts[ARTIFACT])
        classifier, spec = load_task_model(folder)
        assert isinstance(classifier, TaskModel), spec
        self.labels = spec.labels
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.classifier = classifier.to(self.device).eval()
        self.tokenizer = Tokenizer.load(folder / "tokenizer.json")
        self.spec = spec

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002  MLflow passes both
        model_input: pd.DataFrame,
        params: dict[str, object] | None = None,  # noqa: ARG002
    ) -> pd.DataFrame:
        """A row for each row of `model_input`, in its order. Raises MlflowException (HTTP 400) for what is no text."""
        texts = _texts(model_input)
        asked = [Row(f"row {number}", (text,), None) for number, text in enumerate(texts)]
        sequences = [list(sequence) for (sequence,) in encode_rows(asked, self.tokenizer, self.spec).sequences]
        probabilities = np.zeros((len(texts), len(self.labels)))
        for rows in batch_rows([len(sequence) for sequence in sequences], MAX_BATCH_TOKENS):
            probabilities[rows] = self._probabilities([sequences[row] for row in rows])
        best = probabilities.argmax(axis=1)
        return pd.DataFrame(
            {
                "label": [self.labels[index] for index in best],
                "score": probabilities[np.arange(len(best)), best],
                "probabilities": [dict(zip(self.labels, row.tolist(), strict=True)) for row in probabilities],
            },
            index=model_input.index,
        )

    @torch.inference_mode()
    def _probabilities(self, sequences: list[list[int]]) -> np.ndarray:
        """(B, n_labels) float64, rows sum to 1. Padding stands on the right, where causal attention never looks."""
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        ids = torch.zeros((len(sequences), int(lengths.max())), dtype=torch.int64)  # (B, T)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
        logits, _ = self.classifier(ids[:, None].to(self.device), lengths[:, None].to(self.device))  # (B, n_labels)
        probabilities: np.ndarray = logits.double().softmax(dim=-1).cpu().numpy()
        return probabilities


def batch_rows(lengths: list[int], max_tokens: int) -> list[list[int]]:
    """All row numbers, longest sequences together: a batch holds `max_tokens` with its padding, or one row."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def signature() -> ModelSignature:
    """What goes in and what comes out."""
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "text")]),
        outputs=Schema(
            [
                ColSpec(DataType.string, "label"),
                ColSpec(DataType.double, "score"),
                ColSpec(Map(DataType.double), "probabilities"),
            ]
        ),
    )


def requirements() -> list[str]:
    """What must be installed to serve the model: the versions that run here, without a build's local label."""
    names = ["mlflow", *DISTRIBUTIONS]
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]


def _texts(model_input: pd.DataFrame) -> list[str]:
    if not isinstance(model_input, pd.DataFrame) or "text" not in model_input:
        columns = list(model_input) if isinstance(model_input, pd.DataFrame) else type(model_input).__name__
        raise MlflowException.invalid_parameter_value(f"the input needs a column 'text' of strings; it has {columns}")
    texts: list[str] = model_input["text"].tolist()
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise MlflowException.invalid_parameter_value(f"row {row}: text is {text!r}, not a string")
    return texts


set_model(ServedClassifier())
