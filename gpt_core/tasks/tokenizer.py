"""The tokenizer beside a fine-tuned model: transformers encodes with it as the model was trained."""

import json
from pathlib import Path

from gpt_core.artifact import write_atomically
from gpt_core.fingerprint import Json
from gpt_core.tasks.spec import TaskSpec
from gpt_core.tokenizer.existing import open_model_tokenizer
from gpt_core.tokenizer.files import CONFIG, TOKENIZER
from gpt_core.tokenizer.tokenizer import serialize, write_config

FLAGS: dict[str, Json] = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)


def write_task_tokenizer(source: Path, folder: Path, spec: TaskSpec) -> list[Path]:
    """`folder` holds the tokenizer of the model in `source` with the marks of `spec` as special tokens, by their ids.

    AutoTokenizer gives `start text extract` of a text, `start first delimiter second extract` of a pair, cut to
    spec.max_tokens where it is asked to truncate, and pads with the pad mark. `Tokenizer.encode` still adds nothing,
    and no text gives a mark. Of completion, which has no marks, it is the tokenizer of `source`.
    """
    tokenizer = open_model_tokenizer(source)
    if spec.marks is None:
        return tokenizer.save(folder, model_max_length=spec.max_tokens)
    names = [_free_name(f"<|{name}|>", tokenizer.vocabulary) for name in ("start", "delimiter", "extract", "pad")]
    marks = spec.marks
    ids = dict(zip(names, (marks.start, marks.delimiter, marks.extract, marks.pad), strict=True))
    tree = json.loads(tokenizer.serialized)
    tree["added_tokens"] += [{"id": i, "content": name, **FLAGS, "special": True} for name, i in ids.items()]
    tree["post_processor"] = _template(ids)
    write_atomically(folder / TOKENIZER, serialize(tree, origin=str(source)).decode("utf-8"))
    write_config(folder, tokenizer.end_of_text, model_max_length=spec.max_tokens, padding=names[-1])
    return [folder / TOKENIZER, folder / CONFIG]


def _free_name(name: str, vocabulary: dict[str, int]) -> str:
    """The name, in as many brackets more as no token of the tokenizer has."""
    while name in vocabulary:
        name = f"<{name}>"
    return name


def _template(ids: dict[str, int]) -> dict[str, Json]:
    """tokenizers' post-processor that puts the marks around one text, and around and between two."""
    start, delimiter, extract, _ = (_piece("SpecialToken", name) for name in ids)
    first, second = _piece("Sequence", "A"), _piece("Sequence", "B")
    special: dict[str, Json] = {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in ids.items()}
    return {
        "type": "TemplateProcessing",
        "single": [start, first, extract],
        "pair": [start, first, delimiter, second, extract],
        "special_tokens": special,
    }


def _piece(kind: str, name: str) -> dict[str, Json]:
    return {kind: {"id": name, "type_id": 0}}
