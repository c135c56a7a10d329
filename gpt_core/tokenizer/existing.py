"""Taking over an existing tokenizer, instead of learning one: of its own, or that of a stored model.

A tokenizer.json is taken as it stands but for what would make ids depend on more than the text: truncation, padding,
dropout of merges and a post-processor that adds tokens are switched off. GPT-2's vocab.json and merges.txt become a
tokenizer.json with GPT-2's pre-tokenization; entries that are neither a character nor made by a merge are its special
tokens, because no text can give them. Whether it gives back every text is asked of the documents: see measure.py.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from gpt_core.errors import ArtifactError, InputError
from gpt_core.tokenizer.files import CONFIG, SPECIAL_TOKENS, existing_files
from gpt_core.tokenizer.tokenizer import Tokenizer, build_backend, read_end_of_text, serialize

WAY_OUT = "give a tokenizer.json of Hugging Face's tokenizers, a folder with one or with vocab.json and merges.txt"
UNKNOWN = "\U0010fffd"  # for private use: in no vocabulary


def adopt_tokenizer(path: Path, *, end_of_text: str) -> Tokenizer:
    """The tokenizer at `path`, a file or a folder (see files.py), which closes documents with `end_of_text`.

    Raises InputError for files that are no tokenizer, for one without that special token or whose special tokens
    a text can give, and for one that gives two tokens the same id.
    """
    with _worded("tokenizer.path", naming="name one in tokenizer.end_of_text"):
        return _adopt(path, end_of_text)


def open_model_tokenizer(folder: Path, *, field: str = "tokenizer") -> Tokenizer:
    """The tokenizer of the stored model in `folder`, gptmill's or a public one.

    Its end of text is the eos_token of tokenizer_config.json, else of special_tokens_map.json, else the token with
    the eos_token_id of config.json, else its only special token. Raises InputError as `adopt_tokenizer`; `field` is
    the recipe's that gave the folder.
    """
    with _worded(field, naming=f"name its end of text as eos_token in {folder / CONFIG}"):
        named = read_end_of_text(folder / CONFIG) or read_end_of_text(folder / SPECIAL_TOKENS)
        return _adopt(folder, named or _end_of_text_id(folder / "config.json"))


@contextmanager
def _worded(field: str, *, naming: str) -> Iterator[None]:
    """What is wrong with a tokenizer is told as the user's to put right: with the field, and the way out."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        raise InputError(f"{field}: {error.filename}: {reason}; {WAY_OUT}") from None
    except ArtifactError as error:
        message = str(error).removesuffix("; make it again")
        if "; take " not in message:
            message += f"; {naming if 'special token' in message else WAY_OUT}"
        raise InputError(f"{field}: {message}") from None


def _adopt(path: Path, end_of_text: str | int | None) -> Tokenizer:
    """The tokenizer, its end of text told by name, by id, or not at all."""
    files = existing_files(path)
    tree = _read_json(files[0]) if len(files) == 1 else _read_pair(*files)
    if isinstance(end_of_text, int):
        added = {token["id"]: str(token["content"]) for token in tree.get("added_tokens") or []}
        end_of_text = added.get(end_of_text)
    tokenizer = Tokenizer(serialize(tree, origin=str(path)), origin=str(path), end_of_text=end_of_text)
    _require_apart(tokenizer, path)
    return tokenizer


def _end_of_text_id(config: Path) -> int | None:
    """The eos_token_id of a model's config.json, the first of several; None where it has none."""
    try:
        tree = json.loads(config.read_bytes())
    except (OSError, ValueError):  # whoever loads the model tells
        return None
    found = tree.get("eos_token_id") if isinstance(tree, dict) else None
    first = found[0] if isinstance(found, list) and found else found
    return first if isinstance(first, int) else None


def _read_json(file: Path) -> dict[str, Any]:
    """The tree of a tokenizer.json, in which nothing is left that adds to ids, cuts them or draws lots."""
    try:
        tree = json.loads(file.read_bytes())
    except ValueError as error:
        raise ArtifactError(f"{file}: is not JSON: {error}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise ArtifactError(f"{file}: is not a tokenizer: it has no model")
    tree.update(truncation=None, padding=None, post_processor=None)
    if tree["model"].get("dropout"):
        tree["model"]["dropout"] = None
    return tree


def _read_pair(vocabulary: Path, merges: Path) -> dict[str, Any]:
    """The tree that GPT-2's two files stand for."""
    for file in (vocabulary, merges):
        file.open("rb").close()  # tokenizers would not name the file that is missing
    try:
        model = tokenizers.models.BPE.from_file(str(vocabulary), str(merges))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ArtifactError(f"{vocabulary.parent}: is not a tokenizer: {error}") from None
    backend = build_backend(model=model)
    merged = {left + right for left, right in json.loads(backend.to_str())["model"]["merges"]}
    ranked = sorted(backend.get_vocab().items(), key=lambda item: item[1])
    apart = [token for token, _ in ranked if len(token) > 1 and token not in merged]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in apart])
    return dict(json.loads(backend.to_str()))


def _require_apart(tokenizer: Tokenizer, path: Path) -> None:
    """No text gives a special token; but one may stand for unknown characters, whose text does not come back."""
    unknown = set(tokenizer.encode(UNKNOWN)) - {tokenizer.end_of_text_id}
    for token, i in tokenizer.special_tokens.items():
        if i in tokenizer.encode(token) and i not in unknown:
            raise ArtifactError(
                f"{path}: a text that spells {token!r} gives that special token; take a tokenizer whose special tokens "
                "no text gives"
            )
