"""Claim: of planted near-duplicates at Jaccard 0.8 fuzzy dedup finds 92 % and more, and nothing that is none.

    make bench NAME=dedup_quality

Passages of WORDS words of real text (corpus.py), and of PAIRS of them a copy in which words were replaced at random
until the Jaccard similarity of the word 5-grams is as little above 0.8 as one word allows; of DECOYS a copy at 0.6,
which is no duplicate. With them the addresses of data/demo, most of them in two transcriptions. Ours: jobs.dedup_corpus
with its defaults; datatrove 0.10.1: its four MinHash stages with the same 14 bands of 8.

Recall: planted pairs that end in one cluster. Precision: of the documents dropped, those whose similarity to another
of their cluster reaches dedup.min_jaccard, measured here by a regular expression and Python's sets; told too is how
many reach it with the one that is kept, to which a chain of pairs may lead.
`same_work`: both read the same documents.
"""

import gzip
import json
import random
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import corpus
import pyarrow.parquet as pq
from peers import CACHE, datatrove_python
from stages import KEEP_ALL, ROOT, run_clean, run_dedup

from gpt_core.recipe import Dedup

PAIRS, DECOYS, WORDS, NEAR, FAR = 3_000, 1_000, 600, 0.8, 0.6
CORPUS_MEGABYTES = 200
_WORD = re.compile(r"\w+")
_SPEECH = re.compile(r"sotu-(?:a-(?P<a>\d+)_.*?(?P<last_a>[a-z]+)_[a-z]|b-(?P<b>\d+)-(?P<last_b>\w+)-\d+)$")

Shingles = frozenset[tuple[str, ...]]


@dataclass(frozen=True)
class Found:
    """What a deduplicator says: document -> its cluster, and what it dropped -> what it kept for it."""

    clusters: dict[str, str]
    dropped: dict[str, str]


def main() -> None:
    """Print recall and precision of both, then the claim as one line of JSON."""
    texts = plant()
    pairs = speeches(texts)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        raw = work / "raw"
        raw.mkdir()
        with (raw / "documents.jsonl").open("w", encoding="utf-8") as file:
            for id_, text in texts.items():
                file.write(json.dumps({"id": id_, "text": text}) + "\n")
        ours, peer = run_ours(raw, work), run_datatrove(raw, work, texts)
    scores = {}
    for who, found in (("ours", ours), ("datatrove", peer)):
        planted = [is_found(found, f"{i}", f"{i}-near") for i in range(PAIRS)]
        decoys = [is_found(found, f"{i}", f"{i}-far") for i in range(PAIRS, PAIRS + DECOYS)]
        spoken = [is_found(found, *pair) for pair in pairs]
        near_kept, right = count_right(found, texts)
        recall, precision = sum(planted) / len(planted), right / len(found.dropped)
        scores[who] = 2 * recall * precision / (recall + precision)
        share = near_kept / len(found.dropped)
        print(
            f"{who}: recall {recall:.4f} of {len(planted)} planted pairs at {NEAR}; precision {precision:.4f} of "
            f"{len(found.dropped)} dropped documents, {share:.4f} with the kept one; {sum(decoys)} of {len(decoys)} "
            f"decoys at {FAR} taken for duplicates; {sum(spoken)} of {len(spoken)} second transcriptions found",
            flush=True,
        )
    print(
        json.dumps(
            {
                "claim": f"near-duplicates planted at Jaccard {NEAR}: F1 of recall and precision",
                "ours": round(scores["ours"], 4),
                "peer": round(scores["datatrove"], 4),
                "ratio": round(scores["ours"] / scores["datatrove"], 3),
                "unit": "F1",
                "same_work": True,  # one file, read by both
            }
        )
    )


def plant() -> dict[str, str]:
    """id -> text of the passages and their copies."""
    draw = random.Random(0)
    texts: dict[str, str] = {}
    everything = [record["text"].split() for record in corpus.read(corpus.load(CORPUS_MEGABYTES))]
    passages = [words[:WORDS] for words in everything if len(words) >= WORDS and is_prose(words[:WORDS])]
    draw.shuffle(passages)
    assert len(passages) >= PAIRS + DECOYS, f"the corpus has {len(passages)} passages of {WORDS} words"
    for number, words in enumerate(passages[: PAIRS + DECOYS]):
        is_near = number < PAIRS
        others = draw.choice(passages)
        texts[f"{number}"] = " ".join(words)
        texts[f"{number}-{'near' if is_near else 'far'}"] = blur(words, others, NEAR if is_near else FAR, draw)
    return texts


def is_prose(words: list[str]) -> bool:
    """Whether no more than a tenth of the word 5-grams repeat, as they do in tables."""
    return len(shingles(" ".join(words))) > 0.9 * len(words)


def blur(words: list[str], others: list[str], least: float, draw: random.Random) -> str:
    """A copy with words of `others` in random places, as many as leave a similarity of `least` or a little more."""
    whole, copy = shingles(" ".join(words)), list(words)
    for place in draw.sample(range(len(words)), len(words)):
        former, copy[place] = copy[place], draw.choice(others)
        changed = shingles(" ".join(copy))
        if len(whole & changed) < least * len(whole | changed):
            copy[place] = former
            break
    return " ".join(copy)


def speeches(texts: dict[str, str]) -> list[tuple[str, str]]:
    """Adds the addresses to `texts`; returns the pairs of one year and speaker that are near-duplicates indeed."""
    by_speaker: dict[tuple[str, str], list[str]] = {}
    with gzip.open(ROOT / "data/demo/speeches.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            texts[record["id"]] = record["text"]
            found = _SPEECH.match(record["id"])
            assert found is not None, record["id"]
            key = (found["a"] or found["b"], (found["last_a"] or found["last_b"]).lower())
            by_speaker.setdefault(key, []).append(record["id"])
    pairs = [
        (one, other)
        for ids in by_speaker.values()
        for one in ids
        for other in ids
        if one < other and one[:6] != other[:6]
    ]
    near = [(one, other) for one, other in pairs if similarity(texts[one], texts[other]) >= Dedup().min_jaccard]
    print(f"addresses: {len(pairs)} pairs of one year and speaker, {len(near)} of them alike", flush=True)
    return near


def shingles(text: str) -> Shingles:
    """Its word 5-grams."""
    words = _WORD.findall(text.lower())
    return frozenset(zip(*(words[i:] for i in range(5)), strict=False))


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of the word 5-grams."""
    a, b = shingles(one), shingles(other)
    return len(a & b) / max(1, len(a | b))


def count_right(found: Found, texts: dict[str, str]) -> tuple[int, int]:
    """How many dropped documents are near-duplicates of the one that is kept, and of any other of their cluster."""
    near_kept = right = 0
    members: dict[str, list[str]] = {}
    for id_, cluster in found.clusters.items():
        members.setdefault(cluster, []).append(id_)
    for id_, kept in found.dropped.items():
        least = Dedup().min_jaccard - 1e-9
        is_near_kept = similarity(texts[id_], texts[kept]) >= least
        others = [other for other in members[found.clusters[id_]] if other not in (id_, kept)]
        near_kept += is_near_kept
        right += is_near_kept or any(similarity(texts[id_], texts[other]) >= least for other in others)
    return near_kept, right


def is_found(found: Found, one: str, other: str) -> bool:
    """Whether both are in one cluster."""
    return one in found.clusters and found.clusters[one] == found.clusters.get(other)


def run_ours(raw: Path, work: Path) -> Found:
    """By both Spark jobs."""
    run_clean(sorted(raw.glob("*.jsonl")), work, clean=KEEP_ALL)
    artifact, _ = run_dedup(work)
    clusters: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for path in artifact.files("duplicates"):
        for row in pq.read_table(path).to_pylist():
            dropped[row["id"]] = row["duplicate_of"]
            clusters |= {row["id"]: row["cluster"], row["duplicate_of"]: row["cluster"]}
    return Found(clusters, dropped)


def run_datatrove(raw: Path, work: Path, texts: dict[str, str]) -> Found:
    """By its four stages."""
    script = Path(__file__).with_name("datatrove_pairs.py")
    command = [str(datatrove_python()), str(script), str(raw), str(work / "peer")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    clusters = {id_: str(number) for id_, number in told["clusters"].items()}
    removed = set(told["removed"])
    kept = {cluster: id_ for id_, cluster in clusters.items() if id_ not in removed}
    assert removed <= texts.keys(), "it removes what it was given"
    return Found(clusters, {id_: kept[clusters[id_]] for id_ in removed})


if __name__ == "__main__":
    main()
