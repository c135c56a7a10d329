"""What the doctor says of a Jobs API that lets anybody in. tests/jobs/test_ray_cluster.py has the guarded one."""

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from gpt_core.recipe_file import parse_recipe
from pipelines.doctor import Finding, _ray_jobs


class OpenRay(http.server.BaseHTTPRequestHandler):
    """As much of a head without a token as says that it is one."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"ray_version": "2.60.0"}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def open_ray() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), OpenRay) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_jobs_api_that_asks_nobody_for_a_token_is_pointed_out(open_ray: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    inputs = {"inputs": [{"path": "corpus.jsonl"}]}
    recipe = parse_recipe({"name": "it", "corpus": inputs, "cluster": {"ray": {"jobs_address": open_ray}}}, origin="it")
    text = "answers anybody: whoever reaches it runs code there; start its nodes with RAY_AUTH_MODE=token"
    assert _ray_jobs(recipe, open_ray) == Finding("ray jobs", True, text, warning=True)
