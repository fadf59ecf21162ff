"""Tables of nf_tables as the kernel lists them, in bytes. Asks only; what the bytes mean `nft` says.

Messages and attributes are those of linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing

from msgspec import Struct
from msgspec.structs import replace

from rulegen.errors import NEEDED_FOR_NFTABLES, AbsentError, HostError
from rulegen.netfilter.model import Family
from rulegen.netlink.messages import (
    DUMP,
    DUMP_INTERRUPTED,
    FAMILY_HEADER,
    NF_TABLES,
    NLMSG_DONE,
    NLMSG_ERROR,
    REQUEST,
    attributes,
    message,
    messages,
    number_of,
    numbered,
    open_socket,
    text_attribute,
    text_of,
)
from rulegen.netlink.nf_tables import TABLE_DORMANT, TABLE_FLAGS, TABLE_NAME

_GET_TABLES, _GET_CHAINS, _GET_RULES, _GET_SETS, _GET_ELEMENTS = (NF_TABLES << 8 | kind for kind in (1, 4, 7, 10, 13))
_SET_NAME = 2
_TABLE_OF = 1
_ELEMENTS_SET = 2
_NUMBERS = {Family.IPV4: 2, Family.IPV6: 10}
_ATTEMPTS = 10


class Listing(Struct, frozen=True):
    """One table, each message without its headers. `elements`: by the name of the set.

    `is_dormant`: no packet meets its chains.
    """

    family: str
    table: str
    chains: list[bytes]
    rules: list[bytes]
    sets: list[bytes]
    elements: dict[str, list[bytes]]
    is_dormant: bool = False


def list_tables(
    names: set[str],
    families: tuple[Family, ...] = tuple(Family),
    is_listed: Callable[[str, str], bool] = lambda *_: True,
) -> list[Listing]:
    """The tables of these names in the network namespace of the calling thread, each as it is at one moment.

    `is_listed`: of which sets, by table and name, the elements are wanted.

    Raises HostError when they cannot be read, AbsentError when the kernel has no nf_tables.
    """
    try:
        with closing(open_socket()) as connection:
            connection.bind((0, 0))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            for _ in range(_ATTEMPTS):
                try:
                    return [
                        _list_table_if_it_stays(connection, family, name, is_listed, is_dormant=is_dormant)
                        for family in families
                        for name, is_dormant in sorted(_tables(connection, family))
                        if name in names
                    ]
                except _InterruptedError:
                    continue
    except PermissionError as error:
        raise HostError(NEEDED_FOR_NFTABLES) from error
    except OSError as error:
        if error.errno in {errno.EPROTONOSUPPORT, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT}:
            raise AbsentError(f"this kernel has no usable nf_tables: {os.strerror(error.errno)}") from error
        raise HostError(f"cannot list nf_tables: {error.strerror}") from error
    raise HostError(f"nf_tables changed {_ATTEMPTS} times while it was listed")


class _InterruptedError(Exception):
    """The ruleset changed meanwhile."""


def _tables(connection: socket.socket, family: Family) -> Iterator[tuple[str, bool]]:
    """The names, and whether each is dormant."""
    for body in _dump(connection, _GET_TABLES, family, b""):
        parts = dict(attributes(body))
        yield text_of(parts[TABLE_NAME]), bool(number_of(parts, TABLE_FLAGS) & TABLE_DORMANT)


def _list_table_if_it_stays(
    connection: socket.socket, family: Family, name: str, is_listed: Callable[[str, str], bool], *, is_dormant: bool
) -> Listing:
    try:
        return replace(_list_table(connection, family, name, is_listed), is_dormant=is_dormant)
    except FileNotFoundError as error:  # the table, or a set of it, has just gone
        raise _InterruptedError from error


def _list_table(connection: socket.socket, family: Family, name: str, is_listed: Callable[[str, str], bool]) -> Listing:
    wanted = text_attribute(_TABLE_OF, name)
    # Chains are listed of all tables, whatever was asked for.
    chains = [
        body
        for body in _dump(connection, _GET_CHAINS, family, b"")
        if text_of(dict(attributes(body))[_TABLE_OF]) == name
    ]
    sets = list(_dump(connection, _GET_SETS, family, wanted))
    elements: dict[str, list[bytes]] = {}
    for body in sets:
        set_name = text_of(dict(attributes(body))[_SET_NAME])
        if not is_listed(name, set_name):
            continue
        elements[set_name] = list(
            _dump(connection, _GET_ELEMENTS, family, wanted + text_attribute(_ELEMENTS_SET, set_name))
        )
    rules = list(_dump(connection, _GET_RULES, family, wanted))
    return Listing(family.value, name, chains, rules, sets, elements)


def _dump(connection: socket.socket, kind: int, family: Family, payload: bytes) -> Iterator[bytes]:
    connection.send(numbered([message(kind, REQUEST | DUMP, _NUMBERS[family], payload)], 1))
    found: list[bytes] = []
    while True:
        for answer in messages(connection.recv(1 << 17)):
            if answer.flags & DUMP_INTERRUPTED:
                _drain(connection)
                raise _InterruptedError
            if answer.kind in {NLMSG_ERROR, NLMSG_DONE}:
                number = struct.unpack_from("=i", answer.body)[0] if len(answer.body) >= 4 else 0
                if number:
                    raise OSError(-number, os.strerror(-number))
                return iter(found)
            found.append(answer.body[FAMILY_HEADER:])


def _drain(connection: socket.socket) -> None:
    """Reads what is left of an interrupted answer."""
    connection.setblocking(False)
    try:
        while connection.recv(1 << 17):
            pass
    except BlockingIOError:
        pass
    finally:
        connection.setblocking(True)
