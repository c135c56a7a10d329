"""Can the machines that the recipe trains on meet? What this machine knows of it, before anything starts."""

import ipaddress
import re
import shutil
import socket
from pathlib import Path

from gpt_core.errors import InputError, SetupError, UserError
from gpt_core.recipe import Recipe, TrainCluster
from jobs.network import way_to


def check_machines(recipe: Recipe) -> None:
    """The rendezvous can be reached, or the hostfile is the recipe's, and every number of machines may go on.

    Raises UserError that names the field and the way out.
    """
    train = recipe.cluster.train
    least = train.min_nodes or train.nodes
    if train.launcher == "torchrun" and least < train.nodes and not train.max_restarts:
        raise UserError(
            f"cluster.train.min_nodes={least}: fewer machines go on by starting again; set cluster.train.max_restarts "
            "to how often they may, or leave min_nodes out"
        )
    for nodes in range(least, train.nodes):
        for section, settings in recipe.trainings.items():
            if settings.batch_sequences % (nodes * train.processes):
                raise UserError(
                    f"{section}.batch_sequences={settings.batch_sequences} is no multiple of the {nodes} x "
                    f"{train.processes} ranks that cluster.train.min_nodes={train.min_nodes} lets go on; make it one, "
                    "or raise min_nodes"
                )
    if train.hostfile is not None:
        _check_hostfile(train, Path(train.hostfile))
    elif train.nodes > 1 and train.rendezvous is not None:
        _check_rendezvous(train.rendezvous)


def _check_rendezvous(place: str) -> None:
    host, _, port = place.rpartition(":")
    field = f"cluster.train.rendezvous: {place}"
    try:
        there, here = way_to(host)
    except OSError as error:
        raise SetupError(
            f"{field}: {(error.strerror or str(error)).lower()}; give a name or address that all reach"
        ) from None
    if ipaddress.ip_address(there).is_loopback:
        raise UserError(
            f"{field}: {host} is {there} on this machine, which no other can reach; give its address in the network "
            "of the machines"
        )
    if there == here and not 0 < int(port) < 65536:
        raise UserError(f"{field}: {port} is no port; give one from 1 to 65535")
    if there == here:
        try:
            socket.create_server((there, int(port)), family=_family(there)).close()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise SetupError(f"{field}: the port is not free: {reason}; give another") from None


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _check_hostfile(train: TrainCluster, path: Path) -> None:
    field = f"cluster.train.hostfile: {path}"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise InputError(
            f"{field}: {reason.lower()}; give a file with a line `HOST slots=N` for each machine"
        ) from None
    hosts: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        match = re.match(r"(\S+)\s+slots=(\d+)\s*(?:#.*)?$", line.strip())
        if match is None or match[1] in hosts:
            what = "named twice" if match else "not `HOST slots=N`"
            raise InputError(f"{field}:{number}: {line.strip()!r} is {what}; give every machine one such line")
        hosts[match[1]] = int(match[2])
        if hosts[match[1]] != train.processes:
            raise InputError(
                f"{field}:{number}: {match[1]} has {match[2]} slots, not cluster.train.processes={train.processes}; "
                "make them equal"
            )
    if len(hosts) != train.nodes:
        raise InputError(
            f"{field}: it names {len(hosts)} machines, not cluster.train.nodes={train.nodes}; make them equal"
        )
    if train.nodes > 1 and shutil.which("pdsh") is None:
        raise SetupError(
            f"{field}: DeepSpeed's launcher needs pdsh and ssh; install them, or give a rendezvous instead"
        )
