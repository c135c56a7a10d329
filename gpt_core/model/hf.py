"""Models on disk, in Hugging Face's layout: config.json and model.safetensors, which transformers loads as they are.

Language models are OpenAIGPTLMHeadModel, GPT2LMHeadModel and Qwen3ForCausalLM, task models the same three's
ForSequenceClassification, with a task.json beside; their logits equal ours. Loading is strict: every tensor has its
place and its shape, and a config that means another computation than the decoder's is refused. A stored output must
equal the embedding that it is tied to. Weights are stored in fp32 and nothing is ever unpickled. The tokenizer's files
beside them are the caller's concern.

transformers pools a classifier at the rightmost token that is not `pad_token_id`, so padding has an id of its own:
`DecoderConfig.pad_id`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gpt_core.artifact import write_json
from gpt_core.errors import InputError
from gpt_core.fingerprint import Json
from gpt_core.model.config import DecoderConfig
from gpt_core.model.decoder import Decoder
from gpt_core.model.heads import TaskModel
from gpt_core.model.hf_config import CLASSIFIER, CONFIG, LANGUAGE_MODEL, WEIGHTS, config_fields, read_config
from gpt_core.model.hf_layout import OUTPUT, SCORE, stored_names, stored_tensors
from gpt_core.tasks.spec import TASK, Target, TaskSpec

PROBLEM_TYPE: dict[Target, Json] = {
    "class": "single_label_classification",
    "classes": "multi_label_classification",
    "number": "regression",
    "choice": "regression",
}


def save_language_model(decoder: Decoder, folder: Path, *, end_of_text_id: int | None = None) -> list[Path]:
    """`folder` holds the decoder as a causal language model; both files are returned.

    `end_of_text_id` is what transformers' generation starts from and stops at.
    """
    fields: dict[str, Json] = {"architectures": [LANGUAGE_MODEL[decoder.config.architecture]]}
    fields |= config_fields(decoder.config, end_of_text_id=end_of_text_id)
    return _save(folder, fields, _split(decoder))


def save_task_model(
    model: TaskModel | Decoder, folder: Path, spec: TaskSpec, *, end_of_text_id: int | None = None
) -> list[Path]:
    """`folder` holds the model and its task: a sequence classifier, of text a language model; all files are returned.

    A number and the score of a choice are a regression. How the sequences of an example combine, task.json says alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, Decoder):
        return [*save_language_model(model, folder, end_of_text_id=end_of_text_id), spec.write(folder)]
    if spec.n_outputs != model.score.out_features:
        raise ValueError(f"{spec.n_outputs} outputs of the task for {model.score.out_features} of the model")
    names = dict(enumerate(spec.labels or ("LABEL_0",)))
    fields: dict[str, Json] = {"architectures": [CLASSIFIER[model.decoder.config.architecture]]}
    fields |= config_fields(model.decoder.config, end_of_text_id=end_of_text_id)
    fields |= {
        "problem_type": PROBLEM_TYPE[spec.target],
        "id2label": {str(index): name for index, name in names.items()},
        "label2id": {name: index for index, name in names.items()},
    }
    stored = _split(model.decoder) | {SCORE: model.score.weight.detach()}
    return [*_save(folder, fields, stored), spec.write(folder)]


def load_decoder(folder: Path) -> Decoder:
    """The decoder of the causal language model in `folder`, fp32, on the CPU, in training mode.

    Raises InputError that names the file and the field or tensor for anything missing, unexpected or unlike.
    """
    config, _ = read_config(folder, LANGUAGE_MODEL)
    decoder = Decoder(config)
    stored = _read_tensors(folder / WEIGHTS, config, _split(decoder))
    _join(decoder, stored)
    return decoder


def load_task_model(folder: Path) -> tuple[TaskModel | Decoder, TaskSpec]:
    """The fine-tuned model in `folder`, without dropout before its score, and its task. Raises as `load_decoder`."""
    spec = TaskSpec.read(folder)
    if spec.target == "text":
        return load_decoder(folder), spec
    config, fields = read_config(folder, CLASSIFIER)
    names = {str(index): name for index, name in enumerate(spec.labels)}
    if spec.labels and fields.get("id2label") != names:
        raise InputError(
            f"{folder / CONFIG}: id2label is {fields.get('id2label')!r}, not {names!r} as its {TASK} has it"
        )
    model = TaskModel(Decoder(config), n_outputs=spec.n_outputs, target=spec.target, dropout=0.0)
    expected = _split(model.decoder) | {SCORE: model.score.weight.detach()}
    stored = _read_tensors(folder / WEIGHTS, config, expected)
    _join(model.decoder, stored)
    with torch.no_grad():
        model.score.weight.copy_(stored[SCORE])
    return model, spec


def _split(decoder: Decoder) -> dict[str, Tensor]:
    """The decoder's tensors under their stored names."""
    ours = decoder.state_dict()
    return {name: t for entry in stored_tensors(decoder.config) for name, t in entry.split(ours[entry.ours]).items()}


def _join(decoder: Decoder, stored: Mapping[str, Tensor]) -> None:
    """The decoder has the stored weights."""
    decoder.load_state_dict({entry.ours: entry.join(stored) for entry in stored_tensors(decoder.config)})


def _save(folder: Path, fields: dict[str, Json], tensors: Mapping[str, Tensor]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()}
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    return [write_json(folder / CONFIG, fields), folder / WEIGHTS]


def _read_tensors(path: Path, config: DecoderConfig, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the file: the names and shapes of `expected`, no more and no fewer; an output tied to them."""
    try:
        with safe_open(path, framework="pt") as file:
            stored = stored_names(file.keys(), config)
            output = stored.pop(OUTPUT, None)
            for name in sorted(expected.keys() | stored.keys()):
                if name not in stored:
                    raise InputError(f"{path}: the tensor {name!r} is missing")
                if name not in expected:
                    raise InputError(f"{path}: the tensor {stored[name]!r} has no place in the model of its {CONFIG}")
                shape = list(file.get_slice(stored[name]).get_shape())
                if shape != list(expected[name].shape):
                    raise InputError(f"{path}: the tensor {name!r} has shape {shape}, not {list(expected[name].shape)}")
            tensors = {name: file.get_tensor(stored[name]) for name in expected}
            embedding = stored_tensors(config)[0].theirs[0]
            if output is not None and not torch.equal(file.get_tensor(output), tensors[embedding]):
                raise InputError(f"{path}: {output!r} differs from {embedding!r}, to which the decoder ties its output")
            return tensors
    except FileNotFoundError:
        raise InputError(f"{path}: is missing; a model is one {CONFIG} and one {WEIGHTS}") from None
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: is not a safetensors file: {error}") from None
