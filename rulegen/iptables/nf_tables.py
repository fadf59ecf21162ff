"""What the kernel itself says of iptables-nft's tables: their names, chains, and where each rule leads.

For what iptables-nft does not list because somebody put something there that only nft knows. Deletes rules by their
handle, which stands for one rule whatever others insert meanwhile. All in the network namespace of the calling thread.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from rulegen.config import Family
from rulegen.errors import NEEDED_FOR_IPTABLES, HostError
from rulegen.netlink.messages import (
    ACK,
    DUMP,
    DUMP_INTERRUPTED,
    FAMILY_HEADER,
    NLMSG_DONE,
    NLMSG_ERROR,
    REQUEST,
    attribute,
    attributes,
    batch_begin,
    batch_end,
    comment_in,
    message,
    messages,
    numbered,
    open_socket,
    text_attribute,
    text_of,
)
from rulegen.netlink.nf_tables import (
    CHAIN_NAME,
    CHAIN_TABLE,
    DATA_VERDICT,
    DELRULE,
    EXPRESSION_DATA,
    EXPRESSION_NAME,
    GETCHAIN,
    GETRULE,
    GETTABLE,
    IMMEDIATE_DATA,
    MATCH_INFO,
    MATCH_NAME,
    RULE_CHAIN,
    RULE_EXPRESSIONS,
    RULE_HANDLE,
    RULE_TABLE,
    RULE_USERDATA,
    TABLE_NAME,
    TARGET_NAME,
    VERDICT_CHAIN,
    VERDICT_CODE,
)

_FAMILIES = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
# Of linux/netfilter/nf_tables.h.
_CODES = {0: "DROP", 1: "ACCEPT", 3: "QUEUE", -5: "RETURN"}
_GOTO = -4
# Of linux/netfilter/xt_conntrack.h: `match_flags` of xt_conntrack_mtinfo3 and what follows. All before is zero when
# only the state is matched.
_CONNTRACK = struct.Struct("=HHHH")
_CONNTRACK_OFFSET, _BY_STATE = 146, 1
_STATES = {8: "NEW", 6: "RELATED,ESTABLISHED"}

_WAIT_SECONDS = 10.0
_DATAGRAM = 1 << 20
# A kernel without nf_tables knows no such messages.
_UNSUPPORTED = {errno.EINVAL, errno.EOPNOTSUPP}
# A dump that others' changes interrupt is made again.
_ATTEMPTS = 20


class HiddenRule(NamedTuple):
    """A rule, as far as it can be told without knowing what it matches.

    `target`: the chain, verdict or extension that it leads to, "" for none. `is_unconditional`: it matches all packets.
    `words`: the rule as iptables-save writes it, where it is one of the few kinds that rulegen puts into others'
    chains, else "".
    """

    chain: str
    handle: int
    target: str
    is_unconditional: bool
    comment: str
    words: str


class _InterruptedError(Exception):
    """The rules changed during a dump."""


def tables(family: Family) -> frozenset[str]:
    """The names of the family's tables; none in a kernel without nf_tables. Raises HostError."""
    return frozenset(text_of(parts[TABLE_NAME]) for parts in _dump(GETTABLE, family, b""))


def chains(family: Family, table: str) -> tuple[str, ...]:
    """The names of a table's chains. Raises HostError."""
    found = _dump(GETCHAIN, family, b"")
    return tuple(text_of(parts[CHAIN_NAME]) for parts in found if text_of(parts[CHAIN_TABLE]) == table)


def rules(family: Family, table: str) -> Iterator[HiddenRule]:
    """A table's rules, chain by chain in order. Raises HostError."""
    for parts in _dump(GETRULE, family, text_attribute(RULE_TABLE, table)):
        handle = struct.unpack("!Q", parts[RULE_HANDLE])[0]
        read = _Reader(parts.get(RULE_EXPRESSIONS, b""), parts.get(RULE_USERDATA, b""))
        yield HiddenRule(text_of(parts[RULE_CHAIN]), handle, read.target, not read.matches, read.comment, read.words())


def delete_rules(family: Family, table: str, doomed: Iterable[HiddenRule]) -> None:
    """Deletes rules, all or none. Raises HostError, also when one of them is gone."""
    batch = [batch_begin()]
    for rule in doomed:
        place = text_attribute(RULE_TABLE, table) + text_attribute(RULE_CHAIN, rule.chain)
        handle = attribute(RULE_HANDLE, struct.pack("!Q", rule.handle))
        batch.append(message(DELRULE, REQUEST | ACK, _FAMILIES[family], place + handle))
    batch.append(batch_end())
    with _open() as connection:
        try:
            connection.send(numbered(batch, 0))
            for number, code in _acknowledgements(connection, len(batch) - 2):
                if code:
                    raise _error(f"cannot delete rule {number} of {table}", code)
        except OSError as error:
            raise _error(f"cannot delete rules of {table}", error.errno or 0) from error


def _acknowledgements(connection: socket.socket, count: int) -> Iterator[tuple[int, int]]:
    """The number of each message and its error, 0 for none."""
    while count > 0:
        for answer in messages(connection.recv(_DATAGRAM)):
            if answer.kind == NLMSG_ERROR:
                count -= 1
                yield answer.sequence, answer.error()


def _dump(kind: int, family: Family, payload: bytes) -> list[dict[int, bytes]]:
    for _ in range(_ATTEMPTS):
        try:
            with _open() as connection:
                connection.send(message(kind, REQUEST | DUMP, _FAMILIES[family], payload))
                return list(_answers(connection))
        except _InterruptedError:
            continue
        except OSError as error:
            if kind == GETTABLE and error.errno in _UNSUPPORTED:
                return []
            raise _error("cannot list the chains of nf_tables", error.errno or 0) from error
    raise HostError("cannot list the chains of nf_tables: others change them all the time")


def _answers(connection: socket.socket) -> Iterator[dict[int, bytes]]:
    while True:
        for answer in messages(connection.recv(_DATAGRAM)):
            if answer.flags & DUMP_INTERRUPTED:
                raise _InterruptedError
            if answer.kind in {NLMSG_DONE, NLMSG_ERROR}:
                if code := answer.error():
                    raise OSError(code, os.strerror(code))
                return
            yield dict(attributes(answer.body[FAMILY_HEADER:]))


def _open() -> socket.socket:
    try:
        connection = open_socket()
    except OSError as error:
        raise _error("cannot open a netlink socket to netfilter", error.errno or 0) from error
    connection.settimeout(_WAIT_SECONDS)
    return connection


class _Reader:
    """A rule's expressions, taken apart. `matches`: of each that is no counter its words, "" where it has none."""

    def __init__(self, expressions: bytes, userdata: bytes) -> None:
        self.target = ""
        self.comment = comment_in(userdata)
        self.matches: list[str] = []
        self._is_goto = False
        for _, item in attributes(expressions):
            parts = dict(attributes(item))
            self._read(text_of(parts.get(EXPRESSION_NAME, b"")), dict(attributes(parts.get(EXPRESSION_DATA, b""))))

    def words(self) -> str:
        """See `HiddenRule`."""
        if not self.target or self._is_goto or not all(self.matches):
            return ""
        comment = f"-m comment --comment {self.comment}" if self.comment else ""
        return " ".join(filter(None, (*self.matches, comment, f"-j {self.target}")))

    def _read(self, name: str, data: Mapping[int, bytes]) -> None:
        if name == "immediate":
            verdict = dict(attributes(dict(attributes(data.get(IMMEDIATE_DATA, b""))).get(DATA_VERDICT, b"")))
            if VERDICT_CODE in verdict:
                code = struct.unpack("!i", verdict[VERDICT_CODE])[0]
                self._is_goto = code == _GOTO
                self.target = text_of(verdict[VERDICT_CHAIN]) if VERDICT_CHAIN in verdict else _CODES.get(code, "")
        elif name == "target":
            self.target = text_of(data.get(TARGET_NAME, b""))
        elif name == "match" and text_of(data.get(MATCH_NAME, b"")) == "comment":
            self.comment = text_of(data.get(MATCH_INFO, b""))
        elif name == "match" and text_of(data.get(MATCH_NAME, b"")) == "conntrack":
            self.matches.append(_states(data.get(MATCH_INFO, b"")))
        elif name != "counter":
            self.matches.append("")


def _states(info: bytes) -> str:
    """`-m conntrack --ctstate NEW`; "" for all other matches of conntrack."""
    if len(info) < _CONNTRACK_OFFSET + _CONNTRACK.size or any(info[:_CONNTRACK_OFFSET]):
        return ""
    flags, inverted, states, _ = _CONNTRACK.unpack_from(info, _CONNTRACK_OFFSET)
    return (
        f"-m conntrack --ctstate {_STATES[states]}" if flags == _BY_STATE and not inverted and states in _STATES else ""
    )


def _error(what: str, number: int) -> HostError:
    if number in {errno.EPERM, errno.EACCES}:
        return HostError(NEEDED_FOR_IPTABLES)
    return HostError(f"{what}: {os.strerror(number) if number else 'no answer'}")
