"""Which of a host's network interfaces the others of a job reach it by.

Gloo by itself takes the one with the address that the host's own name stands for, and on many systems that is a
loopback one (``127.0.1.1``): the others then wait for an answer.
"""

import ipaddress
import socket
from collections.abc import Mapping, Sequence

import psutil

SAID = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def address_towards(host: str, port: int) -> str:
    """This host's address on the way to another one; nothing is sent. Empty where there is no way."""
    for family, kind, _, _, there in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
        with socket.socket(family, kind) as probe:
            try:
                probe.connect(there)
            except OSError:  # another address of that host may do
                continue
            return str(probe.getsockname()[0])
    return ""


def between(addresses: Sequence[str], port: int, said: Mapping[str, str]) -> dict[str, str]:
    """The variables that name this host's interface; none where all reach each other over loopback.

    Args:
        addresses: of each process, as :func:`address_towards` their meeting place has it: a loopback one on the host
            where that is, if its name stands for one there.
        port: any.
        said: the environment; what it says of interfaces stays.
    """
    outside = [each for each in addresses if each and not ipaddress.ip_address(each).is_loopback]
    if not outside:
        return {}
    own = address_towards(outside[0], port)
    for name, its in psutil.net_if_addrs().items():
        if own in (each.address for each in its):
            return {key: name for key in SAID if not said.get(key)}
    return {}
