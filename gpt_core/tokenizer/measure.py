"""What a tokenizer does to a sample of documents: report.json of the tokenizer stage.

    {"vocab_size": 4096, "padded_vocab_size": 4224, "special_tokens": {"<|endoftext|>": 4095},
     "measured": {"documents": 8580, "bytes": 7999000, "tokens": 2165000},
     "sources": {"novels": {the same three}, ...}, "languages": {"en": {the same three}, ...},
     "unused": {"tokens": 90, "single_bytes": 60, "first": [{"id": 257, "token": "...", "bytes": 3}, ...]},
     "longest": [{"id": 3995, "token": "...", "bytes": 17}, ...]}

`token` is the token's bytes as UTF-8, those that are none as \\xNN. A document without a language counts as "".
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gpt_core.errors import InputError
from gpt_core.fingerprint import Json
from gpt_core.tokenizer.tokenizer import Tokenizer

MEASURED_BYTES = 8_000_000  # of text that is measured: five seconds of one core
CHUNK_DOCUMENTS = 64  # encoded at once: what tokenizers makes of them on the way is 50 times as large
MOST_TOKENS = 50
COLUMNS = ("id", "text", "source", "language")


@dataclass
class Tally:
    """What a group of documents is in bytes of UTF-8 and in tokens, end-of-text tokens left out."""

    documents: int = 0
    text_bytes: int = 0
    tokens: int = 0

    def add(self, text_bytes: int, tokens: int) -> None:
        """One document more."""
        self.documents += 1
        self.text_bytes += text_bytes
        self.tokens += tokens

    def tree(self) -> Json:
        """As report.json has it."""
        return {"documents": self.documents, "bytes": self.text_bytes, "tokens": self.tokens}


@dataclass
class Measurement:
    """What was counted; `used` says of every id how often it occurred."""

    used: npt.NDArray[np.int64]
    whole: Tally = field(default_factory=Tally)
    sources: dict[str, Tally] = field(default_factory=dict)
    languages: dict[str, Tally] = field(default_factory=dict)

    @property
    def bytes_per_token(self) -> float:
        """Mean over all tokens."""
        return self.whole.text_bytes / max(self.whole.tokens, 1)


def measure_tokenizer(tokenizer: Tokenizer, batches: Iterable[pa.RecordBatch], *, name: str) -> Measurement:
    """What `tokenizer` makes of the documents, which have COLUMNS, the last of them perhaps not.

    Raises InputError that tells the first document whose text does not come back; `name` says whose fault it is.
    """
    found = Measurement(np.zeros(tokenizer.vocab_size, dtype=np.int64))
    for batch in batches:
        for start in range(0, len(batch), CHUNK_DOCUMENTS):
            _measure_chunk(tokenizer, batch.slice(start, CHUNK_DOCUMENTS), found, name=name)
    return found


def _measure_chunk(tokenizer: Tokenizer, batch: pa.RecordBatch, found: Measurement, *, name: str) -> None:
    doc_ids, texts, sources = (batch.column(column).to_pylist() for column in COLUMNS[:3])
    has_language = "language" in batch.schema.names
    languages = batch.column("language").to_pylist() if has_language else [None] * len(texts)
    encoded = tokenizer.encode_batch(texts)
    require_round_trip(tokenizer, doc_ids, texts, encoded, name=name)
    every = np.fromiter((i for ids in encoded for i in ids), np.int64)
    found.used += np.bincount(every, minlength=len(found.used))
    for text, source, language, ids in zip(texts, sources, languages, encoded, strict=True):
        groups = found.sources.setdefault(source, Tally()), found.languages.setdefault(language or "", Tally())
        for tally in (found.whole, *groups):
            tally.add(len(text.encode("utf-8")), len(ids))


def require_round_trip(
    tokenizer: Tokenizer, doc_ids: list[str], texts: list[str], encoded: list[list[int]], *, name: str
) -> None:
    """Every text comes back from its ids. Raises InputError for the first that does not, and shows where."""
    for doc_id, text, decoded in zip(doc_ids, texts, tokenizer.decode_batch(encoded), strict=True):
        if decoded != text:
            at = next((i for i, pair in enumerate(zip(text, decoded, strict=False)) if len(set(pair)) > 1), None)
            at = min(len(text), len(decoded)) if at is None else at
            raise InputError(
                f"{name}: does not give back the text of document {doc_id}: {text[at : at + 20]!r} at character "
                f"{at} comes back as {decoded[at : at + 20]!r}; take a byte-level tokenizer that normalizes nothing, "
                "or leave tokenizer.path out to learn one"
            )


def describe_tokenizer(tokenizer: Tokenizer, found: Measurement, *, padded_vocab_size: int) -> dict[str, Json]:
    """The content of report.json."""
    special = set(tokenizer.special_tokens.values())
    of_text = {i: value for i, value in tokenizer.token_bytes.items() if i not in special}
    unused = [i for i in of_text if not found.used[i]]
    learned = [i for i in unused if len(of_text[i]) > 1]
    longest = sorted(of_text, key=lambda i: (-len(of_text[i]), i))

    def tell(ids: list[int]) -> list[Json]:
        shown = ids[:MOST_TOKENS]
        return [{"id": i, "token": _show(of_text[i]), "bytes": len(of_text[i])} for i in shown]

    tree: dict[str, Json] = {
        "vocab_size": tokenizer.vocab_size,
        "padded_vocab_size": padded_vocab_size,
        "special_tokens": dict(tokenizer.special_tokens),
        "measured": found.whole.tree(),
        "sources": {name: found.sources[name].tree() for name in sorted(found.sources)},
        "languages": {name: found.languages[name].tree() for name in sorted(found.languages)},
        "unused": {"tokens": len(unused), "single_bytes": len(unused) - len(learned), "first": tell(learned)},
        "longest": tell(longest),
    }
    return tree


def _show(value: bytes) -> str:
    return value.decode("utf-8", errors="backslashreplace")
