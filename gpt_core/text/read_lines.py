"""Lines of plain and compressed files, with where each stands. Memory: one line, of at most the bytes asked for."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import zstandard


def read_lines(
    path: str, start: int, stop: int | None, max_bytes: int, *, name: str, whole: bool = False
) -> Iterator[tuple[str, bytes | str]]:
    """(place, line) of every line that begins at bytes start to stop; instead of a line, why it cannot be read.

    The place is `name:line`, or `name byte N` where the piece does not begin the file. `whole`: the file is one line.
    """
    with _open(path) as stream:
        try:
            if start:
                stream.seek(start - 1)  # a line that begins here is ours: skip to the end of the one before
                _skip_line(stream)
            line, at = 0, stream.tell() if stop is not None else 0
            while stop is None or at < stop:
                raw = stream.read(max_bytes + 1) if whole else stream.readline(max_bytes + 1)
                if not raw:
                    return
                line += 1
                place = name if whole else f"{name}:{line}" if start == 0 else f"{name} byte {at}"
                if len(raw) > max_bytes:
                    if whole:
                        yield place, f"the file has more than {max_bytes} bytes (corpus.max_record_bytes)"
                        return
                    yield place, f"the line has more than {max_bytes} bytes (corpus.max_record_bytes)"
                    if not raw.endswith(b"\n"):
                        _skip_line(stream)
                else:
                    yield place, raw
                if stop is not None:
                    at = stream.tell()
        except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
            kind = "zstd" if path.endswith(".zst") else "gzip"
            yield f"{name}:{line + 1}", f"the {kind} stream breaks off here ({error}); later lines are lost"


def _skip_line(stream: BinaryIO) -> None:
    while (raw := stream.readline(1 << 20)) and not raw.endswith(b"\n"):
        pass


def _open(path: str) -> BinaryIO:
    if path.endswith(".gz"):
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.endswith(".zst"):
        return cast(BinaryIO, _WholeZstd(path))
    return Path(path).open("rb")


class _WholeZstd:
    """A zstd file that raises EOFError where it is cut off, as gzip does; zstandard itself ends in silence."""

    def __init__(self, path: str) -> None:
        self.file = Path(path).open("rb")  # noqa: SIM115  __exit__ closes it
        self.decoder = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(read_across_frames=False)
        self.held = b""

    def readline(self, limit: int) -> bytes:
        """The next line, or its first `limit` bytes."""
        searched = 0
        while True:
            end = self.held.find(b"\n", searched)
            if end >= 0 or len(self.held) >= limit:
                return self._take(min(end + 1 if end >= 0 else limit, limit))
            searched = len(self.held)
            if not self._fill():
                return self._take(limit)

    def read(self, limit: int) -> bytes:
        """The next `limit` bytes."""
        while len(self.held) < limit and self._fill():
            pass
        return self._take(limit)

    def _take(self, size: int) -> bytes:
        taken, self.held = self.held[:size], self.held[size:]
        return taken

    def _fill(self) -> bool:
        raw = self.file.read(1 << 17)
        if self.decoder.eof:
            raw = self.decoder.unused_data + raw
            if not raw:
                return False
            self.decoder = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(read_across_frames=False)
        elif not raw:
            if self.file.tell():
                raise EOFError("the last frame is not whole")
            return False
        self.held += self.decoder.decompress(raw)
        return True

    def __enter__(self) -> "_WholeZstd":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
