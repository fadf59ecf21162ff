"""The kernel's account of marked packets, read from netlink (NFNLGRP_NFTRACE): bytes come in, `Report`s go out.

One report for each rule that a packet has met in full and each chain whose policy has decided about it. Where more come
than the socket holds, that is told, too. Knows no rule's meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from rulegen.errors import HostError
from rulegen.netlink.listening import Listening
from rulegen.netlink.messages import FAMILY_HEADER, attributes, messages, number_of, text_of
from rulegen.netlink.nf_tables import (
    TRACE,
    TRACE_BY_POLICY,
    TRACE_BY_RULE,
    TRACE_CHAIN,
    TRACE_ID,
    TRACE_IIF,
    TRACE_NETWORK_HEADER,
    TRACE_NFPROTO,
    TRACE_OIF,
    TRACE_POLICY,
    TRACE_RULE_HANDLE,
    TRACE_TABLE,
    TRACE_TRANSPORT_HEADER,
    TRACE_TYPE,
    TRACE_VERDICT,
    VERDICT_CHAIN,
    VERDICT_CODE,
)
from rulegen.trace.packet import Packet, read_packet

_GROUP_NFTRACE = 9
_BUFFER = 8 << 20

_VERDICTS = {
    0: "drop",
    1: "accept",
    2: "stolen",
    3: "queue",
    0xFFFFFFFF: "continue",
    0xFFFFFFFE: "break",
    0xFFFFFFFD: "jump",
    0xFFFFFFFC: "goto",
    0xFFFFFFFB: "return",
}
# The number of a queue, or an error, is in the high bits.
_VERDICT_MASK = 0xFF
_FIRST_OF_NF_TABLES = 0xFFFFFFFB


class Place(NamedTuple):
    """A chain. `family`: the kernel's number for the table's (NFPROTO_*)."""

    family: int
    table: str
    chain: str


class Report(NamedTuple):
    """A rule that a packet has met, or the end of a chain.

    `identity`: the same for all reports of a packet; another one may get it afterwards. `handle`: the rule's, 0 for
    none. `verdict`: nft's word for it; `target`: where a jump or goto leads. `is_policy`: no rule has decided.
    `packet`: its headers, told where it comes into a chain with a hook. `incoming`, `outgoing`: interfaces by number.
    """

    identity: int
    place: Place
    handle: int
    verdict: str
    target: str
    is_policy: bool
    packet: Packet | None
    incoming: int
    outgoing: int


class Listener:
    """Listens in the network namespace of the thread that opens it. Raises HostError when the kernel refuses that."""

    def __init__(self) -> None:
        """`lost`: how often there was more than the socket could hold."""
        self.lost = 0
        try:
            self._listening = Listening((_GROUP_NFTRACE,), _BUFFER)
        except OSError as error:
            raise HostError(f"cannot listen to the trace of nf_tables: {error.strerror}") from error

    def resize(self, size: int) -> None:
        """Gives the kernel so many bytes of memory for what has not been read yet. Raises HostError."""
        try:
            self._listening.resize(size)
        except OSError as error:
            raise HostError(f"cannot listen to the trace of nf_tables: {error.strerror}") from error

    def fileno(self) -> int:
        """For `select`."""
        return self._listening.fileno()

    def close(self) -> None:
        self._listening.close()

    def read(self) -> Iterator[Report]:
        """What has been told since the last call; does not wait."""
        try:
            for data in self._listening.read():
                if data is None:
                    self.lost += 1
                else:
                    yield from (read_report(one.body) for one in messages(data) if one.kind == TRACE)
        except OSError as error:
            raise HostError(f"cannot read the trace of nf_tables: {error.strerror}") from error


def read_report(body: bytes) -> Report:
    """One message, without its netlink header."""
    parts = dict(attributes(body[FAMILY_HEADER:]))
    verdict = dict(attributes(parts.get(TRACE_VERDICT, b"")))
    kind = number_of(parts, TRACE_TYPE)
    code = number_of(parts, TRACE_POLICY) if kind == TRACE_BY_POLICY else number_of(verdict, VERDICT_CODE)
    place = Place(body[0], text_of(parts.get(TRACE_TABLE, b"")), text_of(parts.get(TRACE_CHAIN, b"")))
    return Report(
        number_of(parts, TRACE_ID),
        place,
        number_of(parts, TRACE_RULE_HANDLE) if kind == TRACE_BY_RULE else 0,
        _VERDICTS.get(code if code >= _FIRST_OF_NF_TABLES else code & _VERDICT_MASK, "unknown"),
        text_of(verdict.get(VERDICT_CHAIN, b"")),
        kind == TRACE_BY_POLICY,
        _packet(parts),
        number_of(parts, TRACE_IIF),
        number_of(parts, TRACE_OIF),
    )


def _packet(parts: Mapping[int, bytes]) -> Packet | None:
    headers = parts.get(TRACE_NETWORK_HEADER, b""), parts.get(TRACE_TRANSPORT_HEADER, b"")
    return read_packet(number_of(parts, TRACE_NFPROTO), *headers)
