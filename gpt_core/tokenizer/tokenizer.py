"""A byte-level BPE tokenizer, and the two files that carry it.

`tokenizer.json` is the format of Hugging Face's `tokenizers`; `tokenizer_config.json` tells transformers how to
load it. Pre-tokenization is GPT-2's (Radford et al. 2019, section 2.2): no prefix space, all 256 bytes are tokens,
so every text is encoded and decodes to itself.

Guarantees: ids 0 to 255 are the bytes, then come the merges, and the last id is the end-of-text token. Text never
gives the end-of-text token: its literal characters are encoded as any others. Only gptmill's own code appends it.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import tokenizers
from tokenizers import AddedToken

from gpt_core.artifact import write_atomically
from gpt_core.errors import ArtifactError
from gpt_core.fingerprint import Json

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
PADDING = "<|padding|>"


class Tokenizer:
    """Text to token ids and back. Immutable; made by `load` or by train.train_tokenizer."""

    def __init__(self, serialized: bytes, *, origin: str) -> None:
        try:
            backend = tokenizers.Tokenizer.from_buffer(serialized)
        except Exception as error:  # tokenizers raises nothing narrower
            raise ArtifactError(f"{origin}: is not a tokenizer: {error}; make it again") from None
        special = {i: token for i, token in backend.get_added_tokens_decoder().items() if token.special}
        if len(special) != 1:
            raise ArtifactError(f"{origin}: has {len(special)} special tokens, not one for the end of text")
        backend.encode_special_tokens = True  # "as text": tokenizers' name for not parsing them
        self._backend = backend
        self.serialized = serialized
        self.digest = hashlib.sha256(serialized).hexdigest()
        ((self.end_of_text_id, token),) = special.items()
        self.end_of_text = token.content
        self.vocab_size = int(backend.get_vocab_size())

    @classmethod
    def load(cls, path: Path) -> Self:
        """The tokenizer in the file `path`, or in the folder `path`. Raises ArtifactError."""
        file = path / TOKENIZER if path.is_dir() else path
        try:
            serialized = file.read_bytes()
        except OSError as error:
            raise ArtifactError(f"{file}: cannot be read: {error.strerror}; run the stage tokenizer again") from None
        return cls(serialized, origin=str(file))

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without any special token."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text. All cores take part unless TOKENIZERS_PARALLELISM is false."""
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; the end-of-text token shows as its literal.

        Bytes that are not UTF-8 become U+FFFD; ids beyond the vocabulary (a model pads its own) give nothing.
        """
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def save(self, folder: Path) -> list[Path]:
        """`folder` holds the tokenizer's two files, which are returned; AutoTokenizer.from_pretrained loads it."""
        write_atomically(folder / TOKENIZER, self.serialized.decode("utf-8"))
        _write_config(folder, self.end_of_text, model_max_length=None)
        return [folder / TOKENIZER, folder / CONFIG]


def build_backend() -> tokenizers.Tokenizer:
    """An untrained backend with GPT-2's pre-tokenization; it knows no special token yet."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = tokenizers.decoders.ByteLevel()
    return backend


def close_vocabulary(backend: tokenizers.Tokenizer, end_of_text: str) -> Tokenizer:
    """The trained `backend` as a Tokenizer, with `end_of_text` as its last id."""
    backend.add_special_tokens([AddedToken(end_of_text, special=True, normalized=False)])
    return Tokenizer(backend.to_str(pretty=True).encode("utf-8"), origin="the trained tokenizer")


def copy_tokenizer(source: Path, target: Path, *, model_max_length: int | None = None) -> list[Path]:
    """The folder `target` holds the tokenizer of the folder `source`, byte for byte; both its files are returned.

    `model_max_length` (tokens) is what transformers truncates to when it is asked to truncate; it stands in
    tokenizer_config.json alone.
    """
    tokenizer = Tokenizer.load(source)
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / TOKENIZER, target / TOKENIZER)
    _write_config(target, tokenizer.end_of_text, model_max_length=model_max_length)
    return [target / TOKENIZER, target / CONFIG]


def write_classifier_tokenizer(source: Path, target: Path, *, model_max_length: int | None = None) -> list[Path]:
    """As copy_tokenizer, but AutoTokenizer puts the end-of-text token before and after a text.

    They are the start and the extract token of Radford et al. 2018, section 3.3. A pair of texts has the token
    between them too. `Tokenizer.encode` still adds nothing. Padding is a token of its own, to which AutoTokenizer
    gives the next free id, the model's `pad_token_id`: transformers pools a classifier at the rightmost token that
    is not padding, and that must be the extract token.
    """
    tokenizer = Tokenizer.load(source)
    tree: dict[str, Json] = json.loads(tokenizer.serialized)
    mark: Json = {"SpecialToken": {"id": tokenizer.end_of_text, "type_id": 0}}
    first: Json = {"Sequence": {"id": "A", "type_id": 0}}
    second: Json = {"Sequence": {"id": "B", "type_id": 0}}
    entry: Json = {
        "id": tokenizer.end_of_text,
        "ids": [tokenizer.end_of_text_id],
        "tokens": [tokenizer.end_of_text],
    }
    tree["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [mark, first, mark],
        "pair": [mark, first, mark, second, mark],
        "special_tokens": {tokenizer.end_of_text: entry},
    }
    write_atomically(target / TOKENIZER, json.dumps(tree, indent=2, ensure_ascii=False))
    _write_config(target, tokenizer.end_of_text, model_max_length=model_max_length, padding=PADDING)
    return [target / TOKENIZER, target / CONFIG]


def _write_config(folder: Path, end_of_text: str, *, model_max_length: int | None, padding: str | None = None) -> None:
    """What AutoTokenizer reads beside tokenizer.json. `split_special_tokens` keeps a literal mark plain text."""
    config: dict[str, Json] = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # the name that transformers 4 and 5 both know
        "bos_token": end_of_text,
        "eos_token": end_of_text,
        "pad_token": padding or end_of_text,
        "unk_token": None,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }
    if model_max_length is not None:
        config["model_max_length"] = model_max_length
    write_atomically(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
