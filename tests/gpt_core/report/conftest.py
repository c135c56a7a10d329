from pathlib import Path

import pytest
from report_run import make_recipe, make_run

from gpt_core.artifact import Artifact
from gpt_core.recipe import Recipe


@pytest.fixture
def recipe() -> Recipe:
    return make_recipe()


@pytest.fixture
def artifacts(tmp_path: Path) -> dict[str, Artifact]:
    return make_run(tmp_path)
