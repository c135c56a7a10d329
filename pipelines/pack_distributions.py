"""Which installed distributions the jobs of an engine need, and their files as they stand in a relocatable environment.

Needed is what the jobs' modules import, those of ours that they import included, function bodies too; and all that
these distributions require in turn. A distribution goes in whole: what it looks for at run time is there.
"""

import ast
import contextlib
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gpt_core.errors import SetupError
from pipelines.pack_archive import Member

OWN = "gptmill"
PACKAGES = ("gpt_core", "jobs", "pipelines")
ROOT = Path(__file__).parents[1]
JARS = "pyspark/jars/"  # of a driver; executors have the cluster's own
# The first line of a script that finds its interpreter beside itself: sh reads two lines, Python a string.
SHEBANG = b"""#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")/python" "$0" "$@"
' '''
"""
# Pip's, of an interpreter's path: in one line, or where it is too long or has a space in three.
_PIPS_SHEBANG = re.compile(rb"#!(/[^\n ]*/python[0-9.]*( [^\n]*)?|/bin/sh\n'''exec' [^\n]*\n' ''')\n")


@dataclass(frozen=True)
class Kind:
    """Jobs that run on one kind of cluster, and the extra of gptmill that a node of it needs beside."""

    modules: tuple[str, ...]
    extras: tuple[str, ...] = ()


_SPARK = ("jobs.clean_corpus", "jobs.dedup_corpus")
_RAY = ("jobs.tokenize_corpus",)
_TRAIN = ("jobs.node", "jobs.pretrain", "jobs.finetune", "jobs.train_tokenizer", "jobs.evaluate")
KINDS: Mapping[str, Kind] = {
    "spark": Kind(_SPARK),
    "ray": Kind(_RAY, extras=("cluster",)),
    "train": Kind(_TRAIN, extras=("s3",)),  # and the stages of one process
    "all": Kind((*_SPARK, *_RAY, *_TRAIN, "pipelines.cli"), extras=("cluster", "s3")),
}


def needed_distributions(kind: str) -> dict[str, Distribution]:
    """By canonical name, what the jobs of this kind need, gptmill itself apart.

    A requirement of an extra is in where it is installed whole. Raises SetupError where another is not installed.
    """
    names = distributions_of(imported_packages(KINDS[kind].modules))
    found: dict[str, Distribution] = {}
    for requirement in map(Requirement, own_distribution().requires or ()):
        if canonicalize_name(requirement.name) in names and _applies(requirement, {""}):
            found |= _closure([requirement])
        elif _applies(requirement, KINDS[kind].extras):
            with contextlib.suppress(SetupError):
                found |= _closure([requirement])
    return found | _closure(map(Requirement, sorted(names)))


def imported_packages(modules: Iterable[str]) -> set[str]:
    """Top-level packages of others that these modules of ours import, and those that they import."""
    todo, seen, found = set(modules), set[str](), set[str]()
    while todo:
        module = todo.pop()
        seen.add(module)
        for name in _imports(module):
            top = name.partition(".")[0]
            if top in PACKAGES:
                todo |= {name} - seen
            elif top not in sys.stdlib_module_names:
                found.add(top)
    return found


def _imports(module: str) -> Iterator[str]:
    """What the module imports, and the packages that it stands in; nothing where `module` is a name in a module."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        return
    yield from (parent for parent in [module.rpartition(".")[0]] if parent)
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("files", "importlib.resources.files"):
            yield ast.literal_eval(node.args[0])  # the package's data


def distributions_of(packages: Iterable[str]) -> set[str]:
    """Canonical names of the distributions that bring these packages. Raises SetupError for what none brings."""
    known = importlib.metadata.packages_distributions()
    missing = sorted(set(packages) - known.keys())
    if missing:
        raise SetupError(f"not installed here: {', '.join(missing)}; run make install")
    return {canonicalize_name(name) for package in packages for name in known[package]}


def own_distribution() -> Distribution:
    """gptmill as it is installed here. Raises SetupError where it is not."""
    for found in importlib.metadata.distributions(name=OWN):
        if found.read_text("METADATA") is not None:  # what setuptools leaves in a checkout, an egg-info, has none
            return found
    raise SetupError(f"{OWN} is not installed in {sys.prefix}; run make install")


def _closure(requirements: Iterable[Requirement]) -> dict[str, Distribution]:
    """By canonical name, the distributions that fulfil these requirements and those of theirs."""
    todo = [(requirement, OWN) for requirement in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    found: dict[str, Distribution] = {}
    while todo:
        requirement, whose = todo.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise SetupError(f"{whose} needs {requirement}, which is not installed; run make install") from None
        required = map(Requirement, found[name].requires or ())
        todo += [(one, name) for one in required if _applies(one, extras | {""})]
    return found


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    """Whether it holds on this machine with one of the extras."""
    marker = requirement.marker
    return any(marker.evaluate({"extra": extra}) for extra in extras) if marker is not None else "" in extras


def distribution_members(distribution: Distribution, packages: str, *, jars: bool) -> Iterator[tuple[str, Member]]:
    """The names below an environment, whose folder of packages is `packages`, and the files of a distribution.

    What names a place on this machine stays behind or is written anew: direct_url.json, the first line of scripts.
    Without `jars` Spark's Java part stays behind too.
    """
    name = distribution.metadata["Name"]
    if distribution.files is None:
        raise SetupError(f"{name}: does not tell its files; install gptmill into a virtual environment")
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        raise SetupError(f"{name}: is installed editable, of {origin['url']}; install it without --editable")
    for file in distribution.files:
        path = Path(os.path.normpath(str(file.locate())))
        if file.suffix == ".pyc" or file.name == "direct_url.json" or not path.is_file():
            continue
        if ".." not in file.parts:
            if jars or not str(file).startswith(JARS):
                yield f"{packages}/{file}", Member(path, executable=os.access(path, os.X_OK))
        elif path.is_relative_to(sys.prefix):
            inside = path.relative_to(sys.prefix)
            yield str(inside), script(path) if inside.parent.name == "bin" else Member(path)


def script(path: Path) -> Member:
    """An executable of a bin folder; the Python beside it runs one of this environment's Python."""
    content = path.read_bytes()
    found = _PIPS_SHEBANG.match(content)
    return Member(SHEBANG + content[found.end() :] if found else content, executable=True)
