"""Blocked URLs: Penedo et al. 2024 (FineWeb), section 3.2; what is blocked stands in the recipe."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from gpt_core.errors import InputError
from gpt_core.recipe import UrlRules
from gpt_core.text.document import Rejection

_WORD_BREAK = re.compile(r"[^a-z0-9]+")
_HAS_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class UrlJudge:
    """The blocked domains and words, read. Raises InputError for a domain file that cannot be read."""

    def __init__(self, rules: UrlRules) -> None:
        domains = [*rules.domains, *(domain for i, path in enumerate(rules.domain_files) for domain in _read(path, i))]
        self.domains = frozenset(_ascii(domain.lower().strip(".")) for domain in domains)
        self.words = frozenset(word.lower() for word in rules.words)
        self.soft_words = frozenset(word.lower() for word in rules.soft_words)
        self.max_soft_words = rules.max_soft_words

    def judge(self, url: str | None) -> Rejection | None:
        """None, or why the URL is blocked; a document without one passes."""
        if not url:
            return None
        blocked = self._blocked_domain(url)
        if blocked is not None:
            return Rejection("url.domains", f"{blocked} is blocked")
        found = set(_WORD_BREAK.split(url.lower()))
        hard = sorted(found & self.words)
        if hard:
            return Rejection("url.words", f"has the word {hard[0]}")
        soft = sorted(found & self.soft_words)
        if len(soft) > self.max_soft_words:
            return Rejection("url.soft_words", f"{len(soft)} soft words > {self.max_soft_words}: {', '.join(soft)}")
        return None

    def _blocked_domain(self, url: str) -> str | None:
        try:
            host = urlsplit(url if _HAS_SCHEME.match(url) else f"//{url.lstrip('/')}").hostname or ""
        except ValueError:  # a broken IPv6 address: no domain
            return None
        labels = _ascii(host.strip(".")).split(".")
        names = (".".join(labels[i:]) for i in range(len(labels)))
        return next((name for name in names if name in self.domains), None)


def _read(path: str, number: int) -> Iterator[str]:
    """The domains of a file: one a line, after an address as in a hosts file or alone; # begins a comment."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"clean.url.domain_files.{number}: {path} cannot be read ({error}); give a text file with a domain a line"
        ) from None
    for line in lines:
        words = line.partition("#")[0].split()
        if words:
            yield words[-1]


def _ascii(domain: str) -> str:
    if domain.isascii():
        return domain
    try:
        return domain.encode("idna").decode()
    except UnicodeError:
        return domain
