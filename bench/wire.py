"""Many packets in one system call (`sendmmsg`), so that the time is the kernel's and not the sender's."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence

_MOST = 1024  # UIO_MAXIOV


class _IoVector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_IoVector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    _fields_ = (("header", _Header), ("sent", ctypes.c_uint))


class Burst:
    """Packets ready to be sent by `wire`, a packet socket; `address` is a `struct sockaddr_ll` of their receiver."""

    def __init__(self, wire: socket.socket, address: bytes, packets: Sequence[bytes]) -> None:
        self._wire = wire
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._buffers = [ctypes.create_string_buffer(packet, len(packet)) for packet in packets]
        self._address = ctypes.create_string_buffer(address, len(address))
        self._vectors = (_IoVector * len(packets))(
            *(_IoVector(ctypes.addressof(buffer), len(buffer)) for buffer in self._buffers)
        )
        self._messages = (_Message * len(packets))()
        for message, vector in zip(self._messages, self._vectors, strict=True):
            message.header = _Header(ctypes.addressof(self._address), len(address), ctypes.pointer(vector), 1)

    def send(self) -> None:
        """Sends all, in order. Raises OSError."""
        sent, count = 0, len(self._messages)
        while sent < count:
            first = ctypes.byref(self._messages, sent * ctypes.sizeof(_Message))
            done = self._libc.sendmmsg(self._wire.fileno(), first, min(_MOST, count - sent), 0)
            if done < 0:
                raise OSError(ctypes.get_errno(), "sendmmsg failed")
            sent += done


def link_address(interface: int, ethertype: int, hardware_address: bytes) -> bytes:
    """A `struct sockaddr_ll`: family, protocol, interface, hardware type, packet type, length, address."""
    return struct.pack(
        "=H2siHBB8s", socket.AF_PACKET, struct.pack("!H", ethertype), interface, 0, 0, 6, hardware_address
    )
