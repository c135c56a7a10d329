"""docs/formats.md says what the code does."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gpt_core.artifact import Manifest
from gpt_core.data.mixture import PERIOD, Interleaving
from gpt_core.data.order import GroupedOrder, SampleOrder
from gpt_core.data.shards import ShardMetadata, write_shard
from gpt_core.fingerprint import canonical_json, fingerprint
from gpt_core.text.document import DOCUMENT_FIELDS

PAGE = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")


def first_column(heading: str) -> list[str]:
    """The names in the first table under a heading."""
    section = PAGE[PAGE.index(f"## {heading}\n") :]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table is not None
    return re.findall(r"^\| `([\w.]+)` \|", table[0], re.MULTILINE)


def code(number: int) -> dict[str, Any]:
    """What a block of the page's Python defines."""
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[number], names)  # noqa: S102  it is our own page
    return names


def test_every_field_of_a_manifest_is_told_in_order() -> None:
    assert first_column("Outputs and their manifest") == list(Manifest.model_fields)


def test_every_column_of_a_document_is_told_in_order() -> None:
    assert first_column("Documents") == [field.name for field in DOCUMENT_FIELDS]


def test_the_example_of_canonical_json_is_right() -> None:
    value, canonical, digest = re.findall(r"`(\{\"a.*?\}|[0-9a-f]{64})`", PAGE)
    assert canonical_json(json.loads(value)) == canonical
    assert fingerprint(json.loads(value)) == digest


@pytest.mark.parametrize(("n", "seed"), [(1, 0), (10, 42), (13, 2**63 - 1), (1000, 7)])
def test_the_sample_order_on_the_page_is_that_of_the_code(n: int, seed: int) -> None:
    window = code(1)["window"]
    assert [window(number, n, seed) for number in range(3 * n)] == SampleOrder(n, seed).take(np.arange(3 * n)).tolist()


def test_the_example_of_the_sample_order_is_right() -> None:
    epochs = re.search(r"first two epochs are ([\d ]+) and ([\d ]+)\.", PAGE)
    assert epochs is not None
    told = [int(number) for number in " ".join(epochs.groups()).split()]
    assert SampleOrder(10, 42).take(np.arange(20)).tolist() == told


def order_of_the_page() -> dict[str, Any]:
    """The three blocks of the sample order, one behind the other."""
    names = code(1)
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[2:4]:
        exec(block, names)  # noqa: S102  it is our own page
    return names


@pytest.mark.parametrize("sizes", [[3, 0, 4, 2], [1], [7, 5, 11, 3, 8]])
def test_the_order_of_groups_on_the_page_is_that_of_the_code(sizes: list[int]) -> None:
    window, n = order_of_the_page()["window_of_groups"], 2 * sum(sizes)
    told = [window(number, sizes, 9) for number in range(n)]
    assert told == GroupedOrder(sizes, 9).take(np.arange(n)).tolist()


def test_the_example_of_the_groups_is_right() -> None:
    told = re.search(r"With sizes ([\d ]+) and seed (\d+), the first epoch is ([\d ]+)\.", PAGE)
    assert told is not None
    sizes, (seed,), epoch = ([int(number) for number in part.split()] for part in told.groups())
    assert GroupedOrder(sizes, seed).take(np.arange(len(epoch))).tolist() == epoch


@pytest.mark.parametrize("weights", [[1.0], [3, 1], [0.5, 0.2, 0.3], [1, 2, 3, 4, 5, 6.5]])
def test_the_mixture_on_the_page_is_that_of_the_code(weights: list[float]) -> None:
    page = order_of_the_page()
    assert page["PERIOD"] == PERIOD
    counts = page["share_out"](weights)
    interleaving = Interleaving(weights)
    assert counts == interleaving.counts.tolist()
    rows, ranks = interleaving.take(np.arange(PERIOD))
    assert page["lay_out"](counts) == list(zip(rows.tolist(), ranks.tolist(), strict=True))


def test_the_reader_on_the_page_reads_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    metadata = ShardMetadata(tokenizer_digest="00" * 32, vocab_size=300, end_of_text_id=299, seed=0)
    tokens = np.array([1, 2, 299, 3, 299], dtype=np.uint16)
    write_shard(Path("train/novels/shard-00000.arrow"), pa.array(["a", "b"]), tokens, np.array([0, 3, 5]), metadata)
    read = code(0)
    assert read["tokens"].tolist() == tokens.tolist()
    assert read["borders"].tolist() == [0, 3, 5]
    buffers = [buffer and buffer.size for column in read["batch"].columns for buffer in column.buffers()]
    assert buffers == [None, 3 * 4, 2, None, 3 * 8, None, 5 * 2]
    keys = re.findall(r"^\| `(gptmill\.\w+)` \|", PAGE, re.MULTILINE)
    assert [key.decode() for key in read["batch"].schema.metadata] == keys
