"""Labelled texts: read with their line numbers, encoded as the paper draws them, batched by length.

A sequence is `<start> text <extract>` (Radford et al. 2018, figure 1); start and extract are the end-of-text token,
which pre-training has placed around every document. The last real token is pooled, so padding goes on the right.
No torch here: the runner reads labels before any engine starts.
"""

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpt_core.errors import InputError
from gpt_core.tokenizer.tokenizer import Tokenizer

IGNORED = -100
BUCKET_BATCHES = 16  # batches that are sorted by length together


@dataclass(frozen=True)
class Labelled:
    """One labelled text and where it stands."""

    where: str  # file:line
    text: str
    label: str


@dataclass(frozen=True)
class Examples:
    """A split, encoded: token ids of each sequence, its label's number, and where it stands."""

    ids: tuple[tuple[int, ...], ...]
    labels: tuple[int, ...]
    where: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each sequence, (n,)."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)


@dataclass(frozen=True)
class ClassificationBatch:
    """B sequences padded to T tokens. Rows with weight 0 fill a rank's part and count nothing."""

    ids: npt.NDArray[np.int64]  # (B, T)
    lengths: npt.NDArray[np.int64]  # (B,), at least 1
    targets: npt.NDArray[np.int64]  # (B, T), the next token; -100 behind the last
    labels: npt.NDArray[np.int64]  # (B,); -100 in rows that fill


def read_labelled(path: Path, *, text_field: str, label_field: str) -> list[Labelled]:
    """All rows of a JSONL file, plain or .gz. Raises InputError with file and line for the first bad one."""
    rows = [_parse(line, f"{path}:{number}", text_field, label_field) for number, line in _lines(path)]
    if not rows:
        raise InputError(f"{path}: holds no row; give one JSON object with {text_field!r} and {label_field!r} a line")
    return rows


def label_names(train: Sequence[Labelled]) -> list[str]:
    """The distinct labels of the training split, sorted. Raises InputError if there is but one."""
    names = sorted({row.label for row in train})
    if len(names) < 2:
        raise InputError(f"{train[0].where}: every row has the label {names[0]!r}; a classifier needs two or more")
    return names


def require_known_labels(rows: Sequence[Labelled], names: Sequence[str]) -> None:
    """Raises InputError with file and line for the first label that the training split does not have."""
    for row in rows:
        if row.label not in names:
            raise InputError(
                f"{row.where}: the label {row.label!r} is none of the training split's: {', '.join(names)}; "
                "correct the row, or add rows with it to finetune.train"
            )


def draw_rows(rows: Sequence[Labelled], count: int | None, *, seed: int) -> list[Labelled]:
    """`count` of the rows, in their order; all of them where there are no more, or `count` is None."""
    if count is None or count >= len(rows):
        return list(rows)
    chosen = np.random.default_rng(seed).choice(len(rows), size=count, replace=False)
    return [rows[index] for index in sorted(chosen.tolist())]


def encode_example(tokenizer: Tokenizer, text: str, max_tokens: int) -> list[int]:
    """`<start> text <extract>`, cut in the text to at most `max_tokens` ids."""
    return [tokenizer.end_of_text_id, *tokenizer.encode(text)[: max_tokens - 2], tokenizer.end_of_text_id]


def encode_split(rows: Sequence[Labelled], tokenizer: Tokenizer, *, names: Sequence[str], max_tokens: int) -> Examples:
    """The split as token ids and label numbers. Raises InputError for a label that is not among `names`."""
    require_known_labels(rows, names)
    number = {name: index for index, name in enumerate(names)}
    mark = tokenizer.end_of_text_id
    encoded = tokenizer.encode_batch([row.text for row in rows])
    return Examples(
        ids=tuple((mark, *ids[: max_tokens - 2], mark) for ids in encoded),
        labels=tuple(number[row.label] for row in rows),
        where=tuple(row.where for row in rows),
    )


def epoch_batches(lengths: npt.NDArray[np.int64], *, batch_sequences: int, seed: int, epoch: int) -> list[list[int]]:
    """Every example once, in batches of like lengths, shuffled; the same for any number of ranks.

    Examples are shuffled, sorted by length within BUCKET_BATCHES batches, and the batches shuffled again. One batch
    may be short.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    bucket = BUCKET_BATCHES * batch_sequences
    batches: list[list[int]] = []
    for start in range(0, len(order), bucket):
        part = order[start : start + bucket]
        ranked = part[np.argsort(lengths[part], kind="stable")].tolist()
        batches += [ranked[i : i + batch_sequences] for i in range(0, len(ranked), batch_sequences)]
    return [batches[index] for index in random.permutation(len(batches))]


def share_of(rank: int, world_size: int, rows: Sequence[int], *, size: int) -> list[int]:
    """The rank's part of a batch of `rows`, dealt in turn; -1 fills it up to `size` / `world_size`."""
    part = list(rows[rank::world_size])
    return part + [-1] * (size // world_size - len(part))


def make_batch(examples: Examples, rows: Sequence[int], *, pad_id: int) -> ClassificationBatch:
    """The examples with the numbers `rows`, padded to the longest; -1 is a row that counts nothing."""
    chosen = [examples.ids[row] if row >= 0 else (pad_id,) for row in rows]
    width = max(len(ids) for ids in chosen)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    targets = np.full((len(rows), width), IGNORED, dtype=np.int64)
    for index, sequence in enumerate(chosen):
        ids[index, : len(sequence)] = sequence
        targets[index, : len(sequence) - 1] = sequence[1:]
    return ClassificationBatch(
        ids=ids,
        lengths=np.array([len(sequence) for sequence in chosen], dtype=np.int64),
        targets=targets,
        labels=np.array([examples.labels[row] if row >= 0 else IGNORED for row in rows], dtype=np.int64),
    )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes) of each line that is not blank."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError) as error:
        raise InputError(f"{path}:{number + 1}: cannot be read on: {error}; give an unbroken file") from None


def _parse(line: bytes, where: str, text_field: str, label_field: str) -> Labelled:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: is no JSON: {error}; correct or remove the line") from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: is no JSON object; give one object a line")
    for field in (text_field, label_field):
        value = record.get(field)
        if not isinstance(value, str) or not value.strip():
            shown = json.dumps(value)[:60] if field in record else "missing"
            raise InputError(f"{where}: {field!r} is {shown}; it must be a string that says something")
    return Labelled(where, record[text_field], record[label_field])
