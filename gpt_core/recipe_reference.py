"""The reference of recipes, generated from their models: docs/recipe.md for readers, a JSON schema for editors."""

import json
import re
from collections.abc import Iterator

from gpt_core import recipe
from gpt_core.fingerprint import Json
from gpt_core.recipe import Recipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"
COLUMNS = ("field", "type", "default", "allowed", "meaning")

INTRODUCTION = """\
# Recipe reference

<!-- Generated: gptmill schema --markdown > docs/recipe.md -->

A recipe is one YAML file that states decisions; what it leaves out has the default below. It is read as YAML 1.2:
`3e-4` is a number, only `true` and `false` are booleans, `no` is Norwegian, and a key given twice is refused, as are
unknown fields and wrong types. Digits may be parted by `_`. `--set pretrain.learning_rate=3e-4` overrides one field
and may be given again; its value is YAML: `--set 'clean.languages=[en, fr]'`, `--set clean.gopher_quality=null`.

The sections `corpus` to `evaluate` say what is made: a stage's fingerprint is taken of those it reads, so that a
changed value makes that stage and those behind it anew. Of the files they name, the name and the bytes count, not
the folder. `name`, `workspace`, `cluster` and `tracking` say what it is called, where it is made and who watches: they
change no fingerprint. `gptmill schema > recipe.schema.json` gives editors the same reference as a JSON schema."""

Schema = dict[str, Json]


def recipe_json_schema() -> dict[str, Json]:
    """The JSON schema (draft 2020-12) of recipes. What concerns several fields at once is checked by gptmill alone."""
    return {"$schema": DIALECT, **Recipe.model_json_schema()}


def recipe_markdown() -> str:
    """docs/recipe.md: a table for each section, in the order of the recipe."""
    schema = recipe_json_schema()
    definitions = _mapping(schema["$defs"])
    return "\n".join([INTRODUCTION, *_section(schema, definitions, path=""), *_sources()]) + "\n"


def _section(schema: Schema, definitions: Schema, *, path: str) -> Iterator[str]:
    """The table of a section's own fields, then its subsections."""
    required = schema.get("required")
    nested: list[tuple[str, Schema]] = []
    rows = []
    for name, value in _mapping(schema["properties"]).items():
        field = _mapping(value)
        inner = _inner(field, definitions)
        if inner is not None:
            nested.append((f"{path}.{name}" if path else name, inner))
            if "$ref" in field:  # neither null nor a list: its heading says it all
                continue
        needed = isinstance(required, list) and name in required
        rows.append(_row(name, field, nested=inner is not None, needed=needed))
    if rows:
        yield f"\n| {' | '.join(COLUMNS)} |"
        yield f"| {' | '.join('---' for _ in COLUMNS)} |"
        yield from rows
    for name, inner in nested:
        yield f"\n{'#' * (2 + name.count('.'))} `{name}`\n\n{inner.get('description', '')}"
        yield from _section(inner, definitions, path=name)


def _row(name: str, field: Schema, *, nested: bool, needed: bool) -> str:
    cells = [f"`{name}`"]
    if nested:
        kind = "list of sections" if field.get("type") == "array" else "section"
        if any("additionalProperties" in _mapping(option) for option in _list(field.get("anyOf"))):
            kind = "section by name"
        optional = " or null" if "anyOf" in field else ""
        default = "required" if needed else "null" if field.get("default") is None else "see below"
        cells += [f"{kind}{optional}", default, ""]
    else:
        cells += [_type(field), "required" if needed else f"`{_literal(field.get('default'))}`", _bounds(field)]
    return f"| {' | '.join([*cells, str(field.get('description', ''))])} |"


def _inner(field: Schema, definitions: Schema) -> Schema | None:
    """The section that a field holds, if it holds one, a list of such or one for each name."""
    options = [field, *map(_mapping, _list(field.get("anyOf")))]
    values = [
        option["additionalProperties"] for option in options if isinstance(option.get("additionalProperties"), dict)
    ]
    for candidate in map(_mapping, [*options, field.get("items", {}), *values]):
        if "$ref" in candidate:
            return _mapping(definitions[str(candidate["$ref"]).rpartition("/")[2]])
    return None


def _type(field: Schema) -> str:
    if "anyOf" in field:
        return " or ".join(_type(_mapping(option)) for option in _list(field["anyOf"]))
    if "enum" in field:
        return " or ".join(f"`{_literal(value)}`" for value in _list(field["enum"]))
    if field.get("type") == "array":
        many = f"{len(_list(field['prefixItems']))} " if "prefixItems" in field else ""
        return f"{many}{_type(_item(field))}s" if many else f"list of {_type(_item(field))}s"
    return str(field.get("type"))


def _item(field: Schema) -> Schema:
    return _mapping(_list(field["prefixItems"])[0] if "prefixItems" in field else field["items"])


def _bounds(field: Schema) -> str:
    if "anyOf" in field:
        return ", ".join(filter(None, (_bounds(_mapping(option)) for option in _list(field["anyOf"]))))
    if field.get("type") == "array":
        within = _bounds(_item(field))
        return f"each {within}" if within else ""
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {_literal(field[name])}" for name, sign in signs.items() if name in field]
    if "pattern" in field:
        bounds.append("`" + str(field["pattern"]).replace("|", "\\|") + "`")
    if field.get("minLength"):
        bounds.append("not empty")
    return ", ".join(bounds)


def _literal(value: Json) -> str:
    """A value as a recipe writes it."""
    if value == 2**63:
        return "2^63"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:_}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else f"{value:g}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    text = value if isinstance(value, str) and re.fullmatch(r"[\w-]+", value) else json.dumps(value)
    return text.replace("|", "\\|")


def _sources() -> Iterator[str]:
    """What the marks in brackets stand for, as gpt_core/recipe says it."""
    _, _, sources = (recipe.__doc__ or "").partition("Sources of defaults: ")
    yield "\n## Sources of defaults\n"
    yield from (f"- {source.strip()}." for source in " ".join(sources.split()).rstrip(".").split(";"))


def _mapping(value: Json) -> Schema:
    assert isinstance(value, dict)
    return value


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
