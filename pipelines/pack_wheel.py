"""gptmill's own wheel, made of the code that runs here and of what its installation says about it (PEP 427).

No build backend and no network: a checkout, installed editable, and an installed wheel give the same files.
"""

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping

from pipelines.pack_distributions import PACKAGES, ROOT, own_distribution

_TOLD_ANEW = frozenset(
    {"RECORD", "WHEEL", "INSTALLER", "REQUESTED", "direct_url.json", "uv_build.json", "uv_cache.json"}
)
_DATE = (1980, 1, 1, 0, 0, 0)
_SUFFIXES = frozenset({".py", ".html", ".css", ".js"})


def wheel_contents() -> dict[str, bytes]:
    """All files of gptmill by their names in a wheel or a folder of packages. Raises SetupError if not installed."""
    distribution = own_distribution()
    contents = {
        str(path.relative_to(ROOT)): path.read_bytes()
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*"))
        if path.suffix in _SUFFIXES
    }
    info = f"gptmill-{distribution.version}.dist-info"
    for file in distribution.files or ():
        if file.parts[0].endswith(".dist-info") and file.name not in _TOLD_ANEW:
            contents["/".join([info, *file.parts[1:]])] = file.read_binary()
    contents[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: gptmill\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    contents[f"{info}/RECORD"] = _record(contents, f"{info}/RECORD")
    return contents


def wheel_bytes(contents: Mapping[str, bytes]) -> bytes:
    """The wheel that holds these files: the same bytes for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in contents:
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, contents[name])
    return buffer.getvalue()


def _record(contents: Mapping[str, bytes], own_name: str) -> bytes:
    lines = []
    for name, content in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}")
    return "\n".join([*lines, f"{own_name},,", ""]).encode()
