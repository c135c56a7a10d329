"""An output is whole when its manifest stands there and tells the truth; otherwise nobody reads it."""

from pathlib import Path

import pytest

from gpt_core.artifact import (
    MANIFEST,
    Artifact,
    Manifest,
    list_files,
    open_artifact,
    utc_now,
    write_atomically,
    write_manifest,
)
from gpt_core.errors import ArtifactError
from gpt_core.fingerprint import fingerprint


def make_output(root: Path) -> Manifest:
    (root / "table").mkdir(parents=True)
    (root / "table" / "b.parquet").write_bytes(b"two")
    (root / "table" / "a.parquet").write_bytes(b"one")
    (root / "stats.json").write_text("{}")
    (root / "rubbish.tmp").write_text("of a killed attempt")
    identity = {"stage": "clean", "revision": 1}
    return Manifest(
        stage="clean",
        fingerprint=fingerprint(dict(identity)),
        identity=identity,
        recipe_name="test",
        created_at=utc_now(),
        inputs={},
        files=list_files(root, [root / "table", root / "stats.json"]),
        counts={"documents_in": 2},
        figures={},
        schemas={},
        versions={},
        command=[],
        host="here",
        git_commit=None,
        wall_seconds=1.0,
        cpu_seconds=1.0,
        peak_memory_bytes=1,
    )


def whole_output(root: Path) -> Artifact:
    write_manifest(root, make_output(root))
    artifact = open_artifact(root)
    assert artifact is not None
    return artifact


def test_an_output_without_manifest_is_none(tmp_path: Path) -> None:
    make_output(tmp_path)
    assert open_artifact(tmp_path) is None


def test_readers_see_only_what_the_manifest_lists(tmp_path: Path) -> None:
    artifact = whole_output(tmp_path)
    assert [entry.path for entry in artifact.manifest.files] == ["stats.json", "table/a.parquet", "table/b.parquet"]
    assert artifact.files("table") == [tmp_path / "table/a.parquet", tmp_path / "table/b.parquet"]
    assert artifact.file("stats.json") == tmp_path / "stats.json"
    assert artifact.has("stats.json")
    assert not artifact.has("rubbish.tmp")
    with pytest.raises(ArtifactError, match=r"the manifest lists no rubbish\.tmp"):
        artifact.file("rubbish.tmp")


def test_a_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    written = make_output(tmp_path)
    write_manifest(tmp_path, written)
    artifact = open_artifact(tmp_path)
    assert artifact is not None
    assert artifact.manifest == written


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    whole_output(tmp_path)
    (tmp_path / "table/a.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"a\.parquet: is missing, the manifest says 3; delete .* and run again"):
        open_artifact(tmp_path)


def test_a_file_of_another_size_is_named(tmp_path: Path) -> None:
    whole_output(tmp_path)
    (tmp_path / "table/a.parquet").write_bytes(b"o")
    with pytest.raises(ArtifactError, match=r"a\.parquet: has 1 bytes, the manifest says 3"):
        open_artifact(tmp_path)


def test_files_that_stand_elsewhere_may_be_missing_and_no_others(tmp_path: Path) -> None:
    whole_output(tmp_path)
    (tmp_path / "table/a.parquet").unlink()
    assert open_artifact(tmp_path, elsewhere=["table"]) is not None
    (tmp_path / "table/b.parquet").write_bytes(b"o")
    with pytest.raises(ArtifactError, match=r"b\.parquet: has 1 bytes"):
        open_artifact(tmp_path, elsewhere=["table"])
    (tmp_path / "table/b.parquet").unlink()
    (tmp_path / "stats.json").unlink()
    with pytest.raises(ArtifactError, match=r"stats\.json: is missing"):
        open_artifact(tmp_path, elsewhere=["table"])


def test_verify_finds_a_flipped_bit(tmp_path: Path) -> None:
    artifact = whole_output(tmp_path)
    artifact.verify()
    (tmp_path / "table/a.parquet").write_bytes(b"ond")
    with pytest.raises(ArtifactError, match=r"a\.parquet: the checksum differs"):
        artifact.verify()


def test_a_manifest_of_another_identity_is_refused(tmp_path: Path) -> None:
    whole_output(tmp_path)
    text = (tmp_path / MANIFEST).read_text().replace('"revision": 1', '"revision": 2')
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match="the fingerprint is not that of the identity"):
        open_artifact(tmp_path)


def test_a_cut_manifest_is_refused(tmp_path: Path) -> None:
    whole_output(tmp_path)
    text = (tmp_path / MANIFEST).read_text()
    (tmp_path / MANIFEST).write_text(text[: len(text) // 2])
    with pytest.raises(ArtifactError, match="not a manifest of format 1"):
        open_artifact(tmp_path)


def test_an_atomic_write_replaces_the_whole_and_leaves_no_draft(tmp_path: Path) -> None:
    write_atomically(tmp_path / "f", "old and long")
    write_atomically(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("path", ["../../x", "/etc/hostname", "table/../../x", "table\\\\..\\\\x", "", "."])
def test_a_manifest_that_names_a_file_outside_its_output_is_refused(path: str, tmp_path: Path) -> None:
    root = tmp_path / "clean" / "0123"
    whole_output(root)
    (tmp_path / "x").write_text("a secret")
    text = (root / MANIFEST).read_text().replace('"stats.json"', f'"{path}"')
    (root / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match=r"first files\.0\.path: .* leaves the output\); delete"):
        open_artifact(root)
