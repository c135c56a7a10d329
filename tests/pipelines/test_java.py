"""Without a fit Java nothing starts, and the user hears how to get one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import java

SCRIPT = Path(java.__file__)


def place_java(folder: Path, *, prints: str, code: int = 0) -> Path:
    java_path = folder / "bin" / "java"
    java_path.parent.mkdir(parents=True)
    java_path.write_text(f"#!/bin/sh\necho '{prints}' >&2\nexit {code}\n")
    java_path.chmod(0o755)
    return folder


def ask(**environment: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if name not in ("JAVA_HOME", "PATH")}
    command = [sys.executable, str(SCRIPT)]
    return subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "version", ['openjdk version "17.0.15" 2025', 'openjdk version "21" 2023', 'java version "26-ea"']
)
def test_java_17_and_newer_is_fit(tmp_path: Path, version: str) -> None:
    home = place_java(tmp_path, prints=version)
    assert ask(PATH="/usr/bin:/bin", JAVA_HOME=str(home)).returncode == 0


@pytest.mark.parametrize(("version", "major"), [('java version "1.8.0_392"', 8), ('openjdk version "11.0.2"', 11)])
def test_an_older_java_is_refused_with_its_path_and_the_way_out(tmp_path: Path, version: str, major: int) -> None:
    home = place_java(tmp_path, prints=version)
    done = ask(PATH="/usr/bin:/bin", JAVA_HOME=str(home))
    assert done.returncode == 2
    assert f"Java {major} is too old: {home}/bin/java (from JAVA_HOME)" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_java_is_refused_with_advice_for_each_system(tmp_path: Path) -> None:
    done = ask(PATH=str(tmp_path))
    assert done.returncode == 2
    for words in ("apt-get install openjdk-17", "brew install openjdk@17", "conda install -c conda-forge openjdk=17"):
        assert words in done.stderr


def test_a_java_that_does_not_run_is_refused(tmp_path: Path) -> None:
    home = place_java(tmp_path, prints="broken", code=1)
    done = ask(PATH="/usr/bin:/bin", JAVA_HOME=str(home))
    assert done.returncode == 2
    assert "does not run" in done.stderr
