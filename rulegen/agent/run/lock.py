"""One agent in a network namespace at a time.

The lock is an nf_tables table that its owner's netlink socket owns: tables belong to the network namespace, whoever's
mounts and processes; only who has CAP_NET_ADMIN there can make one; nobody else can change or remove it; and the kernel
removes it when the socket is closed, however its owner ends. It has no chain, so no packet ever meets it:

    table ip rulegen-agent { flags owner; comment "process 1234 of 4026531836"; }

Kernels before 5.12, and those without nf_tables, have no such tables: there it is a socket with an abstract name, which
belongs to the namespace as well, but which any of its processes could take.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Protocol

from rulegen.errors import NEEDED_FOR_NFTABLES, HostError
from rulegen.netlink.messages import (
    ACK,
    DUMP,
    FAMILY_HEADER,
    NLMSG_DONE,
    NLMSG_ERROR,
    REQUEST,
    Message,
    attribute,
    attributes,
    batch_begin,
    batch_end,
    comment_data,
    comment_in,
    message,
    messages,
    numbered,
    open_socket,
    text_attribute,
    text_of,
)
from rulegen.netlink.nf_tables import (
    CREATE,
    EXCLUSIVE,
    GETTABLE,
    NEWTABLE,
    TABLE_FLAGS,
    TABLE_NAME,
    TABLE_OWNER,
    TABLE_USERDATA,
)
from rulegen.paths import status_in_proc

_TABLE = "rulegen-agent"
_ABSTRACT_NAME = "\0rulegen-agent"
_CREDENTIALS = struct.Struct("=iII")

_IPV4 = 2
_TABLE_SEQUENCE = 2
_HOLDER = re.compile(r"process (\d{1,10}) of (\d{1,10})")
# The kernel has no nf_tables, or none that knows of owners.
_UNKNOWN = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT, errno.EPROTONOSUPPORT})
_ANSWER_SECONDS = 5.0
_CANNOT = "cannot take the agent's lock"


class Lock(Protocol):
    """Held until it is closed, or this process ends."""

    def close(self) -> None:
        """Gives it up."""
        ...


def acquire() -> Lock | None:
    """The lock; None while another agent has it.

    Raises:
        HostError: the privilege for it lacks.
    """
    number = 0
    for is_last in (False, True):
        taken = _socket()
        try:
            number = _make_table(taken)
        except OSError as error:
            taken.close()
            raise HostError(f"{_CANNOT}: {error.strerror or 'the kernel does not answer'}") from error
        if not number:
            return taken
        taken.close()
        if number in _UNKNOWN:
            return _acquire_name()
        # What belongs to somebody else is "not permitted", and so is everything to those without privileges.
        if number != errno.EPERM or is_last:
            break
        if holder() is not None:
            return None
    if number == errno.EPERM:
        raise HostError(NEEDED_FOR_NFTABLES)
    raise HostError(f"{_CANNOT}, nf_tables table ip {_TABLE}: {os.strerror(number)}")


def holder() -> str | None:
    """Who has the lock, as words; None when nobody has it, or only root could know.

    In another PID namespace the process has no number here.
    """
    for name, comment in _tables():
        if name == _TABLE:
            found = _HOLDER.fullmatch(comment)
            is_here = found is not None and int(found[2]) == _process_namespace()
            return f"process {found[1]}" if found and is_here else "process in another container"
    return _holder_of_name()


# -- the table --


def _socket() -> socket.socket:
    try:
        opened = open_socket()
        opened.settimeout(_ANSWER_SECONDS)
        opened.bind((0, 0))
    except OSError as error:
        raise HostError(f"cannot open a netlink socket to netfilter: {error.strerror}") from error
    return opened


def _make_table(owner: socket.socket) -> int:
    """Makes the table; returns the errno of the refusal, 0 when it is made."""
    comment = f"process {os.getpid()} of {_process_namespace()}"
    payload = text_attribute(TABLE_NAME, _TABLE) + attribute(TABLE_FLAGS, struct.pack("!I", TABLE_OWNER))
    payload += attribute(TABLE_USERDATA, comment_data(comment))
    table = message(NEWTABLE, REQUEST | ACK | CREATE | EXCLUSIVE, _IPV4, payload)
    owner.send(numbered((batch_begin(), table, batch_end()), _TABLE_SEQUENCE - 1))
    for answer in _answers(owner):
        # Without nf_tables the kernel refuses the batch as such.
        if answer.kind == NLMSG_ERROR and (answer.error() or answer.sequence == _TABLE_SEQUENCE):
            return answer.error()
    return 0


def _tables() -> Iterator[tuple[str, str]]:
    """The names and comments of the tables for IPv4; none where they cannot be listed."""
    with closing(_socket()) as asking, suppress(OSError):
        asking.send(message(GETTABLE, REQUEST | DUMP, _IPV4, b""))
        for answer in _answers(asking):
            if answer.kind in {NLMSG_ERROR, NLMSG_DONE}:
                return
            parts = dict(attributes(answer.body[FAMILY_HEADER:]))
            yield text_of(parts.get(TABLE_NAME, b"")), comment_in(parts.get(TABLE_USERDATA, b""))


def _answers(asked: socket.socket) -> Iterator[Message]:
    """Each message; without an end."""
    while True:
        yield from messages(asked.recv(1 << 17))


def _process_namespace() -> int:
    return status_in_proc("/proc/self/ns/pid").st_ino


# -- the abstract name --


def _acquire_name() -> Lock | None:
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        lock.bind(_ABSTRACT_NAME)
        lock.listen(64)
    except OSError as error:
        lock.close()
        if error.errno == errno.EADDRINUSE:
            found = _credentials_of_name()
            if found is None or not found[1]:
                return None
            raise HostError(f"{_CANNOT}, @{_TABLE}: process {found[0]} of user {found[1]} has it: end that") from error
        raise HostError(f"{_CANNOT}: {error.strerror}") from error
    return lock


def _holder_of_name() -> str | None:
    """Without root nobody is an agent."""
    found = _credentials_of_name()
    return f"process {found[0] or 'in another container'}" if found and not found[1] else None


def _credentials_of_name() -> tuple[int, int] | None:
    """The process and the user that has the name; None when nobody has it, or it does not say."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)) as connection:
        connection.setblocking(False)
        try:
            connection.connect(_ABSTRACT_NAME)
        except OSError:
            return None
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(credentials)
    return process, user
