"""Stages as the runner starts them, measured: what the benchmarks of clean, dedup and shards share."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from process_tree import Cost, run_measured

from gpt_core.artifact import Artifact, open_artifact
from gpt_core.fingerprint import Json

ROOT = Path(__file__).parents[1]
KEEP_ALL: dict[str, Json] = {"preset": "none", "languages": None, "decontaminate_ngram_words": None}


def run_clean(raw: Iterable[Path], work: Path, **sections: Json) -> tuple[Artifact, Cost]:
    """The output in work/clean of JSONL files. `sections`: of the recipe, beside corpus.inputs and cluster."""
    inputs: list[Json] = [{"path": str(path), "format": "jsonl"} for path in raw]
    corpus = {"inputs": inputs, **_section(sections, "corpus")}
    return run_stage("clean", work / "clean", {**sections, "corpus": corpus}, [])


def run_dedup(work: Path, **sections: Json) -> tuple[Artifact, Cost]:
    """The output in work/dedup of what stands in work/clean."""
    return run_stage("dedup", work / "dedup", sections, [f"clean={work / 'clean'}"])


def run_stage(
    stage: str, output: Path, sections: dict[str, Json], inputs: list[str], *, module: str | None = None
) -> tuple[Artifact, Cost]:
    """The output of a stage in a new folder. `sections`: of the recipe, beside cluster; `inputs`: STAGE=PATH each."""
    output.mkdir(parents=True)
    cluster: Json = {"spark": {"master": "local[2]"}, "ray": {"cpus": 2}}
    sections = {"corpus": {"inputs": [{"path": "unused.jsonl"}]}, **sections}
    (output / "recipe.json").write_text(json.dumps({"name": "benchmark", **sections, "cluster": cluster}))
    (output / "identity.json").write_text(json.dumps({"made": "by a benchmark"}))
    arguments = ["--recipe", str(output / "recipe.json"), "--output", str(output), "--inputs", *inputs]
    cost = run_measured([sys.executable, "-m", module or f"jobs.{stage}_corpus", *arguments], cwd=ROOT)
    artifact = open_artifact(output)
    assert artifact is not None, "the job wrote a manifest"
    return artifact, cost


def _section(sections: dict[str, Json], name: str) -> dict[str, Json]:
    section = sections.get(name, {})
    assert isinstance(section, dict), name
    return section
