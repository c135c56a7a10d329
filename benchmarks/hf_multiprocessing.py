"""The peer of encode_vs_peers.py: JSONL to one file of token ids by a pool of processes over Hugging Face's tokenizers.

    python hf_multiprocessing.py TOKENIZER.json WORKERS OUT FILE...

The way of Megatron-LM's preprocess_data.py: a pool of processes, each with its tokenizer, takes lines, gives lists of
ids back, and one process appends them to a file of uint16 and their lengths to an index. Prints documents and tokens.
"""

import json
import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tokenizers

CHUNK_LINES = 32
_state: dict[str, tokenizers.Tokenizer] = {}


def start(path: str) -> None:
    """Every process of the pool has its tokenizer."""
    _state["tokenizer"] = tokenizers.Tokenizer.from_file(path)
    _state["tokenizer"].encode_special_tokens = True


def encode(line: str) -> list[int]:
    """The ids of a line's text."""
    return _state["tokenizer"].encode(json.loads(line)["text"], add_special_tokens=False).ids


def main() -> None:
    """Write OUT.bin and OUT.idx."""
    path, workers, out, *files = sys.argv[1:]
    end = tokenizers.Tokenizer.from_file(path).get_vocab_size() - 1
    lengths = []
    with multiprocessing.Pool(int(workers), start, (path,)) as pool, Path(f"{out}.bin").open("wb") as tokens:
        for ids in pool.imap(encode, read(files), CHUNK_LINES):
            ids.append(end)
            tokens.write(np.array(ids, np.uint16).tobytes())
            lengths.append(len(ids))
    np.array(lengths, np.int32).tofile(f"{out}.idx")
    print(json.dumps({"documents": len(lengths), "tokens": sum(lengths)}))


def read(files: list[str]) -> Iterator[str]:
    """The lines of all files."""
    for name in files:
        with Path(name).open(encoding="utf-8") as lines:
            yield from lines


if __name__ == "__main__":
    main()
