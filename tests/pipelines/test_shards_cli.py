"""gptmill shards: what stands in the shards of a whole run, and where it came from."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tiny_project import Project, environment

pytestmark = pytest.mark.pipeline
SOURCE = "encyclopedia-en"


def shards(project: Project, workspace: Path, verb: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = project.command("shards", workspace)
    command[4:4] = [verb]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment())


def raw_text(project: Project, told: str) -> str:
    """The text of the line of the raw corpus that `raw` names."""
    found = re.search(r"^raw +(\S+) line ([\d,]+)$", told, re.MULTILINE)
    assert found is not None, told
    assert Path(found[1]) == project.recipe.parent / "corpus.jsonl"
    line = Path(found[1]).read_text(encoding="utf-8").splitlines()[int(found[2].replace(",", "")) - 1]
    text: str = json.loads(line)["text"]
    return text


def test_stats_tell_sources_and_sizes(project: Project, whole: Path) -> None:
    counts = project.artifact(whole, "shards").manifest.counts
    done = shards(project, whole, "stats", "--json")
    (source, total) = json.loads(done.stdout)
    assert (source["source"], total["source"]) == (SOURCE, "all")
    assert total["train_tokens"] == counts["train_tokens"]
    assert total["documents"] == counts["train_documents"] + counts["validation_documents"]
    assert total["text_bytes"] == counts["train_bytes"] + counts["validation_bytes"]
    table = shards(project, whole, "stats").stdout
    assert re.search(rf"{SOURCE} +2 +{total['documents']:,} +{counts['train_tokens']:,}", table)


@pytest.mark.parametrize("sample", [0, 57])
def test_a_sample_is_traced_to_its_line(project: Project, whole: Path, sample: int) -> None:
    done = shards(project, whole, "trace", "--sample", str(sample))
    assert done.returncode == 0, done.stderr
    head, *documents = done.stdout.split("\n\n")
    assert head.startswith(f"sample    {sample}: step {sample // 8 + 1} of 80, sequence {sample % 8 + 1} of 8")
    for told in documents:
        text = eval(re.search(r"^text +('.*'|\".*\")(?: \.\.\.)?$", told, re.MULTILINE)[1])  # noqa: S307  a repr
        shown = text.replace("<|endoftext|>", "").strip("\ufffd")
        assert shown in raw_text(project, told)


def test_a_document_is_shown_with_its_line_and_its_text(project: Project, whole: Path) -> None:
    traced = shards(project, whole, "trace", "--sample", "3").stdout
    doc_id = re.findall(r"^document  (\S+)$", traced, re.MULTILINE)[0]
    told = shards(project, whole, "show", "--document", doc_id).stdout
    text = raw_text(project, told)
    assert told.endswith(f"{text}<|endoftext|>\n")
    assert f"source    {SOURCE}" in told


def test_what_is_not_there_exits_2_with_the_way_out(project: Project, whole: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (("show", "--document", "nobody's"), "--document nobody's: no shard holds it"),
        (("trace", "--sample", "640"), "--sample 640: pretrain.tokens=40960 makes 640 samples; give 0 to 639"),
    ):
        done = shards(project, whole, *arguments)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert words in done.stderr
    done = shards(project, tmp_path / "empty", "verify")
    assert done.returncode == 2
    assert "the stage shards is not made yet; make it first: gptmill run RECIPE --until shards" in done.stderr


def test_verify_names_every_damaged_shard(project: Project, whole: Path, tmp_path: Path) -> None:
    well = shards(project, whole, "verify")
    assert well.returncode == 0, well.stderr
    assert "all are what the manifest says" in well.stdout
    workspace = tmp_path / "copy"
    for stage in ("tokenizer", "shards"):
        shutil.copytree(whole / stage, workspace / stage)
    root = workspace / "shards" / project.artifact(whole, "shards").root.name
    flipped, missing = (root / side / SOURCE / "shard-00000.arrow" for side in ("train", "validation"))
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    missing.unlink()
    done = shards(project, workspace, "verify")
    assert done.returncode == 3
    assert f"{flipped}: the checksum differs from the manifest's" in done.stderr
    assert f"{missing}: is missing, the manifest says" in done.stderr
    assert "2 damaged; delete" in done.stderr
    assert "Traceback" not in done.stderr


def test_shards_that_were_pushed_and_deleted_are_read_from_their_copy(
    project: Project, whole: Path, tmp_path: Path
) -> None:
    workspace, uri = tmp_path / "copy", f"file://{tmp_path}/bucket"
    shutil.copytree(whole, workspace, symlinks=True)
    pushed = shards(project, workspace, "push", uri)
    assert pushed.returncode == 0, pushed.stderr
    root = workspace / "shards" / project.artifact(whole, "shards").root.name
    for side in ("train", "validation"):
        shutil.rmtree(root / side)
    remote = ("--set", f"cluster.train.shards_from={uri}")
    assert "nothing to do" in project.run(workspace, *remote)
    near = shards(project, whole, "trace", "--sample", "57").stdout
    assert shards(project, workspace, "trace", "--sample", "57", *remote).stdout == near
    assert len(list((workspace / "shard-cache").glob("*.arrow"))) == 1  # what it needs, no more
    rerun = project.run(workspace, "--until", "pretrain", "--set", "pretrain.seed=9", *remote)
    assert "made now   pretrain" in rerun
