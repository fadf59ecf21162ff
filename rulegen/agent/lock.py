"""One agent in a network namespace at a time.

The lock is a listening socket with an abstract name: such names belong to the network namespace, whoever's mounts and
processes, and the kernel frees them when their owner ends, however it ends.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import closing

from rulegen.errors import HostError

_NAME = "\0rulegen-agent"
_CREDENTIALS = struct.Struct("=iII")


def acquire() -> socket.socket | None:
    """The lock, held until it is closed or this process ends; None while another agent has it."""
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        lock.bind(_NAME)
        lock.listen(64)
    except OSError as error:
        lock.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise HostError(f"cannot take the agent's lock: {error.strerror}") from error
    return lock


def connect() -> socket.socket | None:
    """A connection to the one that has the lock: readable as soon as that ends. None when nobody has it."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        connection.connect(_NAME)
    except OSError as error:
        connection.close()
        if error.errno == errno.ECONNREFUSED:
            return None
        raise HostError(f"cannot ask who has the agent's lock: {error.strerror}") from error
    return connection


def owner(connection: socket.socket) -> str:
    """Who has the lock, as words. In another PID namespace the process has no number here."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(credentials)
    of_user = f", user {user}" if user else ""
    return f"process {process or 'in another container'}{of_user}"


def running_agent() -> str | None:
    """The agent that runs in this network namespace, as words."""
    connection = connect()
    if connection is None:
        return None
    with closing(connection):
        return owner(connection)
