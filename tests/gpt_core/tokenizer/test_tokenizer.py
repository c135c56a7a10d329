"""A tokenizer loses nothing, never takes text for a mark, and means the same to transformers."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.errors import ArtifactError
from gpt_core.fingerprint import Json
from gpt_core.recipe import Tokenizer as Settings
from gpt_core.tokenizer.tokenizer import Tokenizer, copy_tokenizer
from gpt_core.tokenizer.train import train_tokenizer

TEXTS = [
    "the cat sat on the mat, the dog sat on the log",
    "caf\u00e9, na\u00efve, \u65e5\u672c\u8a9e, \U0001f600",
    "  two  spaces\n\nand <|endoftext|> and <|user|> IT'S in the text of 2001",
]


SETTINGS = {
    "gpt2": Settings(vocab_size=300),
    "cl100k": Settings(vocab_size=300, pre_tokenizer="cl100k", special_tokens=("<|user|>", "<|model|>")),
}


@pytest.fixture(scope="module", params=list(SETTINGS))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer([TEXTS * 4], SETTINGS[request.param])


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    assert [file.name for file in tokenizer.save(path)] == ["tokenizer.json", "tokenizer_config.json"]
    return path


@given(st.text())
def test_any_text_survives_the_round_trip(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert set(tokenizer.special_tokens.values()).isdisjoint(ids)


@given(st.binary())
def test_any_bytes_survive_as_byte_tokens(tokenizer: Tokenizer, value: bytes) -> None:
    id_of = {single: i for i, single in tokenizer.token_bytes.items() if len(single) == 1}
    assert sorted(id_of.values()) == list(range(256))
    assert tokenizer.decode_bytes([id_of[bytes([byte])] for byte in value]) == value


@given(st.text(), st.integers(0, 40))
def test_ids_cut_anywhere_decode_to_the_same_bytes_when_joined(tokenizer: Tokenizer, text: str, cut: int) -> None:
    ids = [*tokenizer.encode(text), tokenizer.end_of_text_id]
    parts = tokenizer.decode_bytes(ids[:cut]), tokenizer.decode_bytes(ids[cut:])
    assert b"".join(parts) == text.encode() + b"<|endoftext|>"


def test_a_window_that_cuts_a_character_keeps_its_bytes(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("\u65e5")
    assert len(ids) == 3
    assert [tokenizer.decode_bytes([i]) for i in ids] == [b"\xe6", b"\x97", b"\xa5"]
    assert tokenizer.decode(ids[:1]) == "\ufffd"


def test_a_literal_mark_in_a_text_is_ordinary_text(tokenizer: Tokenizer) -> None:
    for mark in tokenizer.special_tokens:
        ids = tokenizer.encode(f"a{mark}b")
        assert set(tokenizer.special_tokens.values()).isdisjoint(ids)
        assert len(ids) > 3
        assert tokenizer.decode(ids) == f"a{mark}b"


def test_ids_are_the_256_bytes_then_the_merges_then_the_mark(tokenizer: Tokenizer) -> None:
    single = {i for i in range(256) for byte in [tokenizer.decode([i])] if len(byte) == 1}
    assert len(single) == 256
    assert len(tokenizer.decode([256])) == 2
    assert tokenizer.vocab_size == 300
    assert tokenizer.end_of_text_id == 299
    assert tokenizer.decode([299]) == "<|endoftext|>"
    assert tokenizer.end_of_text == "<|endoftext|>"


def test_ids_beyond_the_vocabulary_decode_to_nothing(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([*tokenizer.encode("cat"), 300, 383]) == "cat"
    assert tokenizer.decode_bytes([*tokenizer.encode("cat"), 300, 383]) == b"cat"


def test_a_batch_is_its_texts_one_by_one(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_batch(TEXTS) == [tokenizer.encode(text) for text in TEXTS]


def test_a_loaded_tokenizer_is_the_saved_one(tokenizer: Tokenizer, folder: Path) -> None:
    for path in (folder, folder / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert loaded.digest == tokenizer.digest
        assert loaded.encode(TEXTS[2]) == tokenizer.encode(TEXTS[2])
        assert (loaded.vocab_size, loaded.end_of_text_id) == (300, 299)
    assert tokenizer.digest == hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: cannot be read: No such file"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_a_malformed_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: is not a tokenizer: "):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_without_a_mark_is_refused(folder: Path, tmp_path: Path) -> None:
    tree = json.loads((folder / "tokenizer.json").read_text())
    tree["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    told = r"has 0 special tokens, not one for the end of text, and no tokenizer_config\.json beside it names one"
    with pytest.raises(ArtifactError, match=told):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: has no special token '</s>'; it has none"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("eos_token", ["<|model|>", {"content": "<|model|>", "lstrip": False}])
def test_the_end_of_text_is_the_eos_token_of_the_config_beside(eos_token: Json, tmp_path: Path) -> None:
    train_tokenizer([TEXTS], SETTINGS["cl100k"]).save(tmp_path)
    assert Tokenizer.load(tmp_path / "tokenizer.json").end_of_text == "<|endoftext|>"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos_token}))
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.end_of_text, loaded.end_of_text_id) == ("<|model|>", loaded.special_tokens["<|model|>"])


def test_a_malformed_config_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"tokenizer_config\.json: is not JSON: "):
        Tokenizer.load(tmp_path)


def gpt2_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')


def qwen3_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}')


def no_config(folder: Path) -> None:
    assert not (folder / "config.json").exists()


@pytest.mark.parametrize("beside", [no_config, gpt2_config, qwen3_config])
def test_transformers_gives_the_same_ids(tokenizer: Tokenizer, folder: Path, tmp_path: Path, beside) -> None:
    copy_tokenizer(folder, tmp_path, model_max_length=16)
    beside(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(TEXTS[1])) == TEXTS[1]
    assert theirs.eos_token_id == theirs.pad_token_id == theirs.bos_token_id == 299
    assert len(theirs) == 300
    assert theirs.model_max_length == 16


def test_a_copy_is_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    paths = copy_tokenizer(folder, tmp_path / "model")
    assert [path.read_bytes() for path in paths] == [(folder / path.name).read_bytes() for path in paths]
