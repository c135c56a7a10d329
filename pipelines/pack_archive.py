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


def write_archive(members: Mapping[str, Member], path: Path, *, level: int = LEVEL) -> int:
    """`path` is an archive of the members by their names. Returns its bytes before compression. Raises OSError."""
    with (
        draft_of(path) as file,
        gzip.GzipFile("", "wb", level, file, mtime=0) as compressed,
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
        code = _kept_code(member.content, name) or _compile(content, name)
        if code is not None:
            check = UNCHECKED_HASH.to_bytes(4, "little") + importlib.util.source_hash(content)
            compiled = importlib.util.MAGIC_NUMBER + check + marshal.dumps(code, MARSHAL_VERSION)
            _add(archive, importlib.util.cache_from_source(name), Member(compiled))


def _kept_code(source: Path | bytes, name: str) -> CodeType | None:
    """What Python has kept in __pycache__ of that source, if it still holds: ten times quicker than to compile it."""
    if isinstance(source, bytes):
        return None
    try:
        kept = Path(importlib.util.cache_from_source(source)).read_bytes()
    except FileNotFoundError:
        return None
    state = source.stat()
    held_against = (int(state.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little") + state.st_size.to_bytes(4, "little")
    if kept[:16] != importlib.util.MAGIC_NUMBER + bytes(4) + held_against:
        return None
    code: CodeType = marshal.loads(kept[16:])  # noqa: S302  of this very environment
    return _named(code, name)


def _named(code: CodeType, name: str) -> CodeType:
    """The same code, of a file called `name`."""
    constants = tuple(_named(one, name) if isinstance(one, CodeType) else one for one in code.co_consts)
    return code.replace(co_filename=name, co_consts=constants)


def _compile(source: bytes, name: str) -> CodeType | None:
    """What the source means; None for one of another Python, or a template."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of others' code
        try:
            code: CodeType = compile(source, name, "exec", dont_inherit=True, optimize=0)
        except (SyntaxError, ValueError):
            return None
    return code
