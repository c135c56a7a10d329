"""What MLflow is told of a model that it shall serve: the code, the signature, an example, the requirements.

Text columns have the type Any: of a string column MLflow makes the text "None" of a JSON null and "3" of a number
(in `inputs` and `instances`, before the model is asked), which would be answered as texts. The price is that MLflow
reads no CSV for these models.
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType, Array, Map

from gpt_core.recipe import Evaluate
from gpt_core.tasks.labelled import Row
from gpt_core.tasks.request import PROMPT, parameters_of
from gpt_core.tasks.spec import Target, TaskSpec
from jobs import served_language_model, served_task

DISTRIBUTIONS = ("numpy", "pandas", "pyarrow", "pydantic", "pyyaml", "safetensors", "tokenizers", "torch")
ANSWERS: dict[Target, dict[str, DataType | Array | Map]] = {
    "class": {"label": DataType.string, "score": DataType.double, "probabilities": Map(DataType.double)},
    "classes": {"labels": Array(DataType.string), "probabilities": Map(DataType.double)},
    "number": {"value": DataType.double},
    "choice": {"choice": DataType.string, "score": DataType.double, "probabilities": Array(DataType.double)},
    "text": {"completion": DataType.string, "mean_log_likelihood": DataType.double},
}
PARAMETER_TYPES: dict[type, DataType] = {int: DataType.long, float: DataType.double}


@dataclass(frozen=True)
class ServedModel:
    """The model in `folder` as MLflow logs it; `config` is what the code gets when it is loaded."""

    folder: Path
    artifact: str  # what the code calls the folder
    code: Path
    signature: ModelSignature
    example: pd.DataFrame
    config: Mapping[str, object] = field(default_factory=dict)


def serve_task(folder: Path, rows: Sequence[Row], settings: Evaluate) -> ServedModel:
    """The fine-tuned model in `folder`, with texts of `rows` as the example; `settings` write its completions."""
    spec = TaskSpec.read(folder)
    if spec.target == "text":
        return _serve_text(folder, spec.fields[0], [row.texts[0] for row in rows], settings, ANSWERS["text"])
    texts = [(row.texts[0], list(row.texts[1:])) if spec.target == "choice" else row.texts for row in rows]
    return ServedModel(
        folder=folder,
        artifact=served_task.ARTIFACT,
        code=Path(served_task.__file__),
        signature=ModelSignature(inputs=_inputs(spec.fields), outputs=_outputs(ANSWERS[spec.target])),
        example=pd.DataFrame(texts, columns=list(spec.fields)),
    )


def serve_language_model(folder: Path, settings: Evaluate) -> ServedModel:
    """The pre-trained model in `folder`, with the recipe's prompts as the example; `settings` are its defaults."""
    answer = {"text": DataType.string}
    return _serve_text(folder, PROMPT, settings.prompts[:2] or ("The",), settings, answer)


def requirements() -> list[str]:
    """What must be installed to serve a model: the versions that run here, without a build's local label."""
    names = ["mlflow", *DISTRIBUTIONS]
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]


def _serve_text(
    folder: Path,
    column: str,
    prompts: Sequence[str],
    settings: Evaluate,
    answer: Mapping[str, DataType | Array | Map],
) -> ServedModel:
    parameters = parameters_of(settings)
    params = [_parameter(name, default) for name, default in parameters.items()]
    return ServedModel(
        folder=folder,
        artifact=served_language_model.ARTIFACT,
        code=Path(served_language_model.__file__),
        signature=ModelSignature(inputs=_inputs([column]), outputs=_outputs(answer), params=ParamSchema(params)),
        example=pd.DataFrame({column: list(prompts)}),
        config=parameters,
    )


def _parameter(name: str, default: object) -> ParamSpec:
    if isinstance(default, list):
        return ParamSpec(name, DataType.string, default, shape=(-1,))
    return ParamSpec(name, PARAMETER_TYPES[type(default)], default)


def _inputs(columns: Sequence[str]) -> Schema:
    return Schema([ColSpec(AnyType(), column) for column in columns])  # type: ignore[no-untyped-call]


def _outputs(answer: Mapping[str, DataType | Array | Map]) -> Schema:
    return Schema([ColSpec(kind, column) for column, kind in answer.items()])
