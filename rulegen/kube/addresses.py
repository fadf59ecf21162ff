"""Text of an IP address, as people or the API wrote it, comes in; canonical text goes out. No policy, no host."""

from __future__ import annotations

import socket

_IPV4_MAPPED = b"\0" * 10 + b"\xff" * 2


def canonical_address(text: str) -> str | None:
    """The canonical text of an address of either family, or None when it is not one.

    As Kubernetes reads it (SVC-12): leading zeros mean nothing, those of IPv4 octets are decimal, and an IPv4-mapped
    IPv6 address is the IPv4 address.
    """
    if ":" in text:
        return _canonical_ipv6(text)
    try:
        # What inet_pton takes for IPv4 is canonical already: four octets, no leading zeros.
        socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):
        stripped = _without_leading_zeros(text)
        return None if stripped == text else canonical_address(stripped)
    return text


def _canonical_ipv6(text: str) -> str | None:
    packed = _packed_ipv6(text)
    if packed is None:
        head, colon, tail = text.rpartition(":")
        packed = _packed_ipv6(_without_leading_zeros(head, ":") + colon + _without_leading_zeros(tail))
    if packed is None:
        return None
    if packed.startswith(_IPV4_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[len(_IPV4_MAPPED) :])
    return socket.inet_ntop(socket.AF_INET6, packed)


def _packed_ipv6(text: str) -> bytes | None:
    try:
        return socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        return None


def _without_leading_zeros(text: str, separator: str = ".") -> str:
    return separator.join(part.lstrip("0") or part[-1:] for part in text.split(separator))
