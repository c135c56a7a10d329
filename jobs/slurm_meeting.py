"""A job of Slurm, as one of its nodes sees it: where all its nodes meet."""

import os
import re
import subprocess
from typing import NamedTuple

from gpt_core.errors import SetupError
from jobs.network import way_to

SLURM = "slurm"  # in the place of a rendezvous' endpoint
FIRST_PORT, PORTS = 15_000, 15_000  # below those that Linux gives to connections


class Meeting(NamedTuple):
    """What torchrun is to be told."""

    nodes: str
    place: str  # HOST:PORT of the first node
    address: str  # of this node, as the others reach it
    settings: str  # of the rendezvous: who hosts it


def meeting(settings: str) -> Meeting:
    """That of the job step that this process is of; the given `settings` of the rendezvous stay.

    Raises SetupError outside of a step, and where no way leads to the other nodes.
    """
    try:
        job, names, number = (os.environ[f"SLURM_{name}"] for name in ("JOB_ID", "STEP_NODELIST", "NODEID"))
    except KeyError as error:
        raise SetupError(f"--rdzv-endpoint {SLURM}: {error.args[0]} is not set; srun starts this, in a job") from None
    hosts = _scontrol("show", "hostnames", names).split()
    first, last = _address(hosts[0]), _address(hosts[-1])
    is_host = number == "0"
    try:
        _, here = way_to(last if is_host else first)  # to itself the first node may be 127.0.1.1
    except OSError as error:
        node, reason = hosts[-1 if is_host else 0], (error.strerror or str(error)).lower()
        raise SetupError(f"--rdzv-endpoint {SLURM}: {node}: {reason}; see its NodeAddr in slurm.conf") from None
    host = f"is_host={'true' if is_host else 'false'}"
    place = f"{first}:{FIRST_PORT + int(job) % PORTS}"
    return Meeting(str(len(hosts)), place, here, ",".join(filter(None, [host, settings])))


def _address(node: str) -> str:
    """What Slurm itself calls the node by; its name need not be a host's."""
    match = re.search(r"\bNodeAddr=(\S+)", _scontrol("show", "node", "--oneliner", node))
    return match[1] if match else node


def _scontrol(*arguments: str) -> str:
    try:
        return subprocess.run(["scontrol", *arguments], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        raise SetupError(f"--rdzv-endpoint {SLURM}: scontrol {' '.join(arguments)}: {reason}") from None
