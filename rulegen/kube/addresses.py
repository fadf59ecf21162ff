"""Text of an IP address, as people or the API wrote it, comes in; canonical text goes out. No policy, no host."""

from __future__ import annotations

import socket

_IPV4_MAPPED = b"\0" * 10 + b"\xff" * 2


def canonical_address(text: str) -> str | None:
    """The canonical text of an address of either family, or None when it is not one.

    Leading zeros of IPv4 octets are decimal (rule 12). IPv4-mapped IPv6 addresses are refused: whether they mean the
    one family or the other is a matter of opinion.
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
    head, colon, tail = text.rpartition(":")
    if "." in tail:
        text = head + colon + _without_leading_zeros(tail)
    try:
        packed = socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        return None
    return None if packed.startswith(_IPV4_MAPPED) else socket.inet_ntop(socket.AF_INET6, packed)


def _without_leading_zeros(dotted: str) -> str:
    return ".".join(part.lstrip("0") or part[-1:] for part in dotted.split("."))
