"""Where this machine stands in the network, as seen on the way to another one. Nothing is sent."""

import socket

import psutil


def way_to(host: str) -> tuple[str, str]:
    """(address of `host`, this machine's own address on the way there); the two are equal where `host` is this machine.

    Raises OSError where the name is not known or no way leads there.
    """
    family, kind, protocol, _, place = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(place)  # UDP: chooses the way and no more
        return str(place[0]), str(probe.getsockname()[0])


def interface_of(address: str) -> str | None:
    """The name of this machine's interface that has `address`, such as eth0."""
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, entries in interfaces if any(entry.address == address for entry in entries)), None)
