"""A rule as the kernel encodes it comes in; which packets it is for and what becomes of them go out. Pure.

Attributes are those of linux/netfilter/nf_tables.h and, for what iptables-nft takes from x_tables, of xt_conntrack.h.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from rulegen.firewalls.model import Match, Rule, Verdict
from rulegen.netlink.messages import attributes, number_of, text_of
from rulegen.netlink.nf_tables import (
    DATA_VALUE,
    DATA_VERDICT,
    EXPRESSION_DATA,
    EXPRESSION_NAME,
    IMMEDIATE_DATA,
    MATCH_INFO,
    MATCH_NAME,
    VERDICT_CHAIN,
    VERDICT_CODE,
)

_CODES = {
    0: Verdict.DROP,
    1: Verdict.ACCEPT,
    0xFFFFFFFB: Verdict.RETURN,
    0xFFFFFFFC: Verdict.GOTO,
    0xFFFFFFFD: Verdict.JUMP,
}
# Expressions and extensions that let every packet through.
_SIDE_EFFECTS = frozenset({"counter", "log", "comment", "LOG", "NFLOG", "MARK", "CONNMARK", "TRACE"})
_CT_KEY, _CT_STATUS = 2, 2
_BITWISE_MASK, _BITWISE_XOR = 4, 5
_COMPARE_OPERATOR, _COMPARE_DATA, _NOT_EQUAL = 2, 3, 1
_IPS_DST_NAT = 0x20

# struct xt_conntrack_mtinfo2 and 3 from `match_flags` on, after eight addresses and masks, two times and five numbers.
_CONNTRACK_FLAGS = struct.Struct("=146xHHH")
_XT_STATE, _XT_STATE_ALIAS = 1 << 0, 1 << 13
_XT_STATE_DNAT = 1 << 7

_Expression: TypeAlias = tuple[str, Mapping[int, bytes]]


def read_rule(expressions: bytes) -> Rule:
    """What can be told of it; UNKNOWN for a condition that is not known to hold for all traffic of Services."""
    match, verdict, chain = Match.ALL, Verdict.NONE, ""
    parts = [part for part in _parts(expressions) if part[0] not in _SIDE_EFFECTS]
    if _is_status_test(parts[:3]):
        match, parts = Match.TRANSLATED, parts[3:]
    for name, data in parts:
        if verdict is not Verdict.NONE:
            return Rule(Match.UNKNOWN, Verdict.NONE)
        if name == "immediate":
            verdict, chain = _verdict(data)
        elif name in {"reject", "REJECT"}:
            verdict = Verdict.REJECT
        elif name == "conntrack" and match is Match.ALL and _is_of_translated(data.get(MATCH_INFO, b"")):
            match = Match.TRANSLATED
        else:
            return Rule(Match.UNKNOWN, Verdict.NONE)
    return Rule(match, verdict, chain)


def _parts(expressions: bytes) -> Iterator[_Expression]:
    for _, expression in attributes(expressions):
        parts = dict(attributes(expression))
        name, data = text_of(parts.get(EXPRESSION_NAME, b"")), dict(attributes(parts.get(EXPRESSION_DATA, b"")))
        if name in {"match", "target"}:  # an extension of x_tables
            name = text_of(data.get(MATCH_NAME, b""))
        yield name, data


def _is_status_test(parts: list[_Expression]) -> bool:
    """`ct status dnat`: the status, masked, is not 0."""
    if [name for name, _ in parts] != ["ct", "bitwise", "cmp"]:
        return False
    (_, load), (_, mask), (_, compare) = parts
    return (
        number_of(load, _CT_KEY) == _CT_STATUS
        and _value(mask, _BITWISE_MASK) == _IPS_DST_NAT
        and _value(mask, _BITWISE_XOR) == 0
        and number_of(compare, _COMPARE_OPERATOR) == _NOT_EQUAL
        and _value(compare, _COMPARE_DATA) == 0
    )


def _is_of_translated(information: bytes) -> bool:
    """`-m conntrack --ctstate DNAT`, perhaps with other states beside."""
    if len(information) < _CONNTRACK_FLAGS.size:
        return False
    flags, inverted, states = _CONNTRACK_FLAGS.unpack_from(information)
    return flags & ~_XT_STATE_ALIAS == _XT_STATE and not inverted and bool(states & _XT_STATE_DNAT)


def _verdict(data: Mapping[int, bytes]) -> tuple[Verdict, str]:
    content = dict(attributes(data.get(IMMEDIATE_DATA, b"")))
    verdict = dict(attributes(content.get(DATA_VERDICT, b"")))
    return _CODES.get(number_of(verdict, VERDICT_CODE), Verdict.NONE), text_of(verdict.get(VERDICT_CHAIN, b""))


def _value(parts: Mapping[int, bytes], kind: int) -> int:
    """Data of a register, in the machine's byte order."""
    return int.from_bytes(dict(attributes(parts.get(kind, b""))).get(DATA_VALUE, b""), sys.byteorder)
