"""The addresses on the interfaces of a network namespace, from the kernel."""

from __future__ import annotations

import socket

from rulegen.config import Family
from rulegen.errors import ConntrackError

_NUMBERS = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}


def own_addresses(family: Family) -> list[str]:
    """Canonical; of the network namespace of the calling thread. Raises ConntrackError."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as ip:
            # Of a point-to-point link, `address` is the other end's.
            return [
                message.get("local") or message.get("address") for message in ip.addr("dump", family=_NUMBERS[family])
            ]
    except (NetlinkError, OSError) as error:
        raise ConntrackError(f"listing the node's addresses: {error}") from error
