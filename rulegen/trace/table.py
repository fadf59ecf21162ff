"""The table that marks packets: which are wanted comes in, messages of nf_tables go out. It sends none of them itself.

The table belongs to the netlink socket that makes it (`flags owner`), so that it goes with whoever made it, SIGKILL
included, and nobody else can change it meanwhile:

    table inet rulegen-trace-4f1d90a2 {
        flags owner
        chain mark {
            limit rate over 200/second burst 200 packets counter return
            meta nftrace set 1
        }
        chain arrives   { type filter hook prerouting priority -399; ... goto mark; }
        chain sent      { type filter hook output priority -399; ... goto mark; }
        chain forwarded { type filter hook forward priority -399; }
        chain leaves    { type filter hook postrouting priority 2147483646; }
        chain to-node   { type filter hook input priority -399; }
        chain delivered { type filter hook input priority 2147483646; }
    }

The first three mark. The others hold no rule: that a marked packet has come by is told of them as of any chain, with
its headers as they are by then. So what legacy iptables and conntrack did in between shows as well.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from rulegen.claims import TRACE_HOOKS
from rulegen.config import Family
from rulegen.netlink.messages import (
    NESTED,
    REQUEST,
    attribute,
    attributes,
    message,
    number_of,
    text_attribute,
    text_of,
)
from rulegen.netlink.nf_tables import (
    APPEND,
    CHAIN_HOOK,
    CHAIN_NAME,
    CHAIN_POLICY,
    CHAIN_TABLE,
    CHAIN_TYPE,
    CREATE,
    DATA_VALUE,
    DATA_VERDICT,
    DELTABLE,
    EXCLUSIVE,
    EXPRESSION_DATA,
    EXPRESSION_NAME,
    HOOK_NUMBER,
    HOOK_PRIORITY,
    IMMEDIATE_DATA,
    LIST_ITEM,
    NEWCHAIN,
    NEWRULE,
    NEWTABLE,
    RULE_CHAIN,
    RULE_EXPRESSIONS,
    RULE_TABLE,
    TABLE_FLAGS,
    TABLE_NAME,
    TABLE_OWNER,
    VERDICT_CHAIN,
    VERDICT_CODE,
)
from rulegen.trace.packet import PROTOCOLS, End, Wanted

PREFIX = "rulegen-trace-"
MARK = "mark"
ARRIVES, SENT = "arrives", "sent"
FORWARDED, LEAVES, TO_NODE, DELIVERED = "forwarded", "leaves", "to-node", "delivered"
ENTRANCES = (MARK, ARRIVES, SENT)

# What more packets than this come in a second is counted, and not followed: each costs the kernel some 20 messages.
PACKETS_PER_SECOND = 200

INET = 1
# NF_INET_* of linux/netfilter.h.
_HOOK_NUMBERS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
_ACCEPT = 1
_RETURN, _GOTO = -5, -4

# Of linux/netfilter/nf_tables.h.
_META_REGISTER, _META_KEY, _META_SOURCE_REGISTER = 1, 2, 3
_KEY_NFTRACE, _KEY_NFPROTO, _KEY_L4PROTO = 12, 15, 16
_COMPARE_REGISTER, _COMPARE_OPERATOR, _COMPARE_DATA = 1, 2, 3
_EQUAL = 0
_PAYLOAD_REGISTER, _PAYLOAD_BASE, _PAYLOAD_OFFSET, _PAYLOAD_LENGTH = 1, 2, 3, 4
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_IMMEDIATE_REGISTER = 1
_LIMIT_RATE, _LIMIT_UNIT, _LIMIT_BURST, _LIMIT_TYPE, _LIMIT_FLAGS = 1, 2, 3, 4, 5
_LIMIT_INVERTED = 1
_COUNTER_PACKETS = 2
_REGISTER, _VERDICT_REGISTER = 1, 0


class _Layout(NamedTuple):
    """A family's number (NFPROTO_*, AF_*), and where the addresses are in its header."""

    number: int
    source: int
    destination: int


_LAYOUTS = {
    Family.IPV4: _Layout(socket.AF_INET, 12, 16),
    Family.IPV6: _Layout(socket.AF_INET6, 8, 24),
}


def new_table(name: str, alternatives: Sequence[Wanted]) -> list[bytearray]:
    """The messages of one transaction; a packet of any of the alternatives is marked."""
    flags = attribute(TABLE_FLAGS, _u32(TABLE_OWNER))
    batch = [message(NEWTABLE, REQUEST | CREATE | EXCLUSIVE, INET, text_attribute(TABLE_NAME, name) + flags)]
    batch.append(message(NEWCHAIN, REQUEST | CREATE, INET, _chain_name(name, MARK)))
    batch += [_new_chain(name, chain) for chain in TRACE_HOOKS]
    # limit rate over 200/second burst 200 packets counter return
    batch.append(_new_rule(name, MARK, _limit() + _expression("counter", b"") + _verdict(_RETURN)))
    # meta nftrace set 1
    batch.append(_new_rule(name, MARK, _mark()))
    for chain, wanted in product((ARRIVES, SENT), alternatives):
        for condition in _conditions(wanted) if chain == SENT or not wanted.only_own else ():
            # ip saddr 10.128.0.9 ip daddr 10.96.0.10 tcp dport 80 goto mark
            batch.append(_new_rule(name, chain, condition + _verdict(_GOTO, MARK)))
    return batch


def delete_table(name: str) -> bytearray:
    """`delete table inet NAME`."""
    return message(DELTABLE, REQUEST, INET, text_attribute(TABLE_NAME, name))


def counted(expressions: bytes) -> int:
    """The packets that a rule's counter has counted; 0 for a rule without."""
    for _, expression in attributes(expressions):
        parts = dict(attributes(expression))
        if text_of(parts[EXPRESSION_NAME]) == "counter":
            return number_of(dict(attributes(parts[EXPRESSION_DATA])), _COUNTER_PACKETS)
    return 0


def _new_chain(table: str, name: str) -> bytearray:
    hook = TRACE_HOOKS[name]
    place = attribute(HOOK_NUMBER, _u32(_HOOK_NUMBERS[hook.hook]))
    place += attribute(HOOK_PRIORITY, struct.pack("!i", hook.priority))
    payload = _chain_name(table, name)
    payload += attribute(CHAIN_HOOK | NESTED, place) + text_attribute(CHAIN_TYPE, hook.kind)
    return message(NEWCHAIN, REQUEST | CREATE, INET, payload + attribute(CHAIN_POLICY, _u32(_ACCEPT)))


def _chain_name(table: str, name: str) -> bytes:
    return text_attribute(CHAIN_TABLE, table) + text_attribute(CHAIN_NAME, name)


def _new_rule(table: str, chain: str, expressions: bytes) -> bytearray:
    payload = text_attribute(RULE_TABLE, table) + text_attribute(RULE_CHAIN, chain)
    payload += attribute(RULE_EXPRESSIONS | NESTED, expressions)
    return message(NEWRULE, REQUEST | CREATE | APPEND, INET, payload)


def _conditions(wanted: Wanted) -> list[bytes]:
    """One or several: the packets that any of them lets through are wanted."""
    protocols = [number for number, name in PROTOCOLS.items() if name == wanted.protocol]
    if not protocols and (wanted.source.port or wanted.destination.port):
        protocols = [number for number, name in PROTOCOLS.items() if name != "icmp"]
    found = []
    for number in protocols or [0]:
        expressions = b""
        if wanted.family:
            # meta nfproto ipv4
            expressions += _meta_is(_KEY_NFPROTO, bytes([_LAYOUTS[wanted.family].number]))
            layout = _LAYOUTS[wanted.family]
            # ip saddr 10.128.0.9 ip daddr 10.96.0.10
            expressions += _address_is(layout, layout.source, wanted.source)
            expressions += _address_is(layout, layout.destination, wanted.destination)
        if number:
            # meta l4proto tcp
            expressions += _meta_is(_KEY_L4PROTO, bytes([number]))
        # th sport 40000 th dport 80
        for offset, end in ((0, wanted.source), (2, wanted.destination)):
            if end.port:
                expressions += _payload_is(_TRANSPORT_HEADER, offset, struct.pack("!H", end.port))
        found.append(expressions)
    return found


def _address_is(layout: _Layout, offset: int, end: End) -> bytes:
    return _payload_is(_NETWORK_HEADER, offset, socket.inet_pton(layout.number, end.address)) if end.address else b""


def _meta_is(key: int, value: bytes) -> bytes:
    load = attribute(_META_KEY, _u32(key)) + attribute(_META_REGISTER, _u32(_REGISTER))
    return _expression("meta", load) + _compare(value)


def _payload_is(base: int, offset: int, value: bytes) -> bytes:
    load = attribute(_PAYLOAD_REGISTER, _u32(_REGISTER)) + attribute(_PAYLOAD_BASE, _u32(base))
    load += attribute(_PAYLOAD_OFFSET, _u32(offset)) + attribute(_PAYLOAD_LENGTH, _u32(len(value)))
    return _expression("payload", load) + _compare(value)


def _compare(value: bytes) -> bytes:
    content = attribute(_COMPARE_REGISTER, _u32(_REGISTER)) + attribute(_COMPARE_OPERATOR, _u32(_EQUAL))
    return _expression("cmp", content + attribute(_COMPARE_DATA | NESTED, attribute(DATA_VALUE, value)))


def _limit() -> bytes:
    content = attribute(_LIMIT_RATE, struct.pack("!Q", PACKETS_PER_SECOND)) + attribute(
        _LIMIT_UNIT, struct.pack("!Q", 1)
    )
    content += attribute(_LIMIT_BURST, _u32(PACKETS_PER_SECOND)) + attribute(_LIMIT_TYPE, _u32(0))
    return _expression("limit", content + attribute(_LIMIT_FLAGS, _u32(_LIMIT_INVERTED)))


def _verdict(code: int, chain: str = "") -> bytes:
    target = text_attribute(VERDICT_CHAIN, chain) if chain else b""
    verdict = attribute(DATA_VERDICT | NESTED, attribute(VERDICT_CODE, struct.pack("!i", code)) + target)
    content = attribute(_IMMEDIATE_REGISTER, _u32(_VERDICT_REGISTER)) + attribute(IMMEDIATE_DATA | NESTED, verdict)
    return _expression("immediate", content)


def _mark() -> bytes:
    one = attribute(_IMMEDIATE_REGISTER, _u32(_REGISTER))
    one += attribute(IMMEDIATE_DATA | NESTED, attribute(DATA_VALUE, b"\1"))
    setting = attribute(_META_KEY, _u32(_KEY_NFTRACE)) + attribute(_META_SOURCE_REGISTER, _u32(_REGISTER))
    return _expression("immediate", one) + _expression("meta", setting)


def _expression(name: str, data: bytes) -> bytes:
    content = text_attribute(EXPRESSION_NAME, name) + attribute(EXPRESSION_DATA | NESTED, data)
    return attribute(LIST_ITEM | NESTED, content)


def _u32(number: int) -> bytes:
    return struct.pack("!I", number)
