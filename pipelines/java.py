"""Is there a Java for Spark? Standard library only: `make demo` asks before anything is installed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

MINIMUM = 17
ADVICE = f"""Spark needs Java {MINIMUM} or newer. Get one, then run the command again:
  Debian, Ubuntu   sudo apt-get install openjdk-17-jre-headless
  macOS            brew install openjdk@17 && export JAVA_HOME=$(brew --prefix openjdk@17)
  conda            conda install -c conda-forge openjdk=17"""


def java_problem() -> "str | None":
    """None if Java 17 or newer answers, otherwise what is wrong and how to get one."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if java is None:
        return f"no Java: there is none on PATH and JAVA_HOME is not set.\n{ADVICE}"
    where = f"{java} (from JAVA_HOME)" if home else java
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no Java: {where} does not run: {error}.\n{ADVICE}"
    found = re.search(r'version "(\d+)(?:\.(\d+))?', done.stderr + done.stdout)
    major = int(found.group(1)) if found else 0
    if found and major == 1:  # up to Java 8 they said 1.8
        major = int(found.group(2) or 0)
    if major < MINIMUM:
        return f"Java {major} is too old: {where}.\n{ADVICE}"
    return None


if __name__ == "__main__":
    problem = java_problem()
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
