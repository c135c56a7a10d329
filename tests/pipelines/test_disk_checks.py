"""A file system that does not keep its promises is found out, and a disk too small for the recipe."""

import fcntl
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest
from made_workspace import make_outputs, write_project

from gpt_core.errors import SetupError
from gpt_core.recipe_file import load_recipe
from pipelines import disk_checks
from pipelines.disk_checks import check_commits, clock_finding, disk_finding
from pipelines.plan import make_plan, resolve_paths


def test_a_local_disk_keeps_its_promises_and_nothing_stays_of_the_try(tmp_path: Path) -> None:
    check_commits(tmp_path)
    assert clock_finding(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def refuse(*_: object, **__: object) -> NoReturn:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize(
    ("module", "call", "otherwise", "said"),
    [
        (os, "fsync", refuse, r"does not write durably \(fsync\): operation not permitted"),
        (Path, "replace", refuse, r"does not replace a file in one step \(rename\): operation not permitted"),
        (Path, "replace", lambda *_: None, r"does not replace a file in one step \(rename\): the old file is still"),
        (os, "link", refuse, r"does not refuse to make what exists \(hard link\): operation not permitted"),
        (os, "link", lambda *_: None, r"does not refuse to make what exists \(hard link\): a second link was made"),
        (Path, "symlink_to", refuse, r"does not make symbolic links: operation not permitted"),
        (fcntl, "flock", lambda *_: None, r"does not lock files against other processes \(flock\): another process"),
    ],
)
def test_what_a_file_system_does_not_do_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, call: str, otherwise: object, said: str
) -> None:
    monkeypatch.setattr(module, call, otherwise)
    with pytest.raises(SetupError, match=rf"workspace: .*{said}.*take a local disk, NFS 4, or Lustre"):
        check_commits(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_server_whose_clock_is_another_is_pointed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = disk_checks.time.time()
    monkeypatch.setattr(disk_checks.time, "time", lambda: now - 100)
    found = clock_finding(tmp_path)
    assert found is not None
    assert found.mark == "warn"
    assert "s ahead of this machine's; set both by NTP" in found.text


def test_what_the_recipe_has_yet_to_make_must_find_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_project(tmp_path)
    raw = tmp_path / "a.jsonl"
    raw.write_bytes(b'{"text": "' + b"x" * 10_000_000 + b'"}\n')
    recipe = resolve_paths(load_recipe(path))
    plan = make_plan(recipe)
    found = disk_finding(recipe, plan, tmp_path)
    assert found.well
    assert "(clean 4.5 MB, dedup 4.5 MB, shards 12 MB, pretrain " in found.text
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))  # type: ignore[attr-defined]
    found = disk_finding(recipe, plan, tmp_path)
    assert not found.well
    assert found.text.startswith(f"1 bytes free below {tmp_path}; the recipe makes about ")
    assert found.text.endswith("; make room (gptmill gc), or set `workspace:` to a larger disk")
    make_outputs(path)
    assert disk_finding(recipe, make_plan(recipe), tmp_path).text.endswith("; the recipe has nothing more to make")
