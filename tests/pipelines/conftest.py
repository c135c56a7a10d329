"""A tiny corpus of real text, and the workspace of one uninterrupted run on it."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tiny_project import RECIPE, ROOT, Project

DEMO = ROOT / "data" / "demo"


def read_lines(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(DEMO / name, "rt", encoding="utf-8") as stream:
        yield from map(json.loads, stream)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """500 English and 60 French summaries, one repeated, with two malformed lines; 160, 48 and 48 labels."""
    folder = tmp_path_factory.mktemp("project")
    by_language: dict[str, list[dict[str, Any]]] = {"en": [], "fr": [], "es": []}
    for document in read_lines("encyclopedia.jsonl.gz"):
        by_language[document["metadata"]["language"]].append(document)
    documents = [*by_language["en"][:500], *by_language["fr"][:60]]
    documents.append({**by_language["en"][3], "id": "copy"})
    lines = [json.dumps(document) for document in documents]
    lines[10:10] = ['{"id": "broken"', '{"id": "no text"}']
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for split, count in (("train", 80), ("validation", 24), ("test", 24)):
        rows = list(read_lines(f"topics.{split}.jsonl.gz"))
        labelled = [
            row for label in ("Geography", "People") for row in [r for r in rows if r["label"] == label][:count]
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled), encoding="utf-8")
    text = RECIPE
    for word, name in (("CORPUS", "corpus"), ("TRAIN", "train"), ("VALIDATION", "validation"), ("TEST", "test")):
        text = text.replace(word, str(folder / f"{name}.jsonl"))
    (folder / "tiny.yaml").write_text(text)
    return Project(folder / "tiny.yaml")


@pytest.fixture(scope="session")
def whole(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace of one uninterrupted run."""
    workspace = tmp_path_factory.mktemp("whole")
    (workspace / "output.txt").write_text(project.run(workspace))
    return workspace
