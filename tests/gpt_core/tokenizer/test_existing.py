"""An existing tokenizer keeps its ids, loses nothing, and means the same to transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.errors import InputError
from gpt_core.model.config import pad_vocabulary
from gpt_core.recipe import Tokenizer as Settings
from gpt_core.tokenizer.existing import adopt_tokenizer, open_model_tokenizer
from gpt_core.tokenizer.files import existing_files, model_tokenizer_files
from gpt_core.tokenizer.tokenizer import Tokenizer, copy_tokenizer
from gpt_core.tokenizer.train import train_tokenizer

TEXTS = ["the cat sat on the mat, the dog sat on the log", "  caf\u00e9 \u65e5\u672c\n <think> hm <eot> </s> 2001"]
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
ADDED = [
    {"id": 400, "content": "<s>", "special": True, **FLAGS},
    {"id": 402, "content": "<think>", "special": False, **FLAGS},
    {"id": 410, "content": "<eot>", "special": True, **FLAGS},
]
START = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [400], "tokens": ["<s>"]}},
}
CUT = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}


def write_tree(folder: Path, **changes: Any) -> Path:
    """A tokenizer.json as others make them: gaps between its ids, a start token, a limit of length."""
    tree = json.loads(train_tokenizer([TEXTS * 4], Settings(vocab_size=300)).serialized)
    tree.update({"added_tokens": ADDED, "post_processor": START, "truncation": CUT, **changes})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")
    return folder


def write_pair(folder: Path, *odd: str) -> Path:
    """vocab.json and merges.txt as GPT-2's were published, `odd` behind the merges."""
    model = json.loads(train_tokenizer([TEXTS * 4], Settings(vocab_size=300)).serialized)["model"]
    vocabulary = model["vocab"] | {token: len(model["vocab"]) + i for i, token in enumerate(odd)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def tokenizer(source: Path) -> Tokenizer:
    return adopt_tokenizer(source, end_of_text="<eot>")


def test_ids_are_those_of_the_file_gaps_and_all(tokenizer: Tokenizer) -> None:
    assert tokenizer.special_tokens == {"<s>": 400, "<eot>": 410}
    assert (tokenizer.end_of_text, tokenizer.end_of_text_id, tokenizer.vocab_size) == ("<eot>", 410, 411)
    learned = train_tokenizer([TEXTS * 4], Settings(vocab_size=300))
    assert tokenizer.encode(TEXTS[0]) == learned.encode(TEXTS[0])
    assert tokenizer.decode([400, 401, 402, 409, 410, 411]) == "<s><think><eot>"
    assert tokenizer.decode_bytes([400, 401, 402, 409, 410, 411]) == b"<s><think><eot>"


def test_nothing_is_added_and_nothing_cut(tokenizer: Tokenizer) -> None:
    tree = json.loads(tokenizer.serialized)
    assert (tree["post_processor"], tree["truncation"], tree["padding"]) == (None, None, None)
    assert len(tokenizer.encode(TEXTS[0])) > 4


def test_dropout_of_merges_is_switched_off(tmp_path: Path) -> None:
    tree = json.loads((write_tree(tmp_path) / "tokenizer.json").read_bytes())
    model = tree["model"] | {"dropout": 0.9}
    tokenizer = adopt_tokenizer(write_tree(tmp_path, model=model), end_of_text="<eot>")
    assert {tuple(tokenizer.encode(TEXTS[0])) for _ in range(20)} == {tuple(tokenizer.encode(TEXTS[0]))}


@given(st.lists(st.text(max_size=5) | st.sampled_from(["<s>", "<eot>", "<think>", "<"])).map("".join))
def test_a_text_gives_an_added_token_that_is_not_special_and_never_a_special_one(
    tokenizer: Tokenizer, text: str
) -> None:
    ids = tokenizer.encode(text)
    assert ids.count(402) == text.count("<think>")
    assert {400, 410}.isdisjoint(ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()


def test_a_loaded_folder_knows_its_end_of_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.digest, loaded.end_of_text, loaded.vocab_size) == (tokenizer.digest, "<eot>", 411)
    assert loaded.encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])


@pytest.mark.parametrize("model_type", [None, "gpt2", "qwen3"])
def test_transformers_gives_the_same_ids(tokenizer: Tokenizer, tmp_path: Path, model_type: str | None) -> None:
    tokenizer.save(tmp_path / "stage")
    copy_tokenizer(tmp_path / "stage", tmp_path / "model", model_max_length=16)
    if model_type is not None:
        (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    for text in TEXTS:
        assert theirs(text)["input_ids"] == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
    assert (theirs.eos_token_id, theirs.model_max_length) == (410, 16)


def test_a_vocabulary_that_ends_at_a_multiple_of_128_gets_128_rows_more() -> None:
    assert [pad_vocabulary(size) for size in (256, 383, 384, 50_257, 100_277)] == [384, 384, 512, 50_304, 100_352]


def test_gpt2s_two_files_are_a_tokenizer(tmp_path: Path) -> None:
    tokenizer = adopt_tokenizer(write_pair(tmp_path, "<|endoftext|>"), end_of_text="<|endoftext|>")
    learned = train_tokenizer([TEXTS * 4], Settings(vocab_size=300))
    assert tokenizer.special_tokens == learned.special_tokens
    assert tokenizer.vocabulary == learned.vocabulary
    for text in [*TEXTS, "a<|endoftext|>b IT'S"]:
        assert tokenizer.encode(text) == learned.encode(text)
    slow = transformers.GPT2Tokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert slow(TEXTS[0])["input_ids"] == tokenizer.encode(TEXTS[0])


def test_entries_that_no_merge_makes_are_special_tokens(tmp_path: Path) -> None:
    tokenizer = adopt_tokenizer(write_pair(tmp_path, "<pad>", "</s>"), end_of_text="</s>")
    first = len(tokenizer.vocabulary) - 2
    assert tokenizer.special_tokens == {"<pad>": first, "</s>": first + 1}
    assert {first, first + 1}.isdisjoint(tokenizer.encode("a</s><pad>"))


def write_unigram(folder: Path, *special: str) -> Path:
    """A tokenizer in the manner of SentencePiece: a list of pieces, `special` among them; </s> stands apart."""
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=60,
        special_tokens=["<unk>", *special],
        unk_token="<unk>",  # noqa: S106
        show_progress=False,
    )
    backend.train_from_iterator([TEXTS[0]] * 9, trainer)
    backend.add_special_tokens(["</s>"])
    backend.save(str(folder / "tokenizer.json"))
    return folder


def test_a_tokenizer_that_is_not_byte_level_serves_where_it_loses_nothing(tmp_path: Path) -> None:
    tokenizer = adopt_tokenizer(write_unigram(tmp_path), end_of_text="</s>")
    assert not tokenizer.is_byte_level
    ids = tokenizer.encode(TEXTS[0])
    assert tokenizer.decode(ids) == TEXTS[0]
    assert tokenizer.decode_bytes(ids) == TEXTS[0].encode()


def test_a_folder_holds_a_tokenizer_json_or_the_pair(tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "pair")
    assert existing_files(pair) == [pair / "vocab.json", pair / "merges.txt"]
    assert existing_files(write_tree(pair)) == [pair / "tokenizer.json"]
    assert existing_files(pair / "vocab.json") == [pair / "vocab.json"]
    assert existing_files(tmp_path) == [tmp_path / "tokenizer.json"]
    (pair / "tokenizer.json").unlink()
    (pair / "merges.txt").unlink()
    with pytest.raises(
        InputError, match=r"tokenizer\.path: .*merges\.txt: no such file or directory; give a tokenizer"
    ):
        adopt_tokenizer(pair, end_of_text="<eot>")


def refused(path: Path, message: str, *, end_of_text: str = "<eot>") -> None:
    with pytest.raises(InputError, match=message) as caught:
        adopt_tokenizer(path, end_of_text=end_of_text)
    assert "make it again" not in str(caught.value)


def test_what_is_no_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    refused(tmp_path, r"tokenizer\.path: .*/tokenizer\.json: no such file or directory; give a tokenizer\.json of")
    file = tmp_path / "tokenizer.json"
    file.write_text("{")
    refused(file, r"tokenizer\.path: .*/tokenizer\.json: is not JSON: .*; give a tokenizer\.json of Hugging Face's")
    file.write_text('{"version": "1.0"}')
    refused(file, r"tokenizer\.json: is not a tokenizer: it has no model; give a")
    refused(write_tree(tmp_path, decoder={"type": "Unheard"}), r"tokenizer\.path: .*: is not a tokenizer: .*; give a")
    pair = write_pair(tmp_path / "pair")
    (pair / "merges.txt").write_text("#version: 0.2\nno such\n")
    refused(pair, r"tokenizer\.path: .*/pair: is not a tokenizer: .*; give a")


def test_an_end_of_text_that_it_does_not_have_is_refused_with_those_it_has(tmp_path: Path) -> None:
    told = r"tokenizer\.path: .*: has no special token '{}'; it has '<s>', '<eot>'; name one in tokenizer\.end_of_text"
    for absent in ("</s>", "<think>", "the"):
        refused(write_tree(tmp_path), told.format(absent), end_of_text=absent)


def test_a_special_token_that_a_text_gives_is_refused(tmp_path: Path) -> None:
    tree = json.loads((write_tree(tmp_path) / "tokenizer.json").read_bytes())
    made = next(token for token, i in tree["model"]["vocab"].items() if i == 256)
    special = {"id": 256, "content": made, "special": True, **FLAGS}
    told = f"tokenizer\\.path: .*: a text that spells '{made}' gives that special token; take a tokenizer whose"
    refused(write_tree(tmp_path, added_tokens=[*ADDED, special]), told)
    for mark in ("<unk>", "<pad>"):
        told = f"a text that spells '{mark}' gives that special token"
        refused(write_unigram(tmp_path, "<pad>"), told, end_of_text=mark)


def test_two_tokens_with_one_id_are_refused(tmp_path: Path) -> None:
    twin = {"id": 410, "content": "<twin>", "special": True, **FLAGS}
    refused(
        write_tree(tmp_path, added_tokens=[*ADDED, twin]), r"tokenizer\.path: .*: gives two tokens the same id; give"
    )


def test_a_models_end_of_text_is_found_wherever_its_folder_names_it(tmp_path: Path) -> None:
    folder = write_tree(tmp_path)
    told = r"finetune\.model: .* has 2 special tokens, not one for the end of text, and .*; name its end of text as eos"
    with pytest.raises(InputError, match=told):
        open_model_tokenizer(folder, field="finetune.model")
    ids = {"eos_token_id": [410, 400]}
    for name, fields, end in (  # each goes before those above
        ("config.json", {"eos_token_id": 400}, "<s>"),
        ("config.json", ids, "<eot>"),
        ("special_tokens_map.json", {"eos_token": {"content": "<s>"}}, "<s>"),
        ("tokenizer_config.json", {"eos_token": "<eot>"}, "<eot>"),
    ):
        (folder / name).write_text(json.dumps(fields))
        assert open_model_tokenizer(folder).end_of_text == end
    names = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
    assert model_tokenizer_files(folder) == [folder / name for name in names]
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    with pytest.raises(InputError, match=r": has no special token '</s>'; it has '<s>', '<eot>'; name its end"):
        open_model_tokenizer(folder)


def test_gpt2s_published_files_say_their_end_of_text(tmp_path: Path) -> None:
    """Two files, or tokenizer.json beside them, and its id in config.json: no file names the token."""
    pair = write_pair(tmp_path / "pair", "<|endoftext|>")
    learned = train_tokenizer([TEXTS * 4], Settings(vocab_size=300))
    (pair / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    (pair / "config.json").write_text(json.dumps({"eos_token_id": learned.end_of_text_id}))
    found = open_model_tokenizer(pair)
    assert (found.end_of_text, found.end_of_text_id) == ("<|endoftext|>", learned.end_of_text_id)
    assert found.encode(TEXTS[0]) == learned.encode(TEXTS[0])
    assert model_tokenizer_files(pair) == [pair / "vocab.json", pair / "merges.txt", pair / "tokenizer_config.json"]
    (pair / "tokenizer.json").write_bytes(learned.serialized)
    assert open_model_tokenizer(pair).digest == learned.digest
