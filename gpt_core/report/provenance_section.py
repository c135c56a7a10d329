"""Where each number came from: every stage's output, what it was made of, with what, and what it took."""

from gpt_core.artifact import Artifact, Manifest
from gpt_core.fingerprint import SHORT, Json
from gpt_core.report import units
from gpt_core.report.blocks import Block, Code, Columns, Details, Figure, Section, Table
from gpt_core.report.charts import Bar, bar_chart
from gpt_core.report.evidence import Evidence
from gpt_core.report.lineage_graph import lineage_graph, raw_files
from gpt_core.report.recipe_text import recipe_yaml


def recipe_section(evidence: Evidence) -> Section:
    """The recipe: what was decided, then all of it."""
    decided = Code(recipe_yaml(evidence.recipe, decisions_only=True))
    whole = Details("The whole recipe, defaults in", [Code(recipe_yaml(evidence.recipe))])
    return Section("recipe", "Recipe", "What was decided; every other field has its default.", [decided, whole])


def provenance_section(evidence: Evidence) -> Section:
    """One row a stage, and all of its manifest but the list of files."""
    manifests = [artifact.manifest for artifact in evidence.artifacts.values()]
    if not manifests:
        return Section("provenance", "Where each number came from")
    head = ["stage", "fingerprint", "made (UTC)", "wall time", "CPU seconds", "peak memory", "files", "size"]
    rows = [_row(manifest) for manifest in manifests]
    if len(manifests) > 1:
        wall, cpu = (sum(getattr(m, name) for m in manifests) for name in ("wall_seconds", "cpu_seconds"))
        rows.append(["all", "", "", units.seconds(wall), f"{cpu:,.1f}", "", "", ""])
    bars = [Bar(m.stage, [(m.wall_seconds, "c1")], units.seconds(m.wall_seconds)) for m in manifests]
    title = "What each output was made of"
    graph = Figure(
        title,
        lineage_graph(title, evidence.artifacts),
        caption="On the left the raw files that were read.",
    )
    blocks: list[Block] = [
        Columns([graph, Figure("Wall time by stage", bar_chart("Wall time by stage", bars))]),
        Table("Outputs this page was made from", head, rows, text_columns=3),
        *(_stage(artifact) for artifact in evidence.artifacts.values()),
    ]
    lead = (
        "A fingerprint is the SHA-256 of a stage's slice of the recipe, its inputs' fingerprints, the digests of the "
        "raw files it reads and its revision. The same fingerprint means the same output."
    )
    return Section("provenance", "Where each number came from", lead, blocks)


def _row(manifest: Manifest) -> list[str]:
    return [
        manifest.stage,
        manifest.fingerprint[:SHORT],
        manifest.created_at[:19].replace("T", " "),
        units.seconds(manifest.wall_seconds),
        f"{manifest.cpu_seconds:,.1f}",
        units.size(manifest.peak_memory_bytes),
        units.count(len(manifest.files)),
        units.size(sum(file.size_bytes for file in manifest.files)),
    ]


def _stage(artifact: Artifact) -> Details:
    manifest = artifact.manifest
    facts = [
        ("output", str(artifact.root)),
        ("fingerprint", manifest.fingerprint),
        *((f"input {name}", value) for name, value in _strings(manifest.identity.get("inputs"))),
        ("revision", str(manifest.identity.get("revision", ""))),
        ("recipe", manifest.recipe_name),
        ("git commit", manifest.git_commit or ""),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
        ("host", manifest.host),
        ("command", " ".join(manifest.command)),
    ]
    rows = [[name, value] for name, value in facts if value]
    blocks: list[Block] = [Table("Manifest", ["", ""], rows, text_columns=2)]
    raw = [[file.role, file.name, file.sha256] for file in raw_files(manifest)]
    if raw:
        blocks.append(Table("Raw files read", ["as", "file", "SHA-256"], raw, text_columns=3))
    return Details(f"{manifest.stage}: inputs, versions, command", blocks)


def _strings(value: Json) -> list[tuple[str, str]]:
    return [(name, str(item)) for name, item in value.items()] if isinstance(value, dict) else []
