"""Every way a shard can be damaged is found, and the shard is named."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from stage_output import write_output

from gpt_core.artifact import MANIFEST, read_manifest
from gpt_core.data.index import INDEX, ShardEntry, ShardIndex, write_index
from gpt_core.data.shards import ShardMetadata, write_shard
from gpt_core.data.verify import verify_shards

METADATA = ShardMetadata(tokenizer_digest="d" * 64, vocab_size=300, end_of_text_id=299, seed=7)
FIRST, SECOND = "train/a/shard-00000.arrow", "validation/a/shard-00000.arrow"


def write(root: Path, path: str, tokens: list[int], *, metadata: ShardMetadata = METADATA) -> None:
    write_shard(root / path, pa.array(["x", "y"]), np.array(tokens, np.uint16), np.array([0, 3, 5]), metadata)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path in (FIRST, SECOND):
        write(tmp_path, path, [1, 2, 299, 3, 299])
    entries = [ShardEntry(path, "a", documents=2, tokens=5) for path in (FIRST, SECOND)]
    write_index(tmp_path, ShardIndex(METADATA, (entries[0],), (entries[1],)))
    write_output(tmp_path, "shards")
    return tmp_path


def problems(root: Path, *, digest: str = "d" * 64) -> dict[str, str]:
    manifest = read_manifest(root)
    assert manifest is not None
    verdicts = verify_shards(root, manifest, tokenizer_digest=digest)
    return {verdict.entry.path: verdict.problem for verdict in verdicts if verdict.problem}


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_the_footer(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def test_shards_that_are_well_have_no_problem(root: Path) -> None:
    assert problems(root) == {}


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip_a_byte, "the checksum differs from the manifest's"),
        (cut_the_footer, r"has \d+ bytes, the manifest says \d+"),
        (Path.unlink, r"is missing, the manifest says \d+"),
    ],
)
def test_a_damaged_file_is_named(root: Path, damage: Callable[[Path], None], told: str) -> None:
    damage(root / SECOND)
    found = problems(root)
    assert list(found) == [SECOND]
    assert re.fullmatch(told, found[SECOND])


def test_a_damaged_index_is_named_and_the_shards_are_checked_all_the_same(root: Path) -> None:
    (root / INDEX).unlink()
    flip_a_byte(root / FIRST)
    assert sorted(problems(root)) == [INDEX, FIRST, SECOND]


def rewrite(root: Path, tokens: list[int], **changes: object) -> None:
    """The first shard anew, with a manifest that lists it as it is then."""
    metadata = ShardMetadata(**{**METADATA.__dict__, **changes})  # type: ignore[arg-type]
    write(root, FIRST, tokens, metadata=metadata)
    (root / MANIFEST).unlink()
    write_output(root, "shards")


def test_another_tokenizer_is_found(root: Path) -> None:
    rewrite(root, [1, 2, 299, 3, 299], tokenizer_digest="e" * 64)
    assert problems(root) == {FIRST: "was made with the tokenizer eeeeeeeeeeee, not dddddddddddd"}
    assert sorted(problems(root, digest="e" * 64)) == [SECOND]


def test_an_id_beyond_the_vocabulary_is_found(root: Path) -> None:
    rewrite(root, [1, 300, 299, 3, 299])
    assert problems(root) == {FIRST: "holds the id 300, the vocabulary has 300"}


def test_a_document_that_is_not_closed_is_found(root: Path) -> None:
    rewrite(root, [1, 2, 298, 3, 298], end_of_text_id=298)
    tree = json.loads((root / INDEX).read_text())
    path = root / FIRST
    content = path.read_bytes()
    at = content.index(np.array([1, 2, 298, 3, 298], np.uint16).tobytes())
    path.write_bytes(content[:at] + np.array([1, 298, 2, 3, 298], np.uint16).tobytes() + content[at + 10 :])
    (root / MANIFEST).unlink()
    write_output(root, "shards")
    assert problems(root) == {FIRST: "not every document is closed by its only end-of-text token"}
    assert tree["train"][0]["path"] == FIRST


def test_an_index_that_says_otherwise_is_found(root: Path) -> None:
    tree = json.loads((root / INDEX).read_text())
    tree["train"][0]["tokens"] = 6
    tree["validation"] = [{"path": "validation/b/shard-00000.arrow", "source": "b", "documents": 1, "tokens": 1}]
    (root / INDEX).write_text(json.dumps(tree))
    (root / MANIFEST).unlink()
    write_output(root, "shards")
    assert problems(root) == {
        FIRST: "holds 2 documents and 5 tokens, index.json says 2 and 6",
        SECOND: "index.json does not list it",
        "validation/b/shard-00000.arrow": "index.json lists it, the manifest does not",
    }
