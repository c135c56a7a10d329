"""Raw files of a corpus: order, globs, and each refusal."""

import subprocess
import sys
from pathlib import Path

import pytest

from gpt_core.errors import InputError
from gpt_core.recipe import Corpus
from gpt_core.text.inputs import expand_inputs, stem


def corpus(*paths: Path | str) -> Corpus:
    return Corpus.model_validate({"inputs": [{"path": str(path)} for path in paths]})


def touch(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).touch()
    return [str(folder / name) for name in names]


def test_entries_keep_their_order_and_a_globs_files_are_sorted(tmp_path: Path) -> None:
    a, b, c = touch(tmp_path, "a.jsonl", "b.jsonl", "c.jsonl.gz")
    found = expand_inputs(corpus(c, tmp_path / "*.jsonl"))
    assert [(raw.entry, raw.path, raw.format) for raw in found] == [(0, c, "jsonl"), (1, a, "jsonl"), (1, b, "jsonl")]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    odd, _ = touch(tmp_path, "a[1].jsonl", "a1.jsonl")
    assert [raw.path for raw in expand_inputs(corpus(odd))] == [odd]


def test_a_missing_file_is_named_with_its_entry(tmp_path: Path) -> None:
    (a,) = touch(tmp_path, "a.jsonl")
    with pytest.raises(InputError, match=r"corpus\.inputs\.1\.path: .*gone\.jsonl: no such file"):
        expand_inputs(corpus(a, tmp_path / "gone.jsonl"))


def test_a_glob_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"corpus\.inputs\.0\.path: .*no file matches"):
        expand_inputs(corpus(tmp_path / "*.jsonl"))


def test_a_folder_is_refused_with_the_glob_that_would_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder; give a file, or a glob such as .*\*\.jsonl\.gz"):
        expand_inputs(corpus(tmp_path))


def test_a_format_is_told_by_the_name_or_by_the_recipe(tmp_path: Path) -> None:
    names = ["a.parquet", "b.txt.zst", "c.warc.wet.gz", "d.warc.gz", "e.jsonl.zst"]
    found = expand_inputs(corpus(*touch(tmp_path, *names)))
    assert [raw.format for raw in found] == ["parquet", "text", "wet", "warc", "jsonl"]
    (odd,) = touch(tmp_path, "f.dump")
    with pytest.raises(InputError, match=r"says no format .*; set corpus\.inputs\.0\.format"):
        expand_inputs(corpus(odd))
    (raw,) = expand_inputs(Corpus.model_validate({"inputs": [{"path": odd, "format": "lines"}]}))
    assert raw.format == "lines"


def test_a_file_read_by_two_entries_is_refused(tmp_path: Path) -> None:
    (a,) = touch(tmp_path, "a.jsonl")
    with pytest.raises(InputError, match=r"already read by corpus\.inputs\.0"):
        expand_inputs(corpus(a, tmp_path / "*.jsonl"))


def test_the_stem_drops_gz_and_the_extension() -> None:
    assert [stem("x/novels.jsonl.gz"), stem("novels.jsonl"), stem("a.b.jsonl")] == ["novels", "novels", "a.b"]


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, gpt_core.text.inputs; print([m for m in ('numpy', 'pyarrow', 'fasttext', 'xxhash') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
