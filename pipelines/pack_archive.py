"""A tar.gz of files from anywhere: the same files give the same bytes.

Members stand in the order of their names, owned by root, dated 1980, readable by all. Beside each Python source stands
what it compiles to, marked as not to be held against the source's date; nothing in it depends on where or when it was
compiled. Compression is zlib's quickest: packing takes a minute rather than ten, and gains half of what the slowest
would.
"""

import gzip
import importlib.util
import io
import marshal
import os
import tarfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import BinaryIO

DATE = 315532800  # 1980-01-01, the first that a zip can tell
LEVEL = 1
MARSHAL_VERSION = 2  # later ones tell how often an object was referred to when it was written
UNCHECKED_HASH = 0b01


@dataclass(frozen=True)
class Member:
    """A file of an archive: another file, or what it holds; or with `link` a symbolic link."""

    content: Path | bytes = b""
    executable: bool = False
    link: str = ""


@contextmanager
def draft_of(path: Path) -> Iterator[BinaryIO]:
    """What the block writes is `path` once it ends well; else nothing is left. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("xb") as file:
            yield file
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_archive(members: Mapping[str, Member], path: Path) -> int:
    """`path` is an archive of the members by their names. Returns its bytes before compression. Raises OSError."""
    with (
        draft_of(path) as file,
        gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name in sorted(members):
            _add(archive, name, members[name])
        return archive.offset


def _add(archive: tarfile.TarFile, name: str, member: Member) -> None:
    entry = tarfile.TarInfo(name)
    entry.mtime = DATE
    entry.mode = 0o755 if member.executable else 0o644
    if member.link:
        entry.type, entry.linkname = tarfile.SYMTYPE, member.link
        archive.addfile(entry)
        return
    if isinstance(member.content, Path) and not name.endswith(".py"):
        with member.content.open("rb") as file:
            entry.size = os.fstat(file.fileno()).st_size
            archive.addfile(entry, file)
        return
    content = member.content.read_bytes() if isinstance(member.content, Path) else member.content
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
    if name.endswith(".py"):
        compiled = _compile(content, name)
        if compiled is not None:
            _add(archive, importlib.util.cache_from_source(name), Member(compiled))


def _compile(source: bytes, name: str) -> bytes | None:
    """What Python keeps in __pycache__ of that source; None for one of another Python, or a template."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of others' code
        try:
            code: CodeType = compile(source, name, "exec", dont_inherit=True, optimize=0)
        except (SyntaxError, ValueError):
            return None
    header = importlib.util.MAGIC_NUMBER + UNCHECKED_HASH.to_bytes(4, "little") + importlib.util.source_hash(source)
    return header + marshal.dumps(code, MARSHAL_VERSION)
