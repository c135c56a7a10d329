"""datatrove's filters and MinHash signature over documents: run in the peer's own environment by the benchmarks.

    python benchmarks/datatrove_peer.py documents.json

Reads a JSON list of texts. Prints one line of JSON: process CPU seconds of filters and signatures, and each filter's
verdict on each document (null: kept, else its reason). The FineWeb filter gets what the C4 filter left of the text.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)


def main() -> None:
    """Print the seconds and the verdicts."""
    texts = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    filters = {
        "gopher_quality": GopherQualityFilter(),
        "gopher_repetition": GopherRepetitionFilter(),
        "c4": C4QualityFilter(filter_no_terminal_punct=False),
        "fineweb": FineWebQualityFilter(),
    }
    signer = MinhashDedupSignature(
        output_folder="unused", config=MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    )
    for step in (*(step.filter for step in filters.values()), lambda document: sign(signer, document)):
        step(Document(text="Models are loaded at the first document.", id="warm"))
    verdicts: dict[str, list[str | None]] = {name: [] for name in filters}
    started = time.process_time()
    for number, text in enumerate(texts):
        document = Document(text=text, id=str(number))
        for name, step in filters.items():
            verdicts[name].append(verdict(step.filter, document))
        sign(signer, document)
    print(json.dumps({"cpu_seconds": time.process_time() - started, "verdicts": verdicts}))


def verdict(judge: Callable[[Document], Any], document: Document) -> str | None:
    """Why the document is dropped, or None."""
    found = judge(document)
    if isinstance(found, tuple):
        return None if found[0] else str(found[1])
    return None if found else "dropped"


def sign(signer: MinhashDedupSignature, document: Document) -> None:
    """Its MinHash signature, as the first step of datatrove's deduplication computes it."""
    shingles = signer.get_shingles(document.text)
    if shingles.size:
        signer.get_signature(shingles)


if __name__ == "__main__":
    main()
