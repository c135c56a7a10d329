"""`gptmill generate` as a user meets it, on a model with random weights."""

import json
from pathlib import Path

import pytest
import tokenizers
from tiny_decoder import make_decoder
from typer.testing import CliRunner

from gpt_core.errors import InputError
from gpt_core.model.hf import save_language_model
from gpt_core.tokenizer.tokenizer import build_backend, close_vocabulary
from pipelines.cli import app


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    backend = build_backend()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=270, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(["the whale and the ship, the sea and the hill"] * 9, trainer)
    folder = tmp_path_factory.mktemp("model")
    tokenizer = close_vocabulary(backend, "<|endoftext|>")
    tokenizer.save(folder)
    save_language_model(make_decoder("gpt2", vocab_size=tokenizer.vocab_size, context_length=64), folder)
    return folder


def generate(model: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["generate", str(model), *arguments])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def texts_of(model: Path, *arguments: str) -> list[str]:
    """The texts of all prompts, from --json."""
    return [json.loads(line)["text"] for line in generate(model, *arguments, "--json").splitlines()]


def test_a_prompt_stands_before_its_text(model: Path) -> None:
    (text,) = texts_of(model, "--prompt", "The whale")
    assert len(text) > 10
    assert generate(model, "--prompt", "The whale") == f"The whale{text}\n"


def test_several_prompts_have_a_head_each_and_draw_with_seeds_in_a_row(model: Path) -> None:
    short = ("--max-new-tokens", "9")
    first, second, third = texts_of(model, "--prompt", "a", "--prompt", "the sea", "--prompt", "a", *short)
    told = generate(model, "--prompt", "a", "--prompt", "the sea", "--prompt", "a", *short)
    assert told == f"--- 1 of 3\na{first}\n\n--- 2 of 3\nthe sea{second}\n\n--- 3 of 3\na{third}\n"
    assert first != third
    assert texts_of(model, "--prompt", "a", "--seed", "2", *short) == [third]


def test_prompts_are_read_from_lines_and_from_jsonl(model: Path, tmp_path: Path) -> None:
    plain, rows = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    plain.write_text("the sea\n\na hill\n")
    rows.write_text('{"prompt": "the sea", "id": 1}\n{"prompt": "a hill"}\n')
    wanted = generate(model, "--prompt", "the sea", "--prompt", "a hill", "--json")
    assert [json.loads(line)["prompt"] for line in wanted.splitlines()] == ["the sea", "a hill"]
    assert generate(model, "--prompts", str(plain), "--json") == wanted
    assert generate(model, "--prompts", str(rows), "--json") == wanted
    both = generate(model, "--prompt", "the sea", "--prompts", str(rows), "--json")
    assert [json.loads(line)["prompt"] for line in both.splitlines()] == ["the sea", "the sea", "a hill"]


def test_every_option_reaches_the_sampling(model: Path) -> None:
    (plain,) = texts_of(model, "--prompt", "the sea")
    (greedy,) = texts_of(model, "--prompt", "the sea", "--temperature", "0")
    (one,) = texts_of(model, "--prompt", "the sea", "--top-k", "1")
    (nucleus,) = texts_of(model, "--prompt", "the sea", "--top-p", "1e-6")
    assert greedy == one == nucleus != plain
    assert texts_of(model, "--prompt", "the sea", "--seed", "1") != [plain]
    (short,) = texts_of(model, "--prompt", "the sea", "--max-new-tokens", "3")
    assert len(short) < len(plain)
    assert plain.startswith(short.rstrip("\ufffd"))
    stop, other = plain[6:8], plain[3]
    assert texts_of(model, "--prompt", "the sea", "--stop", stop) == [plain.partition(stop)[0]]
    assert texts_of(model, "--prompt", "the sea", "--stop", stop, "--stop", other) == [plain.partition(other)[0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no prompt: give --prompt TEXT, or --prompts FILE"),
        (["--prompt", "a", "--top-p", "0"], "--top-p 0.0: give a share over 0 and at most 1"),
        (["--prompt", "a", "--temperature", "inf"], "--temperature inf: give a number of 0 or more"),
        (["--prompt", "a", "--stop", ""], "--stop '': give a text of one character or more"),
        (["--prompt", "zebra " * 64], "tokens leave no room in a context of 64; shorten it"),
        (["--prompts", "{tmp}/none"], "none: cannot be read: No such file or directory"),
        (["--prompts", "{tmp}/latin"], "latin: is not UTF-8"),
        (["--prompts", "{tmp}/a.jsonl"], "a.jsonl:2: is not JSON"),
        (["--prompts", "{tmp}/b.jsonl"], "b.jsonl:1: its field 'prompt' is no text"),
    ],
)
def test_what_a_user_did_wrong_is_said(model: Path, arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n{"prompt"\n')
    (tmp_path / "b.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(InputError) as raised:
        generate(model, *(argument.replace("{tmp}", str(tmp_path)) for argument in arguments))
    assert message in str(raised.value)


def test_a_model_that_diverged_is_named(model: Path, tmp_path: Path) -> None:
    decoder = make_decoder("gpt2", vocab_size=270, context_length=64)
    decoder.norm.bias.data.fill_(float("nan"))
    save_language_model(decoder, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    with pytest.raises(InputError, match=r"the decoder's logits are not finite; give a model whose training"):
        generate(tmp_path, "--prompt", "a")
