"""What differs between two identities of a stage: their leaves, named as the recipe names them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gpt_core.fingerprint import Json


@dataclass(frozen=True)
class Change:
    """One thing that differs, named as the recipe names it; None where there is no value."""

    section: str  # of the identity: recipe, files, inputs, revision
    path: str
    old: Json
    new: Json


def changes(old: Mapping[str, Json], new: Mapping[str, Json]) -> list[Change]:
    """Every leaf in which two identities differ, sorted by path; a list, as the files of a role, is one leaf."""
    before, after = dict(_leaves(dict(old))), dict(_leaves(dict(new)))
    found = []
    for path in sorted(before.keys() | after.keys()):
        section, _, rest = path.partition(".")
        nothing = section in ("files", "inputs") and not rest  # an empty mapping
        if before.get(path) != after.get(path) and not nothing:
            found.append(Change(section, rest, before.get(path), after.get(path)))
    return found


def describe_changes(old: Mapping[str, Json], new: Mapping[str, Json]) -> list[str]:
    """One phrase for each leaf in which two identities differ, named as the recipe names it."""
    phrases = []
    for change in changes(old, new):
        if change.section == "recipe":
            phrases.append(f"{change.path}: {json.dumps(change.old)} -> {json.dumps(change.new)}")
        elif change.section == "inputs":
            phrases.append(f"{change.path.split('.')[0]} is another")
        elif change.section == "files":
            phrases.append(f"the {change.path.split('.')[0]} files are others")
        else:
            phrases.append(f"the stage's {change.section} is another")
    return list(dict.fromkeys(phrases))


def file_changes(change: Change) -> Iterator[Change]:
    """Which files of a role came, went or changed, and in what."""
    before, after = ({entry["name"]: entry for entry in _entries(value)} for value in (change.old, change.new))
    different = False
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name, {}), after.get(name, {})
        for key in dict.fromkeys([*old, *new]):
            if key != "name" and old.get(key) != new.get(key):
                different = True
                yield Change("files", f"{change.path} file {name}, {key}", old.get(key), new.get(key))
    if not different:
        yield Change("files", f"order of the {change.path} files", list(before), list(after))


def _entries(value: Json) -> list[dict[str, Json]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _leaves(value: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    else:
        yield path, value
