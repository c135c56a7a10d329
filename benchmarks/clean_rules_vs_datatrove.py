"""Claim: all text rules and the MinHash signature, 100 times datatrove 0.10.1 per CPU-second.

    make bench NAME=clean_rules_vs_datatrove

The same English documents of data/demo through Gopher quality, Gopher repetition, C4, FineWeb and a signature of 112
values in 14 bands, every document through all of them, in one process each: three runs of each by turns, medians of
process CPU seconds. Long texts are cut into passages of some 4 kB at paragraph borders. `same_work`: each family
keeps or drops at least 99 % of the documents as datatrove's filter does. Prints where they differ.
"""

import gzip
import json
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
from peers import datatrove_python

from gpt_core.recipe import Clean, Dedup
from gpt_core.text.language import identify_languages
from gpt_core.text.near import Sketcher
from gpt_core.text.normalize import normalize
from gpt_core.text.rules import Rules

ROOT = Path(__file__).parents[1]
RUNS, SAMPLE_DOCUMENTS, PASSAGE_CHARACTERS = 3, 5_000, 4_000
FAMILIES = ("gopher_quality", "gopher_repetition", "c4", "fineweb")
ALL = {
    "preset": "none",
    "gopher_quality": {"count_punctuation": True},
    "gopher_repetition": {"count_single_ngrams": True},
    "c4": {"require_terminal_punctuation": False},
    "fineweb": {},
}


def main() -> None:
    """Print the rates and the agreement of each family, then the claim as one line of JSON."""
    texts = sample()
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} documents, {megabytes:.1f} MB")
    array = pa.array(texts)
    rules, sketcher = Rules(Clean.model_validate(ALL)), Sketcher(Dedup())
    run_ours(rules, sketcher, array)  # kernels are compiled, or loaded
    ours, peer = [], []
    verdicts: dict[str, list[str | None]] = {}
    for _ in range(RUNS):
        ours.append(megabytes / run_ours(rules, sketcher, array))
        seconds, verdicts = run_peer(texts)
        peer.append(megabytes / seconds)
        print(f"ours {ours[-1]:.1f}, datatrove {peer[-1]:.3f} MB per CPU-second", flush=True)
    agreements = [compare(family, array, verdicts[family]) for family in FAMILIES]
    rate, peer_rate = statistics.median(ours), statistics.median(peer)
    print(
        json.dumps(
            {
                "claim": "all text rules and the MinHash signature, per CPU-second",
                "ours": round(rate, 1),
                "peer": round(peer_rate, 3),
                "ratio": round(rate / peer_rate, 1),
                "unit": "MB per CPU-second",
                "same_work": min(agreements) >= 0.99,
            }
        )
    )


def sample() -> list[str]:
    """SAMPLE_DOCUMENTS English documents, evenly drawn."""
    texts = []
    for name in ("novels", "speeches", "encyclopedia"):
        with gzip.open(ROOT / f"data/demo/{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                texts += cut(normalize(json.loads(line)["text"]))
    codes, scores = identify_languages(pa.array(texts))
    english = [text for text, code, score in zip(texts, codes, scores, strict=True) if code == "en" and score >= 0.65]
    step = len(english) / SAMPLE_DOCUMENTS
    return [english[int(i * step)] for i in range(SAMPLE_DOCUMENTS)]


def cut(text: str) -> list[str]:
    """Passages of whole paragraphs, about PASSAGE_CHARACTERS long."""
    passages = [""]
    for paragraph in text.split("\n\n"):
        if len(passages[-1]) > PASSAGE_CHARACTERS:
            passages.append("")
        passages[-1] += ("\n\n" if passages[-1] else "") + paragraph
    return [passage for passage in passages if passage.strip()]


def run_ours(rules: Rules, sketcher: Sketcher, texts: pa.Array) -> float:
    """CPU seconds of every rule and the signature."""
    started = time.process_time()
    sketcher.bands(rules.judge(texts).texts)
    return time.process_time() - started


def run_peer(texts: list[str]) -> tuple[float, dict[str, list[str | None]]]:
    """(CPU seconds, verdicts) of datatrove's filters and signature."""
    with tempfile.TemporaryDirectory() as folder:
        documents = Path(folder) / "documents.json"
        documents.write_text(json.dumps(texts), encoding="utf-8")
        command = [str(datatrove_python()), str(Path(__file__).with_name("datatrove_peer.py")), str(documents)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["cpu_seconds"], found["verdicts"]


def compare(family: str, texts: pa.Array, theirs: list[str | None]) -> float:
    """The share of documents that both keep or both drop; prints where they differ."""
    before = [name for name in ("c4",) if family == "fineweb"]  # FineWeb's rule reads what C4 left
    on = {name: ALL[name] for name in (*before, family)}
    found = Rules(Clean.model_validate({"preset": "none", **on})).judge(texts)
    ours = [reason if reason and reason.startswith(family) else None for reason in found.reasons]
    if before:
        measured = Rules(Clean.model_validate({"preset": "none", family: ALL[family]})).judge(found.texts)
        ours = measured.reasons
    differences = Counter(
        (mine, other) for mine, other in zip(ours, theirs, strict=True) if (mine is None) != (other is None)
    )
    agreement = 1 - sum(differences.values()) / len(ours)
    dropped = sum(other is not None for other in theirs)
    print(f"{family}: {agreement:.4f} agree; datatrove drops {dropped} of {len(ours)}")
    for (mine, other), count in differences.most_common(5):
        print(f"  {count} times: ours {mine or 'kept'}, datatrove {other or 'kept'}")
    return agreement


if __name__ == "__main__":
    main()
