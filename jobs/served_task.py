"""The registered model of a task: rows in, answers out. Logged as code, so that nothing is pickled.

MLflow copies this file and gpt_core beside the weights and runs it when the model is loaded. It therefore imports
nothing of jobs. Input: the columns of the task's texts, as the labelled rows had them. Output, a row for each:

    class      label, score (its probability), probabilities (label -> probability)
    classes    labels (those with a probability above 0.5), probabilities
    number     value
    choice     choice (its text), score, probabilities (in the order of the choices)

Texts are encoded as in fine-tuning: longer ones are cut. What is tuned for completion is served as what it is, a
language model: see served_language_model.py.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from gpt_core.errors import InputError
from gpt_core.model.hf import load_task_model
from gpt_core.model.predict import predict
from gpt_core.tasks.labelled import Row, row_of
from gpt_core.tasks.request import read_rows_of_columns
from gpt_core.tasks.sequences import encode_rows
from gpt_core.tasks.spec import TaskSpec
from gpt_core.tokenizer.tokenizer import Tokenizer

ARTIFACT = "model"  # the folder with config.json, model.safetensors, task.json and the tokenizer

Floats = npt.NDArray[np.float64]
Columns = dict[str, list[object]]


class ServedTask(PythonModel):
    """A pyfunc over a fine-tuned model with a head."""

    def load_context(self, context: PythonModelContext) -> None:
        """Weights, task and tokenizer are in memory, on the GPU where there is one."""
        folder = Path(context.artifacts[ARTIFACT])
        model, self.spec = load_task_model(folder)
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.tokenizer = Tokenizer.load(folder)

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002  MLflow passes both
        model_input: pd.DataFrame,
        params: dict[str, object] | None = None,  # noqa: ARG002
    ) -> pd.DataFrame:
        """An answer for each row, in their order. Raises MlflowException (HTTP 400) for what is no text."""
        try:
            given = {str(name): model_input[name].tolist() for name in model_input}
            records = read_rows_of_columns(given, self.spec.fields)
            rows = [row_of(record, self.spec, f"row {number}") for number, record in enumerate(records)]
        except InputError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        outputs = predict(self.model, encode_rows(rows, self.tokenizer, self.spec))
        index = model_input.index if len(model_input) == len(rows) else None
        return pd.DataFrame(answer(self.spec, rows, outputs), index=index)


def answer(spec: TaskSpec, rows: list[Row], outputs: Floats) -> Columns:
    """The columns of the answer, from the model's `outputs` as gpt_core.model.predict gives them."""
    if spec.target == "number":
        return {"value": outputs.tolist()}
    if spec.target == "classes":
        odds = 1.0 / (1.0 + np.exp(-outputs))  # (n, L)
        named: list[dict[str, float]] = [dict(zip(spec.labels, each, strict=True)) for each in odds.tolist()]
        return {
            "labels": [[label for label, odd in each.items() if odd > 0.5] for each in named],
            "probabilities": list(named),
        }
    odds = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)  # (n, L), or (n, S) with 0 where there is no choice
    best, scores = odds.argmax(axis=1), odds.max(axis=1).tolist()
    if spec.target == "choice":
        return {
            "choice": [row.texts[1 + place] for row, place in zip(rows, best.tolist(), strict=True)],
            "score": scores,
            "probabilities": [each[: len(row.texts) - 1] for row, each in zip(rows, odds.tolist(), strict=True)],
        }
    return {
        "label": [spec.labels[place] for place in best.tolist()],
        "score": scores,
        "probabilities": [dict(zip(spec.labels, each, strict=True)) for each in odds.tolist()],
    }


set_model(ServedTask())
