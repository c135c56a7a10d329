"""One part of `clean`: raw splits in, a table of clean documents and a table of rejected ones out.

An engine gives every part to a task, on whatever machine; what a part writes depends on its splits and the rules
alone, so that a part made twice is the same part. Memory: a batch of documents and a row group of each table.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from gpt_core.recipe import Clean
from gpt_core.text.document import DOCUMENT_FIELDS, REJECTION_FIELDS
from gpt_core.text.histogram import Histograms
from gpt_core.text.normalize import normalize_texts
from gpt_core.text.read import Split, read_split
from gpt_core.text.rules import Judgement, Rules
from gpt_core.text.table import TableWriter, without_rows

MOST_PARTS = 64  # of a small corpus: enough for many cores, few enough to cost nothing
LEAST_PART_BYTES, PART_BYTES = 4 << 20, 64 << 20  # of raw files in a part: small files share one
SAMPLES_PER_REASON = 3
SAMPLE_CHARACTERS = 200

_DETAILS = {
    "duplicate_id": "another document has this id",
    "source_limit": "its input has max_documents with lesser hashes of their ids",
}

DOCUMENTS = pa.schema(DOCUMENT_FIELDS)
REJECTED = pa.schema([*DOCUMENT_FIELDS, *REJECTION_FIELDS])
IDS = pa.schema(
    [
        pa.field("high", pa.int64(), nullable=False),  # xxh3-128 of the id
        pa.field("low", pa.int64(), nullable=False),
        pa.field("text_hash", pa.int64(), nullable=False),
        pa.field("entry", pa.int32(), nullable=False),  # in corpus.inputs
        pa.field("file", pa.string(), nullable=False),  # of documents/
        pa.field("row", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Group:
    """What documents are counted by. `octave`: floor(log2(characters)), or None of a malformed record."""

    source: str
    reason: str | None
    language: str | None
    octave: int | None


@dataclass(slots=True)
class Tally:
    """What a part, or all of them, found."""

    documents: Counter[Group]
    text_bytes: Counter[Group]  # as written
    text_bytes_in: int  # as read
    samples: dict[str, list[tuple[str, str, str]]]  # reason -> the least (id, detail, text)
    pii: Counter[tuple[str, str]]  # (kind, "found" or "documents")
    contamination: Counter[str]
    edited: Counter[tuple[str, str]]  # ("c4" or "normalized", "documents" or "bytes")
    histograms: Histograms

    @classmethod
    def empty(cls, clean: Clean) -> "Tally":
        """Of no document."""
        return cls(Counter(), Counter(), 0, {}, Counter(), Counter(), Counter(), Histograms.of(clean))

    def add(self, other: "Tally") -> None:
        """`other` is counted in."""
        self.documents.update(other.documents)
        self.text_bytes.update(other.text_bytes)
        self.pii.update(other.pii)
        self.contamination.update(other.contamination)
        self.edited.update(other.edited)
        self.text_bytes_in += other.text_bytes_in
        for reason, samples in other.samples.items():
            self.samples[reason] = sorted([*self.samples.get(reason, []), *samples])[:SAMPLES_PER_REASON]
        self.histograms.add(other.histograms)

    def count(self, table: pa.Table, *, is_read: bool = True) -> None:
        """The rows of `table` are counted, by their `reason`; malformed ones have no language and no length."""
        for group, size in _groups(table, table["reason"].to_pylist(), is_read=is_read):
            self.documents[group] += 1
            self.text_bytes[group] += size

    def uncount(self, table: pa.Table) -> None:
        """The rows of `table` were kept, and are no longer."""
        for group, size in _groups(table, [None] * len(table)):
            self.documents[group] -= 1
            self.text_bytes[group] -= size

    def sample(self, rejected: pa.Table) -> None:
        """The rejected documents with the least ids are remembered, by reason."""
        found: defaultdict[str, list[tuple[str, str, str]]] = defaultdict(list)
        texts = pc.utf8_slice_codeunits(rejected["text"], 0, SAMPLE_CHARACTERS)
        columns = (column.to_pylist() for column in (rejected["reason"], rejected["id"], rejected["detail"], texts))
        for reason, id_, detail, text in zip(*columns, strict=True):
            found[reason].append((id_, detail, text))
        for reason, samples in found.items():
            self.samples[reason] = sorted([*self.samples.get(reason, []), *samples])[:SAMPLES_PER_REASON]


def plan_parts(splits: Sequence[Split]) -> list[list[Split]]:
    """The splits in order: MOST_PARTS parts, or what keeps them between the bounds. Depends on the files alone."""
    size = min(PART_BYTES, max(LEAST_PART_BYTES, sum(split.size for split in splits) // MOST_PARTS))
    parts: list[list[Split]] = []
    room = 0
    for split in splits:
        if not parts or split.size > room:
            parts.append([])
            room = size
        parts[-1].append(split)
        room -= split.size
    return parts


def clean_part(
    part: int,
    splits: Iterable[Split],
    rules: Rules,
    *,
    output: Path,
    scratch: Path,
    max_record_bytes: int,
    attempt: str,
) -> Tally:
    """documents/, rejected/ in `output` and ids/ in `scratch` have the files of this part. Returns what was found."""
    tally = Tally.empty(rules.clean)
    name = f"part-{part:05d}"
    with (
        TableWriter(output / "documents", name, DOCUMENTS, attempt=attempt) as documents,
        TableWriter(output / "rejected", name, REJECTED, attempt=attempt) as rejected,
        TableWriter(scratch / "ids", name, IDS, attempt=attempt) as ids,
    ):
        for split in splits:
            for raw in read_split(split, max_record_bytes):
                judged = _judge(raw, rules, tally)
                is_kept = pc.is_null(judged["reason"])
                kept, dropped = judged.filter(is_kept), judged.filter(pc.invert(is_kept))
                tally.sample(dropped)
                rejected.write(dropped.select(REJECTED.names))
                kept = kept.select(DOCUMENTS.names)
                for file, first, rows in documents.write(kept):
                    ids.write(_ids(rows, split.input.entry, file, first))
    return tally


def move_rows(file: str, reasons: Mapping[int, str], clean: Clean, *, output: Path, attempt: str) -> Tally:
    """A new file of documents/ holds the rows of `file` that are not in `reasons` (row -> reason), one of rejected/
    those that are; `file` itself stays until the caller removes it, so that a task may move twice.

    Returns what changes in the counts.
    """
    tally, stem = Tally.empty(clean), Path(file).stem
    told = [reason for _, reason in sorted(reasons.items())]
    with (
        TableWriter(output / "documents", f"{stem}-unique", DOCUMENTS, attempt=attempt) as documents,
        TableWriter(output / "rejected", f"{stem}-moved", REJECTED, attempt=attempt) as rejected,
    ):
        for kept, moved in without_rows(output / "documents" / file, list(reasons)):
            documents.write(kept)
            why, told = told[: len(moved)], told[len(moved) :]
            tally.uncount(moved)
            details = [_DETAILS[reason] for reason in why]
            moved = moved.append_column("reason", pa.array(why, pa.string()))
            moved = moved.append_column("detail", pa.array(details, pa.string()))
            tally.count(moved)
            tally.sample(moved)
            rejected.write(moved)
    return tally


def _judge(raw: pa.RecordBatch, rules: Rules, tally: Tally) -> pa.Table:
    """The rows of `raw` in order, the malformed ones as they are, the others normalized and judged."""
    tally.text_bytes_in += pc.sum(raw.column("text_bytes")).as_py() or 0
    table = pa.Table.from_batches([raw])
    is_read = pc.is_null(table["reason"])
    malformed, read = table.filter(pc.invert(is_read)), table.filter(is_read)
    before = _sizes(read["text"])
    texts = normalize_texts(_array(read["text"]), fix_mojibake=rules.clean.fix_mojibake)
    after = _sizes(texts)
    tally.edited.update({("normalized", "documents"): int(np.count_nonzero(before != after))})
    tally.edited.update({("normalized", "bytes"): int((before - after).sum())})
    read = _put(read, text=texts)
    blank = after == 0
    if blank.any():
        empty = read.filter(pa.array(blank))
        why = [f"{place}: no visible character in the text" for place in empty["place"].to_pylist()]
        empty = _put(empty, reason=["malformed"] * len(empty), detail=why)
        malformed, read = pa.concat_tables([malformed, empty]), read.filter(pa.array(~blank))
    tally.count(malformed, is_read=False)
    if not len(read):
        return malformed
    judgement = rules.judge(_array(read["text"]), read["url"].to_pylist())
    _count(judgement, _sizes(read["text"]), tally, rules)
    languages = [
        given or identified for given, identified in zip(read["language"].to_pylist(), judgement.languages, strict=True)
    ]
    is_kept = pc.is_null(pa.array(judgement.reasons, pa.string()))  # what is rejected keeps its text as it was
    texts = judgement.texts if judgement.texts is texts else pc.if_else(is_kept, judgement.texts, _array(read["text"]))
    read = _put(read, text=texts, reason=judgement.reasons, detail=judgement.details, language=languages)
    tally.count(read)
    return pa.concat_tables([malformed, read])


def _count(judgement: Judgement, before: npt.NDArray[np.int64], tally: Tally, rules: Rules) -> None:
    is_kept = np.array([reason is None for reason in judgement.reasons])
    tally.histograms.count(judgement.values, is_kept)
    for kind, found in judgement.pii.items():
        tally.pii[kind, "found"] += int(found[is_kept].sum())
        tally.pii[kind, "documents"] += int(np.count_nonzero(found[is_kept]))
    for reason, detail in zip(judgement.reasons, judgement.details, strict=True):
        if reason == "contaminated" and detail is not None:
            tally.contamination[
                detail.partition(" in a row with ")[2] or detail.removeprefix("is the evaluation text ")
            ] += 1
    if rules.clean.c4 is not None:
        removed = (before - _sizes(judgement.texts))[is_kept]
        tally.edited["c4", "documents"] += int(np.count_nonzero(removed))
        tally.edited["c4", "bytes"] += int(removed.sum())


def _ids(rows: pa.Table, entry: int, file: str, first: int) -> pa.Table:
    """IDS of consecutive rows of `file`, from row `first` on."""
    digests = b"".join(xxhash.xxh3_128_digest(id_.encode()) for id_ in rows["id"].to_pylist())
    halves = np.frombuffer(digests, ">i8").astype(np.int64).reshape(-1, 2)
    texts = [xxhash.xxh3_64_intdigest(text) - (1 << 63) for text in rows["text"].cast(pa.binary()).to_pylist()]
    columns = [
        pa.array(halves[:, 0]),
        pa.array(halves[:, 1]),
        pa.array(texts, pa.int64()),
        pa.array(np.full(len(rows), entry, np.int32)),
        pa.array([file] * len(rows)),
        pa.array(np.arange(first, first + len(rows))),
    ]
    return pa.Table.from_arrays(columns, schema=IDS)


def _groups(table: pa.Table, reasons: Sequence[str | None], *, is_read: bool = True) -> Iterator[tuple[Group, int]]:
    """The group of each row, and the bytes of its text."""
    octaves = [n.bit_length() - 1 for n in pc.utf8_length(table["text"]).to_pylist()]
    columns = (table["source"].to_pylist(), reasons, table["language"].to_pylist(), octaves)
    for (source, reason, language, octave), size in zip(
        zip(*columns, strict=True), _sizes(table["text"]).tolist(), strict=True
    ):
        yield Group(source, reason, language if is_read else None, octave if is_read else None), size


def _put(table: pa.Table, **columns: Sequence[str | None] | pa.Array) -> pa.Table:
    """The table with these columns in the place of those of the same names."""
    for name, values in columns.items():
        at = table.column_names.index(name)
        array = values if isinstance(values, pa.Array) else pa.array(values, pa.string())
        table = table.set_column(at, table.schema.field(name), array)
    return table


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _sizes(texts: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Bytes of every text."""
    sizes: npt.NDArray[np.int64] = pc.binary_length(texts).cast(pa.int64()).to_numpy(zero_copy_only=False)
    return sizes
