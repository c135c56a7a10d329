"""From a training sample, or a document's id, back to the line of the raw file it came from."""

from collections.abc import Iterator, Mapping, Sequence

from gpt_core.artifact import Artifact
from gpt_core.data.find import DocumentPart, find_document
from gpt_core.data.shard_set import ShardSet
from gpt_core.errors import InputError
from gpt_core.recipe import Recipe
from gpt_core.text.inputs import expand_inputs
from gpt_core.text.place import locate
from gpt_core.tokenizer.documents import find_rows
from gpt_core.tokenizer.tokenizer import TOKENIZER, Tokenizer

EXCERPT_CHARACTERS = 200


def show_document(recipe: Recipe, doc_id: str, inputs: Mapping[str, Artifact]) -> Iterator[str]:
    """Lines on where a document stands and where it came from, and its text. Raises InputError if no shard holds it."""
    part = find_document(ShardSet.open(inputs["shards"], "train"), doc_id)
    part = part or find_document(ShardSet.open(inputs["shards"], "validation"), doc_id)
    if part is None:
        raise InputError(
            f"--document {doc_id}: no shard holds it; if it was a raw document, rejected/ of clean or duplicates/ of "
            "dedup tells why it went"
        )
    yield from _describe([part], recipe, inputs, excerpt=None)


def _describe(
    parts: Sequence[DocumentPart], recipe: Recipe, inputs: Mapping[str, Artifact], *, excerpt: int | None
) -> Iterator[str]:
    """For each part: its document, shard, place in the raw corpus and text, at most `excerpt` characters of it."""
    rows = find_rows(inputs["dedup"].files("documents"), {part.doc_id for part in parts}, columns=("source", "place"))
    tokenizer = Tokenizer.load(inputs["tokenizer"].file(TOKENIZER))
    raw = expand_inputs(recipe.corpus)
    for part in parts:
        last = part.first_token + len(part.tokens)
        row = rows[part.doc_id]
        yield f"document  {part.doc_id}"
        yield f"tokens    {part.first_token:,} to {last:,} of {part.document_tokens:,}, end of text in"
        yield f"shard     {part.entry.path}, document {part.number:,} of {part.entry.documents:,}"
        yield f"source    {row['source']}"
        yield f"raw       {_tell_place(row['place'], raw)}"
        text = tokenizer.decode(part.tokens.tolist())
        cut = excerpt is not None and len(text) > excerpt
        yield f"text      {text[:excerpt]!r}{' ...' if cut else ''}" if excerpt else f"\n{text}"


def _tell_place(place: str, raw: Sequence[object]) -> str:
    try:
        found = locate(place, raw)  # type: ignore[arg-type]
    except InputError as error:
        return str(error)
    return str(found.path) if found.number is None else f"{found.path} {found.unit} {found.number:,}"
