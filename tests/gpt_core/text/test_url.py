"""Blocked URLs."""

from pathlib import Path

import pytest

from gpt_core.errors import InputError
from gpt_core.recipe import UrlRules
from gpt_core.text.url import UrlJudge


def reason(url: str | None, **rules: object) -> str | None:
    rejection = UrlJudge(UrlRules.model_validate(rules)).judge(url)
    return rejection and rejection.reason


@pytest.mark.parametrize(
    "url",
    [
        "https://bad.example/x",
        "http://user:secret@www.BAD.example:8080/",
        "bad.example",
        "//a.b.bad.example/path",
        "https://b\xfccher.example/",
        "https://xn--bcher-kva.example",
    ],
)
def test_a_domain_blocks_itself_and_what_is_below_it(url: str) -> None:
    assert reason(url, domains=("bad.example", "b\xfccher.example")) == "url.domains"


@pytest.mark.parametrize("url", ["https://notbad.example/bad.example", "https://example/", None, "", "http://[broken"])
def test_other_urls_and_none_pass(url: str | None) -> None:
    assert reason(url, domains=("bad.example",)) is None


def test_words_are_whole_words_of_the_url() -> None:
    assert reason("https://x.example/Casino-online", words=("casino",)) == "url.words"
    assert reason("https://x.example/occasinoal", words=("casino",)) is None


def test_soft_words_block_together() -> None:
    rules = {"soft_words": ("free", "win"), "max_soft_words": 1}
    assert reason("https://x.example/free", **rules) is None
    assert reason("https://x.example/free/win", **rules) == "url.soft_words"


def test_domains_are_read_from_files_of_either_form(tmp_path: Path) -> None:
    path = tmp_path / "domains.txt"
    path.write_text("# blocked\n\none.example  # why\n0.0.0.0 two.example\n")
    for name in ("one", "two"):
        assert reason(f"https://{name}.example", domain_files=(str(path),)) == "url.domains"


def test_a_missing_file_is_named_with_its_field() -> None:
    with pytest.raises(InputError, match=r"clean\.url\.domain_files\.0: gone\.txt cannot be read"):
        UrlJudge(UrlRules(domain_files=("gone.txt",)))
