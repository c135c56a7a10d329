import pytest
from tiny_decoder import make_decoder

from gpt_core.model.decoder import Decoder


@pytest.fixture(params=["gpt1", "gpt2", "qwen3"])
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def decoder(architecture: str) -> Decoder:
    return make_decoder(architecture)
