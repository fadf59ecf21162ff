"""A netlink socket to conntrack: requests go out, what answers them comes in, errors are a person's.

What a message says is for whoever sends it. Of linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Sequence

from rulegen.errors import ConntrackError, HostError, RulegenError
from rulegen.netlink.messages import NLMSG_DONE, NLMSG_ERROR, Message, messages, open_socket

_SUBSYSTEM = 1 << 8
NEW, GET, DELETE = _SUBSYSTEM | 0, _SUBSYSTEM | 1, _SUBSYSTEM | 2
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10

_S32 = struct.Struct("=i")
_FORBIDDEN = (errno.EPERM, errno.EACCES)
_UNSUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT)
_WAIT_SECONDS = 30
_DATAGRAM = 1 << 17


class Channel:
    """A netlink socket to conntrack; `purpose` says in an error what failed."""

    def __init__(self, purpose: str) -> None:
        self._purpose = purpose
        self._sequence = 0
        try:
            self._socket = open_socket()
        except OSError as error:
            raise self.error(error.errno or 0) from error
        self._socket.settimeout(_WAIT_SECONDS)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)

    def close(self) -> None:
        self._socket.close()

    def send(self, requests: Sequence[bytearray]) -> None:
        """All in one datagram, under one number."""
        self._sequence += 1
        for request in requests:
            struct.pack_into("=I", request, 8, self._sequence)
        try:
            self._socket.send(b"".join(requests))
        except OSError as error:
            raise self.error(error.errno or errno.ETIMEDOUT) from error

    def answers_to_listing(self) -> Iterator[tuple[int, bytes | None]]:
        """The flags and the content of each message; the last one has no content."""
        while True:
            for kind, flags, _, body in self._answers():
                if kind in {NLMSG_DONE, NLMSG_ERROR}:
                    self._succeeded(body)
                    yield flags, None
                    return
                yield flags, body

    def answer(self, missing: int) -> bytes | None:
        """The one message that answers a request for something; None for the error `missing`."""
        while True:
            for kind, _, _, body in self._answers():
                if kind != NLMSG_ERROR:
                    return body
                if not self._succeeded(body, missing):
                    return None

    def acknowledgements(self, count: int, expected: int) -> Iterator[bool]:
        """Of each request, whether it succeeded; the error `expected` is no failure."""
        while count > 0:
            for _, _, _, body in self._answers():
                count -= 1
                yield self._succeeded(body, expected)

    def _answers(self) -> Iterator[Message]:
        """The messages of one datagram that answer what was sent last."""
        for answer in messages(self._receive()):
            if answer.sequence == self._sequence:
                yield answer

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_DATAGRAM)
        except OSError as error:  # a timeout is one too, without a number
            raise self.error(error.errno or errno.ETIMEDOUT) from error

    def _succeeded(self, body: bytes, expected: int = 0) -> bool:
        number = -_S32.unpack_from(body)[0]
        if number not in {0, expected}:
            raise self.error(number)
        return not number

    def error(self, number: int) -> RulegenError:
        """What an errno means here."""
        reason = f"{self._purpose}: {os.strerror(number)}"
        if number in _FORBIDDEN:
            return HostError(f"{reason}; it needs root, or the capability CAP_NET_ADMIN")
        if number in _UNSUPPORTED:
            return HostError(f"{reason}; the kernel's module nf_conntrack_netlink is not loaded, or does not exist")
        return ConntrackError(reason)
