"""The files that carry a tokenizer, by name. Imports nothing heavy: a plan needs no more than this."""

import json
from pathlib import Path

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
VOCABULARY, MERGES = "vocab.json", "merges.txt"  # GPT-2's pair


def existing_files(path: Path) -> list[Path]:
    """The files of the existing tokenizer at `path`: `path`, its tokenizer.json, or its vocab.json and merges.txt.

    A folder without them is taken to hold a tokenizer.json, so that whoever opens it says that it is missing.
    """
    if not path.is_dir():
        return [path]
    pair = [path / VOCABULARY, path / MERGES]
    if (path / TOKENIZER).is_file() or not any(file.is_file() for file in pair):
        return [path / TOKENIZER]
    return pair


def model_tokenizer_files(folder: Path) -> list[Path]:
    """The files in a model's folder that say its tokenizer: `existing_files`, and those that name special tokens."""
    naming = [folder / name for name in (CONFIG, SPECIAL_TOKENS)]
    return [*existing_files(folder), *(file for file in naming if file.is_file())]


def count_ids(path: Path) -> int | None:
    """Ids of the existing tokenizer at `path`, from its files alone: the greatest and one. None where it has no such.

    Whether it can be used is asked elsewhere, of a library that knows.
    """
    try:
        tree = json.loads(existing_files(path)[0].read_bytes())
        model = tree["model"]["vocab"] if "model" in tree else tree
        added = [token["id"] for token in tree.get("added_tokens", [])] if "model" in tree else []
        ids = model.values() if isinstance(model, dict) else range(len(model))
        return int(1 + max([*ids, *added]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
