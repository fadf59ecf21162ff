"""The IP families of this host, and the addresses of its interfaces: asked of the kernel, decided nothing about.

Addresses are those of the network namespace of the calling thread.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rulegen.config import Family
from rulegen.errors import HostError

_SOCKET_FAMILY = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
# Of linux/if_addr.h and linux/rtnetlink.h. An address may turn out to be another host's until that was checked; a
# link-local one means something only together with an interface.
_UNUSABLE_FLAGS = 0x08 | 0x40
_SCOPE_LINK = 253
_ATTEMPTS = 10


def host_families() -> tuple[Family, ...]:
    """The families that this host has."""
    found = []
    for family, number in _SOCKET_FAMILY.items():
        with suppress(OSError), socket.socket(number, socket.SOCK_DGRAM):
            found.append(family)
    return tuple(found)


def own_addresses(family: Family) -> tuple[str, ...]:
    """All of them, canonical and sorted. Raises HostError when the kernel does not say."""
    return _addresses(family, lambda _: True)


def bindable_addresses(family: Family) -> tuple[str, ...]:
    """Those that a socket can be bound to, canonical and sorted. Raises HostError when the kernel does not say."""
    return _addresses(family, _is_bindable)


def _addresses(family: Family, is_wanted: Callable[[Any], bool]) -> tuple[str, ...]:
    from pyroute2 import IPRoute, NetlinkError
    from pyroute2.netlink.exceptions import NetlinkDumpInterrupted

    entries: list[Any] = []
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            with IPRoute() as ip:
                entries = list(ip.get_addr(family=_SOCKET_FAMILY[family]))
        except (OSError, NetlinkError) as error:
            # They changed meanwhile: what was listed may be of neither time.
            if isinstance(error, NetlinkDumpInterrupted) and attempts_left:
                continue
            raise HostError(f"cannot read the host's {family.value} addresses: {error}") from error
        break
    # IFA_ADDRESS is the other end of a point-to-point link, when there is an IFA_LOCAL.
    addresses = {entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS") for entry in entries if is_wanted(entry)}
    return tuple(sorted(addresses - {None}))


def _is_bindable(entry: Any) -> bool:
    is_link_local = entry["family"] == socket.AF_INET6 and entry["scope"] == _SCOPE_LINK
    return not is_link_local and not (entry.get_attr("IFA_FLAGS") or entry["flags"]) & _UNUSABLE_FLAGS
