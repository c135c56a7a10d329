"""Compiled kernels are kept by all the sources that they may be made of."""

import re
from pathlib import Path

from gpt_core import kernel

CORE = Path(kernel.__file__).parent


def test_every_package_with_kernels_names_the_cache() -> None:
    users = [path for path in CORE.rglob("*.py") if re.search(r"^from gpt_core\.kernel import", path.read_text(), re.M)]
    assert {path.relative_to(CORE).parts[0] for path in users} <= set(kernel.PACKAGES)


def test_a_kernel_gives_what_its_function_gives() -> None:
    def add(a: int, b: int) -> int:
        return a + b

    assert kernel.kernel(add)(2, 3) == 5
