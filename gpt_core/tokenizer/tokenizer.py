"""A tokenizer, and the two files that carry it.

`tokenizer.json` is the format of Hugging Face's `tokenizers`; `tokenizer_config.json` tells transformers how to
load it, and its `eos_token` is the end-of-text token, the special token that closes every document.

Guarantees: text never gives a special token: its literal characters are encoded as any others. Only gptmill's own
code appends the end of text. A tokenizer that gptmill learned (see train.py) is byte-level: every text is encoded
and decodes to itself; ids 0 to 255 are the bytes, then come the merges, then tokenizer.special_tokens, and the last
id is the end of text. An existing one (see existing.py) may have its special tokens anywhere, gaps between its ids,
and added tokens that are not special: a text that spells one of those gives its id.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import tokenizers
from tokenizers import AddedToken

from gpt_core.artifact import write_atomically
from gpt_core.errors import ArtifactError
from gpt_core.fingerprint import Json
from gpt_core.tokenizer.alphabet import BYTE_OF
from gpt_core.tokenizer.files import CONFIG, TOKENIZER
from gpt_core.tokenizer.pretokenize import PreTokenizer, build_pre_tokenizer


class Tokenizer:
    """Text to token ids and back. Immutable; made by `load`, train.train_tokenizer or existing.adopt_tokenizer."""

    def __init__(self, serialized: bytes, *, origin: str, end_of_text: str | None = None) -> None:
        """The tokenizer whose tokenizer.json is `serialized`. Raises ArtifactError, in which `origin` names it.

        `end_of_text` is one of its special tokens; it may be left out where there is only one.
        """
        backend = _read_backend(serialized, origin)
        self._added: dict[int, str] = {i: it.content for i, it in backend.get_added_tokens_decoder().items()}
        self.special_tokens: dict[str, int] = {
            token.content: i for i, token in sorted(backend.get_added_tokens_decoder().items()) if token.special
        }
        if end_of_text is None:
            if len(self.special_tokens) != 1:
                raise ArtifactError(
                    f"{origin}: has {len(self.special_tokens)} special tokens, not one for the end of text, and no "
                    f"{CONFIG} beside it names one as eos_token"
                )
            (end_of_text,) = self.special_tokens
        if end_of_text not in self.special_tokens:
            named = ", ".join(map(repr, self.special_tokens)) or "none"
            raise ArtifactError(f"{origin}: has no special token {end_of_text!r}; it has {named}")
        backend.encode_special_tokens = True  # "as text": tokenizers' name for not parsing them
        self._backend = backend
        self.serialized = serialized
        self.digest = hashlib.sha256(serialized).hexdigest()
        self.end_of_text = end_of_text
        self.end_of_text_id = self.special_tokens[end_of_text]
        self.vocabulary: dict[str, int] = backend.get_vocab()  # every token as tokenizer.json spells it, and its id
        self.vocab_size = 1 + max(self.vocabulary.values())  # ids may have gaps

    @classmethod
    def load(cls, path: Path) -> Self:
        """The tokenizer in the file `path`, or in the folder `path`. Raises ArtifactError."""
        file = path / TOKENIZER if path.is_dir() else path
        try:
            serialized = file.read_bytes()
        except OSError as error:
            raise ArtifactError(f"{file}: cannot be read: {error.strerror}; run the stage tokenizer again") from None
        return cls(serialized, origin=str(file), end_of_text=read_end_of_text(file.with_name(CONFIG)))

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without any special token."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text. All cores take part unless TOKENIZERS_PARALLELISM is false."""
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; special tokens show as their literals.

        Bytes that are not UTF-8 become U+FFFD; ids that are no token (a model pads its own) give nothing.
        """
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def decode_batch(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """`decode` of each sequence. All cores take part unless TOKENIZERS_PARALLELISM is false."""
        return self._backend.decode_batch([list(ids) for ids in sequences], skip_special_tokens=False)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The exact bytes of `ids`: those of each in a row, so that a window may begin and end within a character.

        Of a tokenizer that is not byte-level: the UTF-8 of `decode`, which knows whole windows alone.
        """
        if not self.is_byte_level:
            return self.decode(ids).encode("utf-8")
        nothing, table = b"", self.token_bytes
        return b"".join(table.get(i, nothing) for i in ids)

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether every token is bytes, spelled in the alphabet of GPT-2."""
        return (json.loads(self.serialized).get("decoder") or {}).get("type") == "ByteLevel"

    @cached_property
    def token_bytes(self) -> dict[int, bytes]:
        """The bytes of every token, by id; a special token's are its literal's.

        Of a tokenizer that is not byte-level: the UTF-8 of the token as it is spelled in the vocabulary.
        """
        spelled = sorted((i, token) for token, i in self.vocabulary.items())
        return {i: self._bytes_of(i, token) for i, token in spelled}

    def _bytes_of(self, i: int, token: str) -> bytes:
        if i not in self._added and self.is_byte_level and all(character in BYTE_OF for character in token):
            return bytes(BYTE_OF[character] for character in token)
        return token.encode("utf-8")

    def save(self, folder: Path, *, model_max_length: int | None = None) -> list[Path]:
        """`folder` holds the tokenizer's two files, which are returned; AutoTokenizer.from_pretrained loads it.

        `model_max_length` (tokens) is what transformers truncates to when it is asked to truncate.
        """
        write_atomically(folder / TOKENIZER, self.serialized.decode("utf-8"))
        write_config(folder, self.end_of_text, model_max_length=model_max_length)
        return [folder / TOKENIZER, folder / CONFIG]


def _read_backend(serialized: bytes, origin: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_buffer(serialized)
    except Exception as error:  # tokenizers raises nothing narrower
        raise ArtifactError(f"{origin}: is not a tokenizer: {error}; make it again") from None


def serialize(tree: dict[str, Any], *, origin: str) -> bytes:
    """The tokenizer.json of `tree`, from which every added token gets the id that the tree states.

    tokenizers takes no notice of those ids: it counts on from the size of the vocabulary, which gaps lead astray. What
    stands in the vocabulary too keeps the id that it has there. Raises ArtifactError for what is no tokenizer, and for
    two tokens with the same id.
    """
    ids = _read_backend(_dump(tree), origin).get_vocab()
    stated = {token["content"]: token["id"] for token in tree.get("added_tokens") or []}
    vocabulary = tree["model"]["vocab"]
    if not isinstance(vocabulary, dict):  # a list: its places are the ids
        return _dump(tree)
    merged = vocabulary | stated
    if len(set(merged.values())) < len(merged):
        raise ArtifactError(f"{origin}: gives two tokens the same id; make it again")
    if any(ids[token] != i for token, i in stated.items()):
        vocabulary.update(stated)
    return _dump(tree)


def _dump(tree: dict[str, Any]) -> bytes:
    return json.dumps(tree, indent=2, ensure_ascii=False).encode("utf-8")


def build_backend(
    pre_tokenizer: PreTokenizer = "gpt2", *, model: tokenizers.models.BPE | None = None
) -> tokenizers.Tokenizer:
    """A byte-level backend of `model`, or one to be trained; it knows no special token yet."""
    backend = tokenizers.Tokenizer(model or tokenizers.models.BPE())
    backend.pre_tokenizer = build_pre_tokenizer(pre_tokenizer)
    backend.decoder = tokenizers.decoders.ByteLevel()
    return backend


def close_vocabulary(
    backend: tokenizers.Tokenizer, end_of_text: str, *, special_tokens: Sequence[str] = ()
) -> Tokenizer:
    """The trained `backend` as a Tokenizer: after its merges come `special_tokens`, and last `end_of_text`."""
    marks = [*special_tokens, end_of_text]
    backend.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    serialized = backend.to_str(pretty=True).encode("utf-8")
    return Tokenizer(serialized, origin="the trained tokenizer", end_of_text=end_of_text)


def copy_tokenizer(source: Path, target: Path, *, model_max_length: int | None = None) -> list[Path]:
    """The folder `target` holds the tokenizer of the folder `source`, byte for byte; both its files are returned.

    `model_max_length` (tokens) is what transformers truncates to when it is asked to truncate; it stands in
    tokenizer_config.json alone.
    """
    tokenizer = Tokenizer.load(source)
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / TOKENIZER, target / TOKENIZER)
    write_config(target, tokenizer.end_of_text, model_max_length=model_max_length)
    return [target / TOKENIZER, target / CONFIG]


def read_end_of_text(config: Path) -> str | None:
    """The eos_token that tokenizer_config.json names, if it does."""
    try:
        tree = json.loads(config.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ArtifactError(f"{config}: is not JSON: {error}; make it again") from None
    token = tree.get("eos_token") if isinstance(tree, dict) else None
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def write_config(folder: Path, end_of_text: str, *, model_max_length: int | None, padding: str | None = None) -> None:
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
