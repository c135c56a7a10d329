"""`gptmill generate`: text from a pre-trained model."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpt_core.errors import InputError
from gpt_core.recipe import Evaluate

if TYPE_CHECKING:
    from gpt_core.model.stream import Piece

DEFAULTS = Evaluate()


def generate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder, or a pretrain output.")],
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="The text to go on from; may be given again.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A prompt a line; of a .jsonl file its field `prompt`.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most new tokens a prompt.")] = DEFAULTS.sample_tokens,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = DEFAULTS.temperature,
    top_k: Annotated[int, typer.Option(min=0, help="Most candidates a token; 0 is all.")] = DEFAULTS.top_k,
    top_p: Annotated[
        float, typer.Option(max=1.0, help="Of those the fewest that have this share of the odds; 1 is all.")
    ] = DEFAULTS.top_p,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End before this text; may be given again.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Same seed, same text; prompt i, from 0, has seed + i.")
    ] = DEFAULTS.seed,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one object a line, prompt and text.")] = False,
) -> None:
    """Write text from a pre-trained model, as it comes. It ends with the document, or where the context is full."""
    if not math.isfinite(temperature):
        raise InputError(f"--temperature {temperature}: give a number of 0 or more")
    if not top_p > 0.0:
        raise InputError(f"--top-p {top_p}: give a share over 0 and at most 1")
    if "" in (stop or ()):
        raise InputError("--stop '': give a text of one character or more")
    texts = [*(prompt or ()), *(read_prompts(prompts) if prompts else ())]
    if not texts:
        raise InputError("no prompt: give --prompt TEXT, or --prompts FILE")

    from gpt_core.model.sampling import Sampling
    from gpt_core.model.stream import encode_prompts, in_turn, open_language_model, stream_texts

    decoder, tokenizer = open_language_model(model)
    pieces = stream_texts(
        decoder,
        tokenizer,
        encode_prompts(texts, tokenizer, context_length=decoder.config.context_length),
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature, top_k, top_p),
        seed=seed,
        stop=stop or (),
    )
    try:
        (print_json if as_json else print_text)(texts, in_turn(pieces))
    except FloatingPointError as error:
        raise InputError(f"{model}: {error}; give a model whose training did not diverge") from None


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file, in order; an empty line is none. Raises InputError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"--prompts {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"--prompts {path}: is not UTF-8: {error}") from None
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line]
    if path.suffix == ".jsonl":
        return [_parse(line, f"--prompts {path}:{number}") for number, line in lines]
    return [line for _, line in lines]


def _parse(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: is not JSON: {error}") from None
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(prompt, str):
        raise InputError(f"{where}: its field 'prompt' is no text; give one JSON object with it a line")
    return prompt


def print_text(prompts: list[str], pieces: "Iterable[Piece]") -> None:
    """Each prompt stands on standard output and behind it, as it is written, its text; several have a head each."""

    def open_text(number: int) -> None:
        if len(prompts) > 1:
            print(f"--- {number + 1} of {len(prompts)}")
        print(prompts[number], end="", flush=True)

    open_text(0)
    for piece in pieces:
        print(piece.text, end="", flush=True)
        if piece.last:
            print()
            if piece.number + 1 < len(prompts):
                print()
                open_text(piece.number + 1)


def print_json(prompts: list[str], pieces: "Iterable[Piece]") -> None:
    """A line for each prompt stands on standard output: {"prompt", "text"}."""
    written = ""
    for piece in pieces:
        written += piece.text
        if piece.last:
            print(json.dumps({"prompt": prompts[piece.number], "text": written}, ensure_ascii=False), flush=True)
            written = ""
