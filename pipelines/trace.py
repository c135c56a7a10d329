"""From a training sample, or a document's id, back to the line of the raw file it came from."""

from collections.abc import Iterator, Mapping, Sequence

from gpt_core.artifact import Artifact
from gpt_core.data.batches import TrainingSamples
from gpt_core.data.find import DocumentPart, documents_between, find_document
from gpt_core.data.shard_cache import ShardCache, open_side
from gpt_core.errors import InputError
from gpt_core.recipe import Recipe
from gpt_core.tasks.spec import IGNORED
from gpt_core.text.inputs import RawInput, expand_inputs
from gpt_core.text.place import locate
from gpt_core.tokenizer.documents import find_rows
from gpt_core.tokenizer.files import TOKENIZER
from gpt_core.tokenizer.tokenizer import Tokenizer

EXCERPT_CHARACTERS = 200


def show_document(recipe: Recipe, doc_id: str, inputs: Mapping[str, Artifact]) -> Iterator[str]:
    """Lines on where a document stands and where it came from, and its text. Raises InputError if no shard holds it."""
    shards = inputs["shards"]
    cache = ShardCache.of_recipe(recipe, shards)
    part = find_document(open_side(shards, "train", cache=cache), doc_id)
    part = part or find_document(open_side(shards, "validation", cache=cache), doc_id)
    if part is None:
        raise InputError(
            f"--document {doc_id}: no shard holds it; if it was a raw document, rejected/ of clean or duplicates/ of "
            "dedup tells why it went"
        )
    yield from _describe([part], recipe, inputs, excerpt=None)


def trace_sample(recipe: Recipe, number: int, inputs: Mapping[str, Artifact]) -> Iterator[str]:
    """Lines on the documents of a training sample and where they came from. Raises InputError beyond the training."""
    settings, steps = recipe.pretrain, recipe.pretrain_steps
    if number >= steps * settings.batch_sequences:
        raise InputError(
            f"--sample {number}: pretrain.tokens={settings.tokens} makes {steps * settings.batch_sequences:,} samples; "
            f"give 0 to {steps * settings.batch_sequences - 1}"
        )
    shards = inputs["shards"]
    train_set = open_side(shards, "train", cache=ShardCache.of_recipe(recipe, shards))
    samples = TrainingSamples(train_set, recipe.model.context_length, settings, ignored=IGNORED)
    step, place = divmod(number, settings.batch_sequences)
    yield f"sample    {number:,}: step {step + 1:,} of {steps:,}, sequence {place + 1} of {settings.batch_sequences}"
    stretches = samples.stretches(number)
    parts = [part for start, stop in stretches for part in documents_between(samples.shards, start, stop)]
    yield from _describe(parts, recipe, inputs, excerpt=EXCERPT_CHARACTERS)


def _describe(
    parts: Sequence[DocumentPart], recipe: Recipe, inputs: Mapping[str, Artifact], *, excerpt: int | None
) -> Iterator[str]:
    """For each part: its document, shard, place in the raw corpus and text, at most `excerpt` characters of it."""
    rows = find_rows(inputs["dedup"].files("documents"), {part.doc_id for part in parts}, columns=("source", "place"))
    tokenizer = Tokenizer.load(inputs["tokenizer"].file(TOKENIZER))
    raw = expand_inputs(recipe.raw)
    for part in parts:
        last = part.first_token + len(part.tokens)
        row = rows[part.doc_id]
        yield ""
        yield f"document  {part.doc_id}"
        yield f"tokens    {part.first_token:,} to {last:,} of {part.document_tokens:,}, end of text in"
        yield f"shard     {part.entry.path}, document {part.number:,} of {part.entry.documents:,}"
        yield f"source    {row['source']}"
        yield f"raw       {_tell_place(row['place'], raw)}"
        text = tokenizer.decode(part.tokens.tolist())
        cut = excerpt is not None and len(text) > excerpt
        yield f"text      {text[:excerpt]!r}{' ...' if cut else ''}" if excerpt else f"\n{text}"


def _tell_place(place: str, raw: Sequence[RawInput]) -> str:
    try:
        found = locate(place, raw)
    except InputError as error:
        return str(error)
    return str(found.path) if found.number is None else f"{found.path} {found.unit} {found.number:,}"
