"""Functions that numba compiles: at their first call, once a machine and version of the sources.

numba keeps machine code by the file of a function and looks at no file of what that function calls, so that a change
of one module would leave stale code of another. The folder of the cache is therefore named by all sources of the
packages that have kernels.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import xxhash

PACKAGES = ("text", "tokenizer", "data")

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


def kernel(function: _Kernel) -> _Kernel:
    """`function` compiled by numba; it holds no lock of Python's while it runs."""
    return cast(_Kernel, numba.njit(cache=True, nogil=True)(function))


def _cache_folder() -> Path:
    """Below the user's cache where that can be written, else below the folder of temporary files."""
    here = Path(__file__)
    files = [here, *(path for name in PACKAGES for path in sorted((here.parent / name).glob("*.py")))]
    sources = b"".join(path.read_bytes() for path in files)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        home.mkdir(parents=True, exist_ok=True)
        root = home if os.access(home, os.W_OK) else Path(tempfile.gettempdir())
    except OSError:
        root = Path(tempfile.gettempdir())
    return root / f"gptmill-{os.getuid()}" / f"kernels-{xxhash.xxh3_64_hexdigest(sources)}"


if not os.environ.get("NUMBA_CACHE_DIR"):
    numba.config.CACHE_DIR = str(_cache_folder())
