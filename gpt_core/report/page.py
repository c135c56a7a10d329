"""report.html: one page that tells a run from its manifests, whole in itself.

It fetches nothing, runs no script and stands in one file; its charts are inline SVG. Texts of documents are
untrusted: everything is escaped, and a content security policy forbids what escaping might miss. The same inputs
give the same bytes.
"""

from collections.abc import Iterator, Mapping
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from gpt_core.artifact import Artifact
from gpt_core.recipe import Recipe
from gpt_core.report import units
from gpt_core.report.blocks import Tile
from gpt_core.report.corpus_section import corpus_section, tokens_section
from gpt_core.report.duplicates_section import duplicates_section
from gpt_core.report.evaluation import MEASURES
from gpt_core.report.evidence import Evidence
from gpt_core.report.provenance_section import provenance_section, recipe_section
from gpt_core.report.results_section import results_section, samples_section
from gpt_core.report.rules_section import rules_section
from gpt_core.report.tokenizer_section import tokenizer_section
from gpt_core.report.training_section import finetune_section, pretrain_section
from gpt_core.tasks.scores import HEADLINE
from gpt_core.tasks.spec import target_of

SECTIONS = (
    corpus_section,
    rules_section,
    duplicates_section,
    tokenizer_section,
    tokens_section,
    pretrain_section,
    finetune_section,
    results_section,
    samples_section,
    recipe_section,
    provenance_section,
)


def render_report(recipe: Recipe, artifacts: Mapping[str, Artifact]) -> str:
    """The page of `recipe` and those of its outputs that are whole, by stage. What was not made is left out."""
    evidence = Evidence(recipe, artifacts)
    sections = [section for make in SECTIONS if (section := make(evidence)).blocks]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_resource("report.html"))
    return template.render(
        name=recipe.name,
        style=Markup(_resource("report.css")),  # noqa: S704  our own file
        summary=summarize(evidence),
        made=_made(evidence),
        tiles=list(headline(evidence)),
        sections=sections,
    )


def headline(evidence: Evidence) -> Iterator[Tile]:
    """The figures that a reader wants first, each with what to hold it against."""
    raw = evidence.count("clean", "documents_in")
    last = "dedup" if "dedup" in evidence.artifacts else "clean"
    kept = evidence.count(last, "documents_kept")
    if raw and kept is not None:
        yield Tile("documents kept", units.count(kept), f"of {units.count(raw)} ({units.percent(kept / raw)})")
    tokens = evidence.count("shards", "train_tokens")
    if tokens is not None:
        held_out = units.count(evidence.count("shards", "validation_tokens") or 0)
        yield Tile("training tokens", units.count(tokens), f"and {held_out} for validation")
    parameters, seen = evidence.count("pretrain", "parameters"), evidence.count("pretrain", "tokens")
    if parameters is not None:
        yield Tile("parameters", units.count(parameters), f"trained on {units.count(seen or 0)} tokens")
    yield from _language_tiles(evidence)
    yield from _task_tiles(evidence)


def _language_tiles(evidence: Evidence) -> Iterator[Tile]:
    stage = "evaluate" if evidence.figure("evaluate", "validation_loss") is not None else "pretrain"
    loss, bits = (evidence.figure(stage, f"validation_{name}") for name in ("loss", "bits_per_byte"))
    if loss is not None and bits is not None:
        yield Tile("on held-out text", units.fixed(bits), f"bits per byte; loss {units.fixed(loss)} nats per token")


def _task_tiles(evidence: Evidence) -> Iterator[Tile]:
    settings = evidence.recipe.finetune
    if settings is None:
        return
    name = HEADLINE[target_of(settings)]
    measure = MEASURES[name]
    ours = evidence.figure("evaluate", f"test_{name}")
    if ours is None:
        return
    against = [
        f"{words} {measure.tell(value)}"
        for words, prefix in (
            ("from scratch", "scratch_test"),
            ("bag of words", "bag_of_words"),
            ("majority", "majority"),
        )
        if (value := evidence.figure("evaluate", f"{prefix}_{name}")) is not None
    ]
    yield Tile(f"test {measure.words}", measure.tell(ours), ", ".join(against))
    lift, low, high = (evidence.figure("evaluate", f"lift{end}") for end in ("", "_low", "_high"))
    if lift is not None and low is not None and high is not None:
        interval = f"{measure.gained}; 95%: {measure.tell_gains(low, high)}"
        yield Tile("worth of pre-training", measure.tell_gain(lift), interval)


def summarize(evidence: Evidence) -> str:
    """One sentence for a stranger."""
    recipe, raw = evidence.recipe, evidence.count("clean", "documents_in")
    tuning = recipe.finetune
    end = (
        f"tuned for {tuning.task.replace('_', ' ')}" if tuning is not None and "finetune" in evidence.artifacts else ""
    )
    if tuning is not None and tuning.model is not None:
        return f"The language model {tuning.model}, {end or 'to be tuned'}."
    model = recipe.model
    start = f"From {units.count(raw)} raw documents" if raw else "From documents"
    if evidence.count("pretrain", "parameters") is None:
        return f"{start} towards a {model.architecture} language model."
    size = f"{model.n_layer} layers, width {model.n_embd}, context {units.count(model.context_length)} tokens"
    return f"{start} to a {model.architecture} language model ({size}){end and ', then ' + end}."


def _made(evidence: Evidence) -> str:
    """When, with what and in how long the outputs were made."""
    manifests = [artifact.manifest for artifact in evidence.artifacts.values()]
    if not manifests:
        return "Nothing is made yet."
    last = max(manifests, key=lambda manifest: manifest.created_at)
    took = units.seconds(sum(manifest.wall_seconds for manifest in manifests))
    parts = [f"Made {last.created_at[:16].replace('T', ' ')} UTC", f"{len(manifests)} stages in {took}"]
    parts += [f"gptmill {last.versions['gptmill']}"] if "gptmill" in last.versions else []
    parts += [f"commit {last.git_commit[:12]}"] if last.git_commit else []
    return " \u00b7 ".join(parts)


def _resource(name: str) -> str:
    return files("gpt_core.report").joinpath(name).read_text(encoding="utf-8")
