"""The drawn chain holds every output, every read and every raw file, and arrows do not run over each other."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from stage_output import write_output

from gpt_core.artifact import Artifact
from gpt_core.report.lineage_graph import _lanes, lineage_graph

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    nodes = ElementTree.fromstring(svg).iter(f"{SVG}text")  # noqa: S314
    return [(node.text or "") + "".join(tip.tail or "" for tip in node) for node in nodes]


def tips(svg: str) -> str:
    return "\n".join(node.text or "" for node in ElementTree.fromstring(svg).iter(f"{SVG}title"))  # noqa: S314


def test_every_output_every_read_and_every_raw_file_is_drawn(artifacts: dict[str, Artifact]) -> None:
    svg = lineage_graph("chain", artifacts)
    drawn = texts(svg)
    for stage, artifact in artifacts.items():
        assert stage in drawn
        assert artifact.manifest.fingerprint[:12] in drawn
        assert artifact.manifest.fingerprint in tips(svg)
    assert "novels.jsonl.gz" in "".join(drawn)
    assert "SHA-256 " + "00" * 32 in tips(svg)
    reads = sum(len(artifact.manifest.inputs) for artifact in artifacts.values())
    assert len(re.findall(r'class="fill muted"', svg)) == reads + 1  # and one from the raw files


def test_arrows_that_pass_stages_by_share_a_lane_only_one_behind_the_other() -> None:
    edges = [(0, 1), (1, 3), (2, 4), (3, 6), (4, 6), (5, 6), (0, 6)]
    lanes = dict(zip(edges, _lanes(edges), strict=True))
    assert lanes[0, 1] is lanes[5, 6] is None
    around = [(edge, lane) for edge, lane in lanes.items() if lane is not None]
    for n, (first, lane) in enumerate(around):
        for second, other in around[n + 1 :]:
            apart = first[1] <= second[0] or second[1] <= first[0]
            assert apart or lane != other
    assert max(lane for _, lane in around) == 3
    assert _lanes([(0, 2), (2, 4), (1, 3)]) == [0, 0, 1]


@pytest.mark.parametrize(("count", "named"), [(1, 1), (3, 3), (4, 2), (500, 2)])
def test_of_many_raw_files_the_first_are_named_and_the_others_counted(tmp_path: Path, count: int, named: int) -> None:
    svg = lineage_graph("chain", {"clean": clean_of(tmp_path, [f"{n}.jsonl" for n in range(count)])})
    assert [text for text in texts(svg) if text.endswith(".jsonl")] == [f"{n}.jsonl" for n in range(named)]
    assert (f"and {count - named} more" in texts(svg)) == (count > named)


def test_a_hostile_and_endless_name_stays_text_within_its_column(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>" * 9 + ".jsonl"
    svg = lineage_graph("chain", {"clean": clean_of(tmp_path, [name])})
    assert "<script" not in svg
    (shown,) = [text for text in texts(svg) if text.endswith(".jsonl")]
    assert len(shown) <= 24
    assert name in tips(svg)


def clean_of(root: Path, names: list[str]) -> Artifact:
    files = [{"name": name, "sha256": "ab" * 32} for name in names]
    return write_output(root, "clean", identity={"stage": "clean", "files": {"corpus": list(files)}})
