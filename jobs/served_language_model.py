"""The registered language model, pre-trained or tuned for completion: prompts in, texts out. Logged as code.

MLflow copies this file and gpt_core beside the weights and runs it when the model is loaded. It therefore imports
nothing of jobs. Input: a column of prompts; params as the signature names them. Output, a row for each: `text`, what
continues the prompt; of a model that was tuned for completion, `completion` and `mean_log_likelihood`, that of its
tokens and its end in nats, as evaluation scores a completion. Prompt i, from 0, is drawn with params.seed + i: the
same request gets the same answer.
"""

import ast
import logging
import re
from pathlib import Path

import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from gpt_core.errors import InputError
from gpt_core.model.hf import load_decoder
from gpt_core.model.predict import predict
from gpt_core.model.sampling import Sampling
from gpt_core.model.stream import stream_texts
from gpt_core.recipe import Evaluate
from gpt_core.tasks.labelled import Row
from gpt_core.tasks.request import PARAMETERS, PROMPT, read_rows_of_columns, read_text, read_writing
from gpt_core.tasks.sequences import encode_rows
from gpt_core.tasks.spec import TASK, TaskSpec
from gpt_core.tokenizer.tokenizer import Tokenizer

ARTIFACT = "model"  # the folder with config.json, model.safetensors and the tokenizer; task.json if it was tuned


class ServedLanguageModel(PythonModel):
    """A pyfunc over a causal language model; `model_config` holds the defaults of the parameters."""

    def load_context(self, context: PythonModelContext) -> None:
        """Weights and tokenizer are in memory, on the GPU where there is one."""
        folder = Path(context.artifacts[ARTIFACT])
        self.decoder = load_decoder(folder).to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.tokenizer = Tokenizer.load(folder)
        self.spec = TaskSpec.read(folder) if (folder / TASK).exists() else None
        self.defaults = dict(context.model_config or {})
        logging.getLogger("mlflow.models.utils").addFilter(refuse_unknown)

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002  MLflow passes it
        model_input: pd.DataFrame,
        params: dict[str, object] | None = None,
    ) -> pd.DataFrame:
        """A text for each prompt, in their order. Raises MlflowException (HTTP 400) for what cannot be continued."""
        try:
            column = self.spec.fields[0] if self.spec else PROMPT
            given = {str(name): model_input[name].tolist() for name in model_input}
            records = read_rows_of_columns(given, (column,))
            prompts = [read_text(row, column, f"row {number}") for number, row in enumerate(records)]
            writing = read_writing(params or {}, self.defaults)
            ids = self._encode(prompts, column)
        except InputError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        texts = self._write(ids, writing)
        answer: dict[str, list[str] | list[float]] = {"text": texts}
        if self.spec:
            answer = {"completion": texts, "mean_log_likelihood": self._score(self.spec, prompts, texts)}
        return pd.DataFrame(answer, index=model_input.index if len(model_input) == len(texts) else None)

    def _encode(self, prompts: list[str], column: str) -> list[list[int]]:
        """The ids of the prompts; one of a completion stands behind an end of text, as it was learned."""
        opening = [self.tokenizer.end_of_text_id] if self.spec else []
        limit = self.decoder.config.context_length
        encoded = []
        for number, ids in enumerate(self.tokenizer.encode_batch(prompts)):
            encoded.append([*opening, *ids] or [self.tokenizer.end_of_text_id])
            if len(encoded[-1]) >= limit:
                raise InputError(
                    f"row {number}: {column!r} is {prompts[number]!r:.60}...: its {len(encoded[-1])} tokens leave no "
                    f"room in a context of {limit}; shorten it"
                )
        return encoded

    def _write(self, prompts: list[list[int]], writing: Evaluate) -> list[str]:
        texts = [""] * len(prompts)
        for piece in stream_texts(
            self.decoder,
            self.tokenizer,
            prompts,
            max_new_tokens=writing.sample_tokens,
            sampling=Sampling(writing.temperature, writing.top_k, writing.top_p),
            seed=writing.seed,
            stop=writing.stop,
        ):
            texts[piece.number] += piece.text
        return texts

    def _score(self, spec: TaskSpec, prompts: list[str], texts: list[str]) -> list[float]:
        pairs = enumerate(zip(prompts, texts, strict=True))
        rows = [Row(f"row {number}", pair, None) for number, pair in pairs]
        nats, tokens = predict(self.decoder, encode_rows(rows, self.tokenizer, spec)).T
        scores: list[float] = (-nats / tokens).tolist()
        return scores


def refuse_unknown(record: logging.LogRecord) -> bool:
    """Raises MlflowException (HTTP 400) for MLflow's warning that it ignores a parameter which this model lacks.

    It drops such a parameter before the model is asked: the misspelt one would change nothing, unseen.
    """
    told = re.match(r"Unrecognized params (\[.*\]) are ignored .* Supported params are: (\{.*?\})", record.getMessage())
    if told and ast.literal_eval(told[2]) == set(PARAMETERS):
        unknown = ", ".join(map(repr, sorted(ast.literal_eval(told[1]))))
        raise MlflowException.invalid_parameter_value(f"no parameter {unknown}; there are {', '.join(PARAMETERS)}")
    return True


set_model(ServedLanguageModel())
