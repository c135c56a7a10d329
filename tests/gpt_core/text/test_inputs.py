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
    assert expand_inputs(corpus(c, tmp_path / "*.jsonl")) == [(0, c), (1, a), (1, b)]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    odd, _ = touch(tmp_path, "a[1].jsonl", "a1.jsonl")
    assert expand_inputs(corpus(odd)) == [(0, odd)]


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


def test_a_file_that_is_no_jsonl_is_refused(tmp_path: Path) -> None:
    (a,) = touch(tmp_path, "a.parquet")
    with pytest.raises(InputError, match="is no JSONL file"):
        expand_inputs(corpus(a))


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
