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


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x.jsonl", "b/y.jsonl"], ["x.jsonl", "y.jsonl"]),
        (["a/x.jsonl", "b/x.jsonl", "b/y.jsonl"], ["a/x.jsonl", "b/x.jsonl", "y.jsonl"]),
        (["x.jsonl", "b/x.jsonl"], ["x.jsonl", "b/x.jsonl"]),
        (["a/c/x.jsonl", "b/c/x.jsonl", "../y.jsonl"], ["a/c/x.jsonl", "b/c/x.jsonl", "y.jsonl"]),
        (["c/a/x.jsonl", "c/b/x.jsonl", "y.jsonl", "d/y.jsonl"], ["a/x.jsonl", "b/x.jsonl", "y.jsonl", "d/y.jsonl"]),
    ],
)
def test_a_file_is_called_by_its_name_and_several_of_one_name_by_where_they_differ(
    tmp_path: Path, paths: list[str], names: list[str]
) -> None:
    for home in ("here", "there/deep"):
        for path in paths:
            (tmp_path / home / "in" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / home / "in" / path).touch()
        found = expand_inputs(corpus(*(tmp_path / home / "in" / path for path in paths)))
        assert [raw.name for raw in found] == names


def test_two_files_that_a_link_sets_apart_are_called_two_names(tmp_path: Path) -> None:
    for folder in ("far/linked", "near"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "near/link").symlink_to(tmp_path / "far/linked")
    touch(tmp_path / "far", "x.jsonl")
    touch(tmp_path / "near", "x.jsonl")
    found = expand_inputs(corpus(tmp_path / "near/x.jsonl", tmp_path / "near/link/../x.jsonl"))
    assert [raw.name for raw in found] == ["x.jsonl", "link/../x.jsonl"]


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
