"""Machines that lack what this one has: mount namespaces of this one, in which it is hidden."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# An empty folder stands in place of every argument up to "--"; then the command runs.
_HIDE = """
set -e
until [ "$1" = -- ]; do mount -t tmpfs -o size=1m none "$1"; shift; done
shift
exec "$@"
"""
# The command runs with a disk of so many bytes in place of a folder; then what stands there is listed.
_SMALL_DISK = """
mount -t tmpfs -o "size=$1" none "$2" && folder=$2 && shift 2 || exit 1
"$@"
code=$?
ls -A "$folder"
exit "$code"
"""
# The command runs in a new root that holds /proc, two devices, and the files and folders up to "--".
_NEW_ROOT = """
set -e
root=$1; shift
mount -t tmpfs none "$root"
mkdir -p "$root/proc" "$root/dev" "$root/tmp"
mount -t proc none "$root/proc"
for device in null urandom; do touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"; done
until [ "$1" = -- ]; do
  mkdir -p "$root${1%/*}"
  if [ -d "$1" ]; then mkdir -p "$root$1"; mount --bind "$1" "$root$1"; else cp -L "$1" "$root$1"; fi
  shift
done
shift
exec chroot "$root" "$@"
"""
# What PEP 600 lets a wheel rely on: the C library with its loader, libstdc++ and libgcc.
_C_LIBRARY = re.compile(
    r"\s(?:ld-linux-\S+|lib(?:c|m|pthread|dl|rt|util|resolv|gcc_s|stdc\+\+))\.so\.\d \(.*(?:x86-64|AArch64).* => (/\S+)"
)


def require_namespaces() -> None:
    """The test is skipped where this machine or this user has no mount namespaces."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a machine without Python needs root and unshare for mount namespaces")
    tried = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    done = subprocess.run(tried, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")


def without_python(command: Sequence[str | Path], environment: Mapping[str, str]) -> list[str]:
    """The command on a machine without this Python, its packages, the system's Python and the checkout.

    Of this process's environment it has nothing but what is given.
    """
    system = [path for folder in ("/usr/lib", "/usr/local/lib") for path in Path(folder).glob("python3*")]
    given = {Path(sys.prefix), Path(sys.base_prefix), ROOT, *system} - {Path("/usr"), Path("/usr/local")}
    hidden = [str(path) for path in given if not any(other in path.parents for other in given)]
    variables = [f"{name}={value}" for name, value in environment.items()]
    clean = ["env", "-i", *variables, *map(str, command)]
    return ["unshare", "--mount", "sh", "-c", _HIDE, "hide", *hidden, "--", *clean]


def with_c_library_alone(command: Sequence[str | Path], root: Path, folders: Sequence[Path]) -> list[str]:
    """The command on a machine with the C library and libstdc++, these folders, and not even a shell.

    `root` is an empty folder.
    """
    root.mkdir()
    known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    libraries = [*_C_LIBRARY.findall(known), *map(str, Path("/lib64").glob("ld-linux-*"))]
    clean = ["env", "-i", "unshare", "--mount", "sh", "-c", _NEW_ROOT, "new-root", str(root)]
    return [*clean, *map(str, folders), *libraries, "--", *map(str, command)]


def with_small_disk(command: Sequence[str | Path], folder: Path, size_bytes: int) -> list[str]:
    """The command on a machine where `folder` is a disk of that size; what it left there is named at stdout's end."""
    return ["unshare", "--mount", "sh", "-c", _SMALL_DISK, "disk", str(size_bytes), str(folder), *map(str, command)]
