"""A recipe as YAML that gptmill reads back to the same recipe: whole, or only what differs from the defaults."""

import json
import re
from collections.abc import Iterator

from gpt_core.fingerprint import Json
from gpt_core.recipe import Recipe, Section

_BARE = re.compile(r"[A-Za-z/][A-Za-z0-9_/.+-]*")  # needs no quotes, in a flow sequence neither
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}  # mean something else to one YAML or another
_PASSWORD = re.compile(r"(://)[^/@\s\"]+@")


def recipe_yaml(recipe: Recipe, *, decisions_only: bool = False) -> str:
    """The recipe, or with `decisions_only` the fields whose value is not the default. Passwords in URIs are cut."""
    tree = _decisions(recipe) if decisions_only else recipe.model_dump(mode="json")
    return _PASSWORD.sub(r"\1***@", "\n".join(_lines(tree, indent="")) + "\n")


def _decisions(section: Section) -> dict[str, Json]:
    """The fields of `section` whose value is not their default, sections within likewise."""
    values: dict[str, Json] = section.model_dump(mode="json")
    found: dict[str, Json] = {}
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            inner = _decisions(value)
            if inner or not isinstance(info.default, Section):
                found[name] = inner
        elif isinstance(value, tuple) and value and isinstance(value[0], Section):
            found[name] = [_decisions(item) for item in value]
        elif info.is_required() or value != info.default:
            found[name] = values[name]
    return found


def _lines(tree: dict[str, Json], *, indent: str) -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:"
            yield from _lines(value, indent=indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{indent}{name}:"
            yield from (f"{indent}  - {_flow(item)}" for item in value)
        else:
            yield f"{indent}{name}: {_flow(value)}"


def _flow(value: Json) -> str:
    """`value` on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_flow(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and _BARE.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=isinstance(value, str) and not value.isprintable())
