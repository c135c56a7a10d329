"""`gptmill pack`: what a cluster needs to run gptmill's jobs.

A wheel of the three packages, and an archive of a whole environment: interpreter, standard library, the installed
distributions and gptmill itself. Unpacked into any folder of a Linux machine of the same architecture, bin/python runs
there, and needs the C library and libstdc++ of the machine alone (a Spark driver Java too). The same environment gives
the same bytes, so that machines can tell by the digest what they have unpacked already.

Looked at, and why not: venv-pack and venv-pack2 leave the interpreter behind and refuse editable installs; conda-pack
packs conda's environments alone; pex and shiv pack no interpreter either, or fetch one from GitHub; portable-python
compiles one for half an hour. What makes an interpreter movable is patchelf, which is used here where it must be.
"""

import hashlib
import sysconfig
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path

from gpt_core.errors import SetupError
from pipelines.pack_archive import Member, draft_of, write_archive
from pipelines.pack_distributions import SHEBANG, distribution_members, needed_distributions, own_distribution
from pipelines.pack_interpreter import interpreter_members, packages_folder
from pipelines.pack_wheel import wheel_bytes, wheel_contents

_COMMAND = SHEBANG + b"import sys\n\nfrom pipelines.cli import main\n\nsys.exit(main())\n"


@dataclass(frozen=True)
class Packed:
    """What was made."""

    wheel: Path
    archive: Path
    sha256: str  # of the archive
    archive_bytes: int
    unpacked_bytes: int
    distributions: int  # in the archive, gptmill apart


def pack(output: Path, kind: str) -> Packed:
    """Wheel and archive stand in `output`; the archive has what the jobs of this kind of cluster need.

    Raises SetupError for what this machine lacks, and where `output` cannot be written; nothing half is left there.
    """
    try:
        return _pack(output, kind)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SetupError(
            f"{error.filename or output}: {reason}; give with --output a folder that can be written and has room, and "
            "with TMPDIR one for 50 MB"
        ) from None


def _pack(output: Path, kind: str) -> Packed:
    version = own_distribution().version
    wheel = output / f"gptmill-{version}-py3-none-any.whl"
    with draft_of(wheel) as file:
        file.write(wheel_bytes(wheel_contents()))
    suffix = "" if kind == "all" else f"-{kind}"
    archive = output / f"gptmill-{version}{suffix}-{sysconfig.get_platform().replace('-', '_')}.tar.gz"
    distributions = needed_distributions(kind)
    with tempfile.TemporaryDirectory(prefix="gptmill-pack-") as scratch:
        members = environment_members(distributions.values(), Path(scratch), driver=kind == "all")
        unpacked_bytes = write_archive(members, archive)
    with archive.open("rb") as packed:
        sha256 = hashlib.file_digest(packed, "sha256").hexdigest()
    return Packed(wheel, archive, sha256, archive.stat().st_size, unpacked_bytes, len(distributions))


def environment_members(distributions: Iterable[Distribution], scratch: Path, *, driver: bool) -> dict[str, Member]:
    """All files of an environment with these distributions and gptmill; those made for it stand in `scratch`.

    For a driver it has Spark's jars and the command `gptmill` too.
    """
    members, packages = interpreter_members(scratch), packages_folder()
    for distribution in distributions:
        members |= distribution_members(distribution, packages, jars=driver)
    members |= {f"{packages}/{name}": Member(content) for name, content in wheel_contents().items()}
    if driver:
        members["bin/gptmill"] = Member(_COMMAND, executable=True)
    return members
