"""Tables of other programs over netlink: chains with a hook, the rules of a chain, the numbers of chains and rules.

In: a netlink connection. Out: what the kernel lists, as far as it concerns those who look at others' rules. Reads no
set. A table may be made here that holds nothing but a comment. Attributes are those of linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from rulegen.config import Family
from rulegen.netlink.messages import (
    FAMILY_HEADER,
    NF_TABLES,
    REQUEST,
    attribute,
    attributes,
    comment_data,
    message,
    text_attribute,
    text_of,
)
from rulegen.nftables.messages import Connection

_SUBSYSTEM = NF_TABLES << 8
_NEWTABLE, _GETTABLE, _GETCHAIN, _GETRULE = _SUBSYSTEM, _SUBSYSTEM | 1, _SUBSYSTEM | 4, _SUBSYSTEM | 7
_CREATE = 0x400
_TABLE_NAME, _TABLE_HANDLE, _TABLE_USERDATA = 1, 4, 6
_CHAIN_TABLE, _CHAIN_HANDLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY = 1, 2, 3, 4, 5
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS = 1, 2, 3, 4
_POLICY_DROP = 0
_FAMILY_NUMBERS = {Family.IPV4: 2, Family.IPV6: 10}  # NFPROTO_IPV4, NFPROTO_IPV6
_S32 = struct.Struct("!i")


class BaseChain(NamedTuple):
    """A chain with a hook. `family`: the kernel's number (NFPROTO_*); `hook`: the number of the hook there.

    `drops`: its policy is drop.
    """

    family: int
    table: str
    name: str
    hook: int
    priority: int
    drops: bool


def base_chains(connection: Connection) -> list[BaseChain]:
    """Those of all families and tables. Raises InterruptedDumpError, KernelError."""
    found = []
    for family, parts in _list(connection, _GETCHAIN, 0):
        if _CHAIN_HOOK in parts:
            hook = dict(attributes(parts[_CHAIN_HOOK]))
            priority = _S32.unpack(hook[_HOOK_PRIORITY])[0] if _HOOK_PRIORITY in hook else 0
            drops = _CHAIN_POLICY in parts and _number(parts, _CHAIN_POLICY) == _POLICY_DROP
            names = _name(parts, _CHAIN_TABLE), _name(parts, _CHAIN_NAME)
            found.append(BaseChain(family, *names, _number(hook, _HOOK_NUMBER), priority, drops))
    return found


def rules_of(connection: Connection, family: int, table: str, chain: str) -> list[bytes]:
    """The expressions of each rule of one chain; `family` as in `BaseChain`. Nothing else is listed.

    Raises InterruptedDumpError, KernelError.
    """
    payload = text_attribute(_RULE_TABLE, table) + text_attribute(_RULE_CHAIN, chain)
    rules = (parts for _, parts in _list(connection, _GETRULE, family, payload))
    return [parts.get(_RULE_EXPRESSIONS, b"") for parts in rules if _name(parts, _RULE_CHAIN) == chain]


class Number(NamedTuple):
    """Of a table (`chain` is ""), a chain or a rule.

    A number is given once in the life of a namespace, or of the table: who writes a rule anew, even the same one, or
    makes the table anew, changes them.
    """

    table: str
    chain: str
    number: int


def numbers(connection: Connection, family: Family, is_wanted: Callable[[str, str], bool]) -> list[Number]:
    """Those of the chains, given by table and name, that are wanted, of their rules and their tables.

    Raises InterruptedDumpError, KernelError.
    """
    number = _FAMILY_NUMBERS[family]
    found = [
        Number(_name(parts, _CHAIN_TABLE), _name(parts, _CHAIN_NAME), _number(parts, _CHAIN_HANDLE))
        for _, parts in _list(connection, _GETCHAIN, number)
    ]
    found = [one for one in found if is_wanted(one.table, one.chain)]
    tables, wanted = {one.table for one in found}, {(one.table, one.chain) for one in found}
    for _, parts in _list(connection, _GETTABLE, number):
        if (name := _name(parts, _TABLE_NAME)) in tables:
            found.append(Number(name, "", _number(parts, _TABLE_HANDLE)))
    for table in sorted(tables):
        for _, parts in _list(connection, _GETRULE, number, text_attribute(_RULE_TABLE, table)):
            if (place := (_name(parts, _RULE_TABLE), _name(parts, _RULE_CHAIN))) in wanted:
                found.append(Number(*place, _number(parts, _RULE_HANDLE)))
    return found


def new_empty_table(family: Family, table: str, comment: str) -> bytearray:
    """`add table ip NAME { comment "..." ; }`; the comment has at most 128 bytes, as for nft."""
    payload = text_attribute(_TABLE_NAME, table) + attribute(_TABLE_USERDATA, comment_data(comment))
    return message(_NEWTABLE, REQUEST | _CREATE, _FAMILY_NUMBERS[family], payload)


def _list(
    connection: Connection, kind: int, family: int, payload: bytes = b""
) -> Iterator[tuple[int, Mapping[int, bytes]]]:
    """The family and the attributes of each."""
    return ((answer[0], dict(attributes(answer[FAMILY_HEADER:]))) for answer in connection.dump(kind, family, payload))


def _name(parts: Mapping[int, bytes], kind: int) -> str:
    return text_of(parts.get(kind, b""))


def _number(parts: Mapping[int, bytes], kind: int) -> int:
    return int.from_bytes(parts.get(kind, b""), "big")
