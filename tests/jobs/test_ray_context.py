"""The private Ray of a job is nobody else's."""

import os
import subprocess
import sys

import pytest
from shards_job import ROOT

LISTENERS = """
import ipaddress, json, psutil
from gpt_core.recipe import RayCluster
from jobs.ray_context import ray_context
with ray_context(RayCluster(cpus=1, object_store_bytes=80_000_000)):
    import ray
    ray.get(ray.remote(lambda: 1).remote())
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    ports = [one for process in family for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    print(json.dumps(sorted({one.laddr.ip.removeprefix("::ffff:") for one in ports})))
"""


@pytest.mark.ray
def test_a_private_ray_listens_on_the_loopback_interface_alone() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", LISTENERS],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout == '["127.0.0.1"]\n', done.stderr
