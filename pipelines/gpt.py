"""The pipeline from raw text to a fine-tuned GPT: seven stages, each with what gives its output identity.

corpus -> clean -> dedup -> tokenizer -> shards -> pretrain -> finetune -> evaluate
                      `-----------------^                `-----------------^

A recipe without a corpus has the last two alone: finetune reads the files of finetune.model in place of pretrain.
"""

from pathlib import Path

from gpt_core.fingerprint import Json
from gpt_core.model.hf_config import CONFIG, WEIGHTS
from gpt_core.recipe import Recipe, Section
from gpt_core.text.inputs import expand_inputs
from gpt_core.tokenizer.files import existing_files, model_tokenizer_files
from pipelines.stage import RawFile, Stage


def stages_of(recipe: Recipe) -> list[Stage]:
    """The stages that `recipe` asks for, in order."""
    if recipe.corpus is None:
        return [stage for stage in STAGES if stage.name in ("finetune", "evaluate")]
    return [stage for stage in STAGES if stage.name != "finetune" or recipe.finetune is not None]


def _section(section: Section, *, without: frozenset[str] = frozenset()) -> dict[str, Json]:
    return section.model_dump(mode="json", exclude=set(without))


def _nothing(_: Recipe) -> list[RawFile]:
    return []


def _clean_decisions(recipe: Recipe) -> dict[str, Json]:
    decisions: dict[str, Json] = {
        "corpus": _section(recipe.raw, without=frozenset({"inputs"})),
        "clean": _section(recipe.clean, without=frozenset({"preset", "decontaminate_files"})),
    }
    limits: list[Json] = [entry.max_documents for entry in recipe.raw.inputs]
    if any(limits):
        decisions["max_documents"] = limits
    if recipe.finetune is not None and recipe.clean.decontaminate_ngram_words is not None:
        decisions["finetune"] = {"text_fields": list(recipe.finetune.text_fields)}
    return decisions


def _clean_files(recipe: Recipe) -> list[RawFile]:
    files = [
        RawFile(
            Path(raw.path),
            f"corpus.inputs.{raw.entry}.path",
            "corpus",
            {"name": raw.name, "source": raw.source, "format": raw.format, "fields": _section(raw.fields)},
        )
        for raw in expand_inputs(recipe.raw)
    ]
    clean = recipe.clean
    if clean.url is not None:
        named = enumerate(clean.url.domain_files)
        files += [RawFile(Path(path), f"clean.url.domain_files.{i}", "domains", {}) for i, path in named]
    if clean.classifier is not None:
        files.append(RawFile(Path(clean.classifier.model), "clean.classifier.model", "classifier", {}))
    if recipe.clean.decontaminate_ngram_words is None:
        return files
    listed = [(path, f"clean.decontaminate_files.{i}") for i, path in enumerate(recipe.clean.decontaminate_files)]
    if recipe.finetune is not None:
        tuning = recipe.finetune
        splits = [(tuning.validation, "finetune.validation"), (tuning.test, "finetune.test")]
        listed += [(path, field) for path, field in splits if path is not None]
    return files + [RawFile(Path(path), field, "decontaminate", {}) for path, field in listed]


def _pretrain_decisions(recipe: Recipe) -> dict[str, Json]:
    section = _section(recipe.pretrain, without=frozenset({"init_from"}))
    if recipe.pretrain.mixture is not None:  # max_epochs refuses, and changes no byte
        section["mixture"] = {name: source.weight for name, source in recipe.pretrain.mixture.items()}
    return {"model": _section(recipe.model), "pretrain": section}


def _pretrain_files(recipe: Recipe) -> list[RawFile]:
    """The files of the model that the training goes on from."""
    if recipe.pretrain.init_from is None:
        return []
    folder = Path(recipe.pretrain.init_from)
    return [RawFile(folder / name, "pretrain.init_from", "init_from", {}) for name in (CONFIG, WEIGHTS)]


def _tokenizer_files(recipe: Recipe) -> list[RawFile]:
    """The files of an existing tokenizer; none where one is learned."""
    if recipe.tokenizer.path is None:
        return []
    files = existing_files(Path(recipe.tokenizer.path))
    return [RawFile(file, "tokenizer.path", "tokenizer", {}) for file in files]


def _finetune_decisions(recipe: Recipe) -> dict[str, Json]:
    assert recipe.finetune is not None
    return {"finetune": _section(recipe.finetune, without=frozenset({"model", "train", "validation", "test"}))}


def _finetune_files(recipe: Recipe) -> list[RawFile]:
    """The files of the model that is fine-tuned, where pretrain does not make it, and the labelled rows."""
    assert recipe.finetune is not None
    labelled = _labelled_files(recipe, "train", "validation")
    if recipe.finetune.model is None:
        return labelled
    folder = Path(recipe.finetune.model)
    files = [folder / CONFIG, folder / WEIGHTS, *model_tokenizer_files(folder)]
    return [*(RawFile(file, "finetune.model", "init", {}) for file in files), *labelled]


def _labelled_files(recipe: Recipe, *splits: str) -> list[RawFile]:
    """Those of the recipe's labelled files that it names."""
    if recipe.finetune is None:
        return []
    named = [(split, getattr(recipe.finetune, split)) for split in splits]
    return [RawFile(Path(path), f"finetune.{split}", split, {}) for split, path in named if path is not None]


def _evaluate_decisions(recipe: Recipe) -> dict[str, Json]:
    return {"evaluate": _section(recipe.evaluate)}


STAGES = [
    Stage(
        name="clean",
        module="jobs.clean_corpus",
        engine="spark",
        revision=4,
        reads=(),
        decisions=_clean_decisions,
        raw_files=_clean_files,
    ),
    Stage(
        name="dedup",
        module="jobs.dedup_corpus",
        engine="spark",
        revision=4,
        reads=("clean",),
        decisions=lambda recipe: {"dedup": _section(recipe.dedup)},
        raw_files=_nothing,
    ),
    Stage(
        name="tokenizer",
        module="jobs.train_tokenizer",
        engine="python",
        revision=2,
        reads=("dedup",),
        decisions=lambda recipe: {"tokenizer": _section(recipe.tokenizer, without=frozenset({"path"}))},
        raw_files=_tokenizer_files,
    ),
    Stage(
        name="shards",
        module="jobs.tokenize_corpus",
        engine="ray",
        revision=2,
        reads=("dedup", "tokenizer"),
        decisions=lambda recipe: {"shards": _section(recipe.shards, without=frozenset({"encoder"}))},
        raw_files=_nothing,
    ),
    Stage(
        name="pretrain",
        module="jobs.pretrain",
        engine="deepspeed",
        revision=2,
        reads=("shards", "tokenizer"),
        decisions=_pretrain_decisions,
        raw_files=_pretrain_files,
    ),
    Stage(
        name="finetune",
        module="jobs.finetune",
        engine="deepspeed",
        revision=2,
        reads=("pretrain",),
        decisions=_finetune_decisions,
        raw_files=_finetune_files,
    ),
    Stage(
        name="evaluate",
        module="jobs.evaluate",
        engine="python",
        revision=3,
        reads=("shards", "pretrain", "finetune"),
        decisions=_evaluate_decisions,
        raw_files=lambda recipe: _labelled_files(recipe, "test"),
    ),
]
