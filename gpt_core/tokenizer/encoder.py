"""Texts of an Arrow column to token ids, fast where that is proven to be exact.

The reference is Hugging Face's `tokenizers`, 2 to 5 MB of text a CPU-second. The fast encoder is gigatoken, a hundred
times that: it reads Arrow's buffers and writes ids and offsets, with no Python object a document. It is another
program. Documents with letters that only one of the two knows (newer_letters.py) are the reference's, always; and both
are asked for a sample of every block and for a few texts that encoders stumble over, and where they differ `auto` takes
the reference for the block. Neither ever gives a special token: their literals are text.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import awkward as ak
import gigatoken
import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from gpt_core.errors import UserError
from gpt_core.tokenizer.newer_letters import find_newer_letters
from gpt_core.tokenizer.tokenizer import Tokenizer

Choice: TypeAlias = Literal["auto", "fast", "reference"]
Ids: TypeAlias = npt.NDArray[np.uint32]
Offsets: TypeAlias = npt.NDArray[np.int64]

SAMPLE_SHARE = 1_000  # of a block's text, that both encode: a tenth of what encoding the block takes
SAMPLE_BYTES = (8_000, 64_000)  # at least, at most
REMEMBERED_BYTES = 512 << 20
CHUNK_BYTES = 1_000_000  # of text that the reference takes at once: its intermediate forms are 50 times as large
ODD_TEXTS = (
    "",
    " \n \t\r\n  x",
    "don't I'LL we've 's 'S 'll 'LL'",
    "caf\u00e9 cafe\u0301 \u1e9e\u0130\u0131 \ufb01",
    "\u00a0\u2003\u2028\u2029\x85\u200b\u200d\ufeff",
    "\x00\x01\x1b\x7f",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 \U0001f44d\U0001f3fd",
    "\u0661\u0662\u0663 \u2167 \u00b2\u00bd 1234567890 3.14 0x1F",
    "\u6f22\u5b57\u304b\u306a\u4ea4\u3058\u308a\u6587 \u0e01\u0e47 \u0915\u094d\u0937\u093f \u05d0\u05b8 \u0644\u0627",
    "\ufffd\ufffe\uffff\U0010ffff\U000e0001",
    "a" * 3_000 + " " * 300 + "=" * 300 + "\n" * 30,
    "<|endoftext|> <|padding|> [MASK] <s>",
)


class Encoder(Protocol):
    """Anything that turns texts into ids."""

    def encode(self, texts: pa.LargeStringArray) -> tuple[Ids, Offsets]:
        """The ids of all texts in a row, and their (n_texts + 1,) borders, of which the first is 0."""


class ReferenceEncoder:
    """Hugging Face's `tokenizers`: what it says is right."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def encode(self, texts: pa.LargeStringArray) -> tuple[Ids, Offsets]:
        """See Encoder."""
        parts, lengths = [np.empty(0, np.uint32)], [0]
        for rows in _chunks(pc.binary_length(texts).to_numpy(zero_copy_only=False)):
            for ids in self.tokenizer.encode_batch(texts.slice(rows.start, len(rows)).to_pylist()):
                parts.append(np.array(ids, np.uint32))
                lengths.append(len(ids))
        return np.concatenate(parts), np.cumsum(lengths, dtype=np.int64)


class FastEncoder:
    """gigatoken on one core. Raises ValueError for a tokenizer that it does not know how to run.

    gigatoken remembers every word that it has met, some 65 bytes each, without end. So it is begun anew whenever the
    process has grown by REMEMBERED_BYTES since the first text: the words come back at the cost of 0.2 s of 50 MB.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tree = json.loads(tokenizer.serialized)
        if not all(token["special"] for token in tree.get("added_tokens", ())):
            raise ValueError("it has added tokens that are not special, which the two find in texts differently")
        tree["added_tokens"] = []  # gigatoken would find the special ones in texts
        self._serialized = json.dumps(tree)
        self._backend = gigatoken.Tokenizer.from_json(self._serialized)
        self._first_bytes: int | None = None  # of the process, before the first text

    def encode(self, texts: pa.LargeStringArray) -> tuple[Ids, Offsets]:
        """See Encoder."""
        if not len(texts):
            return np.empty(0, np.uint32), np.zeros(1, np.int64)
        resident_bytes = psutil.Process().memory_info().rss
        self._first_bytes = self._first_bytes or resident_bytes
        if resident_bytes - self._first_bytes > REMEMBERED_BYTES:
            self._backend = gigatoken.Tokenizer.from_json(self._serialized)
        layout = self._backend.encode_batch(_to_awkward(texts), parallel=False).layout
        return np.asarray(layout.content.data), np.asarray(layout.offsets.data, np.int64)


@dataclass(frozen=True)
class Proof:
    """Which encoder a block got, and what that rests on."""

    encoder: Literal["fast", "reference"]
    documents: int = 0  # compared, at least in part
    text_bytes: int = 0
    newer_letters: int = 0  # documents of a fast block that the reference encoded for their letters
    difference: str = ""  # why the fast encoder was not taken where it was asked for


class ProvenEncoder:
    """The encoder that `shards.encoder` asks for.

    auto: fast for each block whose sample both encode alike, else the reference. fast: as auto, but raises UserError
    where they differ. reference: always that.
    """

    def __init__(self, tokenizer: Tokenizer, choice: Choice) -> None:
        self.choice = choice
        self.reference = ReferenceEncoder(tokenizer)
        self.fast: FastEncoder | None = None
        self.refusal = ""
        if choice == "reference":
            return
        try:
            self.fast = FastEncoder(tokenizer)
        except Exception as error:  # gigatoken raises nothing narrower
            self._refuse(f"gigatoken does not run this tokenizer: {str(error).splitlines()[0]}")
            return
        odd = self._find_difference(pa.array(ODD_TEXTS, pa.large_string()))
        if odd is not None:
            self._refuse(f"the encoders differ on {ODD_TEXTS[odd]!r}")

    def encode(self, texts: pa.LargeStringArray, hashes: npt.NDArray[np.uint64]) -> tuple[Ids, Offsets, Proof]:
        """As Encoder, with the proof; `hashes` (n_texts,) decide which texts are compared."""
        if self.fast is None:
            return *self.reference.encode(texts), Proof("reference", difference=self.refusal)
        newer = find_newer_letters(texts)
        rows = _sample_rows(pc.binary_length(texts).to_numpy(zero_copy_only=False), hashes)
        rows = rows[~np.isin(rows, newer)]
        sample = pc.utf8_slice_codeunits(texts.take(pa.array(rows)), 0, SAMPLE_BYTES[1])
        differing = self._find_difference(sample)
        compared = (len(rows), int(pc.sum(pc.binary_length(sample)).as_py() or 0))
        if differing is None:
            ids, borders = self.fast.encode(texts)
            if len(newer):
                ids, borders = _replace(ids, borders, newer, *self.reference.encode(texts.take(pa.array(newer))))
            return ids, borders, Proof("fast", *compared, len(newer))
        difference = f"the encoders differ on text {rows[differing]} of the block: {sample[differing].as_py()[:80]!r}"
        if self.choice == "fast":
            raise UserError(f"shards.encoder=fast: {difference}; take auto or reference")
        return *self.reference.encode(texts), Proof("reference", *compared, difference=difference)

    def _refuse(self, why: str) -> None:
        if self.choice == "fast":
            raise UserError(f"shards.encoder=fast: {why}; take auto or reference")
        self.fast, self.refusal = None, why

    def _find_difference(self, texts: pa.LargeStringArray) -> int | None:
        """The first text that the two encode differently."""
        assert self.fast is not None
        ours, borders = self.fast.encode(texts)
        wanted, wanted_borders = self.reference.encode(texts)
        for row in range(len(texts)):
            found = ours[borders[row] : borders[row + 1]]
            if not np.array_equal(found, wanted[wanted_borders[row] : wanted_borders[row + 1]]):
                return row
        return None


def _replace(
    ids: Ids, borders: Offsets, rows: npt.NDArray[np.int64], others: Ids, other_borders: Offsets
) -> tuple[Ids, Offsets]:
    """The ids of all texts, those of `rows` taken from `others`."""
    parts, lengths, begin = [], np.diff(borders), 0
    for number, row in enumerate(rows.tolist()):
        parts += [ids[begin : borders[row]], others[other_borders[number] : other_borders[number + 1]]]
        begin = borders[row + 1]
    lengths[rows] = np.diff(other_borders)
    return np.concatenate([*parts, ids[begin:]]), np.concatenate([[0], np.cumsum(lengths)])


def _sample_rows(text_bytes: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The rows of least hash that hold the sample's bytes together, a text beyond counted as that; at least one."""
    least, most = SAMPLE_BYTES
    wanted = min(most, max(least, int(text_bytes.sum()) // SAMPLE_SHARE))
    order = np.argsort(hashes, kind="stable")
    held = np.cumsum(np.minimum(text_bytes[order], most))
    return order[: int(np.searchsorted(held, wanted)) + 1]


def _to_awkward(texts: pa.LargeStringArray) -> ak.Array:
    """The same strings over the same memory."""
    _, offsets, data = texts.buffers()
    borders = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    characters = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    content = ak.contents.NumpyArray(characters, parameters={"__array__": "char"})
    index = ak.index.Index64(borders)
    return ak.Array(ak.contents.ListOffsetArray(index, content, parameters={"__array__": "string"}))


def _chunks(text_bytes: npt.NDArray[np.int64]) -> Iterator[range]:
    """Consecutive rows, as few chunks as hold about CHUNK_BYTES each."""
    numbers = np.cumsum(text_bytes, dtype=np.int64) // CHUNK_BYTES
    borders = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(text_bytes)]
    return (range(start, stop) for start, stop in itertools.pairwise(borders) if stop > start)
