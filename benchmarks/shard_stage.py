"""The shards stage over documents of ours, as if clean, dedup and tokenizer had made its inputs."""

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from peers import CACHE
from process_tree import Cost
from stages import run_stage

from gpt_core.artifact import Artifact, Manifest, list_files, utc_now, write_json, write_manifest
from gpt_core.fingerprint import Json, fingerprint
from gpt_core.recipe import Tokenizer as Settings
from gpt_core.tokenizer.train import train_tokenizer

Row = tuple[str, str, str]  # id, text, source
VOCAB_SIZE, SAMPLE_BYTES, ROW_GROUP = 32_768, 60_000_000, 4_000
ODD_DOCUMENTS, ODD_CHARACTERS = 4_000, 400
RANGES = (  # of code points: first, last and one
    *((0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x590, 0x700), (0x900, 0xE80), (0x1E00, 0x2070), (0x2150, 0x2600)),
    *((0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xE010), (0x1F300, 0x1FAFF), (0xE0001, 0xE0080)),
)


def odd_documents() -> Iterator[Row]:
    """Random texts of letters, marks, digits and spaces of many scripts, in runs and mixed; the same every time."""
    chooser = random.Random(0)
    spaces = " \t\n\r\u00a0\u2003\u2028\u3000\u200b\u200d"
    for number in range(ODD_DOCUMENTS):
        text: list[str] = []
        while len(text) < chooser.randrange(1, ODD_CHARACTERS):
            first, last = chooser.choice(RANGES)
            text += [chr(chooser.randrange(first, last)) for _ in range(chooser.randrange(1, 12))]
            text += chooser.choice(spaces) * chooser.choice((0, 1, 1, 2, 5))
        yield f"odd-{number}", "".join(text), "odd"


def write_documents(root: Path, rows: Iterable[Row], *, files: int = 4) -> Artifact:
    """A dedup output of these documents: zstd Parquet, `files` files."""
    (root / "documents").mkdir(parents=True)
    sources: dict[str, dict[str, int]] = {}
    dealt: list[list[Row]] = [[] for _ in range(files)]
    for number, (doc_id, text, source) in enumerate(rows):
        dealt[number % files].append((doc_id, text, source))
        counts = sources.setdefault(source, {"kept": 0, "bytes_kept": 0})
        counts["kept"] += 1
        counts["bytes_kept"] += len(text.encode())
    for number, part in enumerate(dealt):
        ids, texts, names = zip(*part, strict=True)
        table = pa.table({"id": ids, "text": texts, "source": names})
        path = root / "documents" / f"part-{number}.parquet"
        pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP)
    write_json(root / "stats.json", {"sources": {name: dict(counts) for name, counts in sources.items()}})
    totals = {
        "documents_kept": sum(counts["kept"] for counts in sources.values()),
        "text_bytes_kept": sum(counts["bytes_kept"] for counts in sources.values()),
    }
    return write_output(root, "dedup", totals)


def tokenizer_of(texts: Sequence[str]) -> Path:
    """A folder with a tokenizer of VOCAB_SIZE learned from the first SAMPLE_BYTES of the texts; it is kept."""
    sample, size = [], 0
    for text in texts:
        if size >= SAMPLE_BYTES:
            break
        sample.append(text)
        size += len(text.encode())
    digest = hashlib.sha256("\0".join(sample).encode()).hexdigest()[:12]
    root = CACHE / f"tokenizer-{VOCAB_SIZE}-{digest}"
    if not (root / "manifest.json").exists():
        print(f"learning a vocabulary of {VOCAB_SIZE:,} from {size / 1e6:.0f} MB", flush=True)
        root.mkdir(parents=True, exist_ok=True)
        train_tokenizer([sample], Settings(vocab_size=VOCAB_SIZE)).save(root)
        write_output(root, "tokenizer", {})
    return root


def run_shards(output: Path, dedup: Path, tokenizer: Path, **shards: Json) -> tuple[Artifact, Cost]:
    """The shards of the documents. `shards`: fields of the recipe's section."""
    inputs = [f"dedup={dedup}", f"tokenizer={tokenizer}"]
    return run_stage("shards", output, {"shards": shards}, inputs, module="jobs.tokenize_corpus")


def cpu_seconds(shards: Artifact) -> dict[str, float]:
    """Of the actors that encode and of the tasks that merge."""
    return {step: round(shards.manifest.figures[f"{step}_cpu_seconds"], 3) for step in ("encode", "merge")}


def digests(shards: Artifact) -> dict[str, str]:
    """Checksums of all shards."""
    return {entry.path: entry.sha256 for entry in shards.manifest.files if entry.path.endswith(".arrow")}


def write_output(root: Path, stage: str, counts: dict[str, int]) -> Artifact:
    """All files below `root` are a whole output."""
    identity: dict[str, Json] = {"made": "by a benchmark", "counts": dict(counts)}
    manifest = Manifest(
        stage=stage,
        fingerprint=fingerprint(identity),
        identity=identity,
        recipe_name="benchmark",
        created_at=utc_now(),
        inputs={},
        files=list_files(root, root.iterdir()),
        counts=counts,
        figures={},
        schemas={},
        versions={},
        command=[],
        host="",
        git_commit=None,
        wall_seconds=0,
        cpu_seconds=0,
        peak_memory_bytes=0,
    )
    write_manifest(root, manifest)
    return Artifact(root, manifest)
