"""The tokenizer beside a fine-tuned model gives transformers the sequences that the model was trained on."""

import json
from pathlib import Path

import pytest
import tokenizers
import transformers

from gpt_core.recipe import Finetune
from gpt_core.recipe import Tokenizer as Settings
from gpt_core.tasks.labelled import Row
from gpt_core.tasks.sequences import encode_rows
from gpt_core.tasks.spec import TaskSpec
from gpt_core.tasks.tokenizer import write_task_tokenizer
from gpt_core.tokenizer.existing import open_model_tokenizer
from gpt_core.tokenizer.tokenizer import Tokenizer
from gpt_core.tokenizer.train import train_tokenizer

TEXTS = ["the cat sat on the mat, the dog sat on the log", "  caf\u00e9 <|start|> <|pad|> <|endoftext|> 2001", "a"]
PAIRS = [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[0]), (TEXTS[0], TEXTS[2]), (TEXTS[0], TEXTS[0]), ("a", "b")]
NAMES = ["<|start|>", "<|delimiter|>", "<|extract|>", "<|pad|>"]


def spec_of(task: str, tokenizer: Tokenizer, *, max_tokens: int = 100) -> TaskSpec:
    settings = Finetune.model_validate({"task": task, "train": "t", "test": "t"})
    labels = ("x", "y") if task != "completion" else ()
    return TaskSpec.of_recipe(settings, labels, max_tokens=max_tokens, vocab_size=tokenizer.vocab_size)


def write_config(folder: Path, model_type: str | None) -> None:
    if model_type is not None:
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    train_tokenizer([TEXTS * 4], Settings(vocab_size=300)).save(folder)
    return folder


@pytest.mark.parametrize("max_tokens", [8, 9, 100])
@pytest.mark.parametrize("model_type", [None, "gpt2", "qwen3", "openai-gpt"])
def test_transformers_encodes_texts_and_pairs_as_the_model_was_trained(
    source: Path, tmp_path: Path, model_type: str | None, max_tokens: int
) -> None:
    ours = Tokenizer.load(source)
    single, pair = (spec_of(task, ours, max_tokens=max_tokens) for task in ("classification", "entailment"))
    write_task_tokenizer(source, tmp_path, single)
    write_config(tmp_path, model_type)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    rows = [Row("", (text,), None) for text in TEXTS]
    for text, (sequence,) in zip(TEXTS, encode_rows(rows, ours, single).sequences, strict=True):
        assert theirs(text, truncation=True)["input_ids"] == list(sequence)
    rows = [Row("", texts, None) for texts in PAIRS]
    for texts, (sequence,) in zip(PAIRS, encode_rows(rows, ours, pair).sequences, strict=True):
        assert theirs(*texts, truncation=True)["input_ids"] == list(sequence)
    assert theirs.convert_tokens_to_ids(NAMES) == list(range(ours.vocab_size, ours.vocab_size + 4))
    assert theirs(["a", "a a a"], padding=True)["input_ids"][0][-1] == theirs.pad_token_id == ours.vocab_size + 3
    assert theirs.model_max_length == max_tokens
    assert theirs.eos_token_id == ours.end_of_text_id


def test_no_text_gives_a_mark(source: Path, tmp_path: Path) -> None:
    ours = Tokenizer.load(source)
    write_task_tokenizer(source, tmp_path, spec_of("classification", ours))
    beside = Tokenizer.load(tmp_path)
    for text in TEXTS:
        assert beside.encode(text) == ours.encode(text)
        assert max(beside.encode(text)) < ours.end_of_text_id
    assert beside.end_of_text == ours.end_of_text


def test_completion_keeps_the_tokenizer(source: Path, tmp_path: Path) -> None:
    ours = Tokenizer.load(source)
    write_task_tokenizer(source, tmp_path, spec_of("completion", ours, max_tokens=12))
    assert json.loads((tmp_path / "tokenizer.json").read_bytes()) == json.loads(ours.serialized)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(TEXTS[0])["input_ids"] == ours.encode(TEXTS[0])
    assert theirs.model_max_length == 12


def test_a_mark_whose_name_the_tokenizer_has_gets_another(tmp_path: Path) -> None:
    ours = train_tokenizer([TEXTS * 4], Settings(vocab_size=300, special_tokens=("<|start|>", "<|pad|>")))
    ours.save(tmp_path / "source")
    write_task_tokenizer(tmp_path / "source", tmp_path / "made", spec_of("classification", ours))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "made")
    names = ["<<|start|>>", "<|delimiter|>", "<|extract|>", "<<|pad|>>"]
    assert theirs.convert_tokens_to_ids(names) == [300, 301, 302, 303]
    assert theirs.convert_tokens_to_ids(["<|start|>", "<|pad|>"]) == [297, 298]
    assert theirs("a")["input_ids"] == [300, *ours.encode("a"), 302]


def test_the_marks_stand_behind_gaps_and_added_tokens(tmp_path: Path) -> None:
    tree = json.loads(train_tokenizer([TEXTS * 4], Settings(vocab_size=300)).serialized)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tree["added_tokens"] = [
        {"id": 402, "content": "<think>", "special": False, **flags},
        {"id": 410, "content": "<eot>", "special": True, **flags},
    ]
    bos = {"SpecialToken": {"id": "<eot>", "type_id": 0}}
    tree["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<eot>": {"id": "<eot>", "ids": [410], "tokens": ["<eot>"]}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    ours = open_model_tokenizer(tmp_path)
    write_task_tokenizer(tmp_path, tmp_path / "made", spec_of("classification", ours))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "made")
    assert theirs("a <think>")["input_ids"] == [411, *ours.encode("a <think>"), 413]
    assert 402 in ours.encode("a <think>")
    write_task_tokenizer(tmp_path, tmp_path / "text", spec_of("completion", ours))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "text")
    assert theirs("a")["input_ids"] == ours.encode("a")  # the start token that it put there was not trained with


def test_a_tokenizer_of_pieces_gets_its_marks_too(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=60,
        special_tokens=["<unk>"],
        unk_token="<unk>",  # noqa: S106
        show_progress=False,
    )
    backend.train_from_iterator([TEXTS[0]] * 9, trainer)
    backend.add_special_tokens(["</s>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    ours = Tokenizer.load(tmp_path)
    write_task_tokenizer(tmp_path, tmp_path / "made", spec_of("classification", ours))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "made")
    size = ours.vocab_size
    assert theirs(TEXTS[0])["input_ids"] == [size, *ours.encode(TEXTS[0]), size + 2]
    assert theirs.pad_token_id == size + 3
