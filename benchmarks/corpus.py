"""Real text for the benchmarks, fetched at measuring time and kept outside the repository.

    python benchmarks/corpus.py [MEGABYTES]

Debian's documentation: pages of HTML turned to main text by resiliparse, manual pages and books in plain text; and
data/demo. Needs apt-get and dpkg-deb (Debian or Ubuntu), 350 MB of downloads and five minutes at the first call.
Documents are passages of 1 to 30 kB, cut at the borders of paragraphs, and normalized, so that every peer reads one
spelling. No two have the same text; many are near-duplicates, as the pages of one manual are. Given the same versions
of the packages, the same documents come out.
"""

import gzip
import io
import json
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import xxhash
from peers import CACHE
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding
from resiliparse.parse.html import HTMLTree

from gpt_core.text.normalize import normalize

REVISION = 1  # raised by hand when other text comes out of the same packages
DEMO = Path(__file__).parents[1] / "data/demo"
DEMO_FILES = ("novels", "speeches", "encyclopedia")
LEAST_BYTES, PASSAGE_BYTES, MOST_BYTES, FILE_BYTES = 1_000, 8_000, 30_000, 16 << 20
# Patterns, because some names hold a version; of several names that fit the greatest is taken.
PACKAGES = (
    r"linux-doc-[0-9.]+",
    r"python3\.[0-9]+-doc",
    r"rust-doc",
    r"postgresql-doc-[0-9]+",
    r"openjdk-[0-9]+-doc",
    r"libboost[0-9.]+-doc",
    r"llvm-[0-9]+-doc",
    r"erlang-doc",
    r"ghc-doc",
    r"qtbase5-doc-html",
    r"python-pandas-doc",
    r"python-django-doc",
    r"sqlite3-doc",
    r"apache2-doc",
    r"nodejs-doc",
    r"perl-doc",
    r"git-doc",
    r"gap-doc",
    r"vim-doc",
    r"zsh-doc",
    r"debian-handbook",
    r"debian-policy",
    r"installation-guide-amd64",
    r"libreoffice-help-(en-us|de|fr)",
    r"anarchism",
    r"dict-gcide",
    r"manpages(-dev|-de|-fr|-es|-pl|-ru|-it)?",
    r"freebsd-manpages",
)
_SEVERAL = ("libreoffice-help", "manpages")  # patterns that mean every name that fits
_HTML = re.compile(r"\.x?html?(\.gz)?$")
_MANUAL = re.compile(r"/man[1-9]/[^/]+\.[1-9][a-z]*(\.gz)?$")
_PLAIN = re.compile(r"/(usr/share/vim/vim[0-9]+/doc/.*|usr/share/doc/.*\.(txt|text)|.*\.(pod|dict\.dz))(\.gz)?$")
_NO_TEXT = re.compile(
    r"(^|/)(genindex|search|searchindex|_sources|_modules|src|class-use)(-[^/]*)?(/|\.html)|changelog"
)
_PARAGRAPHS = re.compile(r"\n\s*\n")
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
    files = [_extract(path) for path in fetch()] + [_cut_demo(name) for name in DEMO_FILES]
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
    if not found:
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
        _write(path, package.name.partition("_")[0], read_package(package))
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
    command = ["dpkg-deb", "--fsys-tarfile", str(path)]
    package, texts = path.name.partition("_")[0], []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as unpacked:
        assert unpacked.stdout is not None, "it was asked for"
        with tarfile.open(fileobj=unpacked.stdout, mode="r|") as tar:
            for member in tar:
                if not member.isfile() or not (read := _reader(member.name)):
                    continue
                file = tar.extractfile(member)
                assert file is not None, "it is a file"
                body = file.read()
                if member.name.endswith((".gz", ".dz")):
                    body = gzip.GzipFile(fileobj=io.BytesIO(body)).read()
                texts.append((member.name.removeprefix("./usr/share/"), read(body)))
    return [
        (f"{package}/{name}#{number}", passage)
        for name, text in sorted(texts)
        for number, passage in enumerate(cut(text))
    ]


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
    text = normalize(text)
    if len(text.encode()) <= MOST_BYTES:
        yield from _long_enough([text])
        return
    passage: list[str] = []
    size = 0
    for paragraph in _pieces(text):
        length = len(paragraph.encode()) + 2
        if size >= PASSAGE_BYTES or size + length > MOST_BYTES:
            yield from _long_enough(passage)
            passage, size = [], 0
        passage.append(paragraph)
        size += length
    yield from _long_enough(passage)


def _pieces(text: str) -> Iterator[str]:
    """Paragraphs; the lines of those that are no documents by themselves."""
    for paragraph in _PARAGRAPHS.split(text):
        if len(paragraph.encode()) < MOST_BYTES:
            yield paragraph
        else:
            yield from (line for line in paragraph.split("\n") if len(line.encode()) < MOST_BYTES)


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
