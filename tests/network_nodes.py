"""Two machines as two network namespaces: each with its own loopback and address, joined by a cable that can be cut."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import pytest

PREFIX = "gptmill"
ADDRESSES = ("198.18.0.1", "198.18.0.2")  # of the range for tests of networks (RFC 2544), which leads nowhere


@dataclass(frozen=True)
class Node:
    """A machine of the network. Host name, files and processes are those of the machine that has them all."""

    name: str
    address: str

    def command(self, command: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.name, *command]

    def cut_cable(self) -> None:
        _ip("-n", self.name, "link", "set", "cable", "down")

    def mend_cable(self) -> None:
        _ip("-n", self.name, "link", "set", "cable", "up")

    def processes(self) -> list[psutil.Process]:
        pids = _ip("netns", "pids", self.name).split()
        return [psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))]

    def kill_all(self) -> None:
        """Every process of this machine is gone, as when its power fails."""
        processes = self.processes()
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=10)


@contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
    """The test is skipped where this machine or this user has no namespaces; what was made is gone afterwards."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("two machines need root and iproute2 for network namespaces")
    _remove_of_dead_tests()
    nodes = tuple(Node(f"{PREFIX}-{os.getpid()}-{place}", address) for place, address in enumerate(ADDRESSES))
    try:
        try:
            _connect(*nodes)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        yield nodes[0], nodes[1]
    finally:
        for node in nodes:
            _remove(node.name)


def _connect(first: Node, second: Node) -> None:
    for node in (first, second):
        _ip("netns", "add", node.name)
    ends = ["name", "cable", "netns", first.name], ["name", "cable", "netns", second.name]
    _ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
    for node in (first, second):
        _ip("-n", node.name, "addr", "add", f"{node.address}/24", "dev", "cable")
        for interface in ("lo", "cable"):
            _ip("-n", node.name, "link", "set", interface, "up")


def _remove(name: str) -> None:
    if name in _names():
        Node(name, "").kill_all()
        _ip("netns", "del", name)


def _remove_of_dead_tests() -> None:
    """A test that was killed left its namespaces; they name its process."""
    for name in _names():
        prefix, _, rest = name.partition("-")
        if prefix == PREFIX and not psutil.pid_exists(int(rest.partition("-")[0])):
            _remove(name)


def _names() -> list[str]:
    return [line.split()[0] for line in _ip("netns", "list").splitlines()]


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True).stdout
