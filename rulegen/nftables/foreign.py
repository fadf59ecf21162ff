"""Tables of other programs over netlink: chains with a hook, the rules of a chain, the handles of chains and rules.

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
    REQUEST,
    attribute,
    attributes,
    comment_data,
    message,
    number_of,
    text_attribute,
    text_of,
)
from rulegen.netlink.nf_tables import (
    CHAIN_HANDLE,
    CHAIN_HOOK,
    CHAIN_NAME,
    CHAIN_POLICY,
    CHAIN_TABLE,
    CREATE,
    GETCHAIN,
    GETRULE,
    GETTABLE,
    HOOK_NUMBER,
    HOOK_PRIORITY,
    NEWTABLE,
    RULE_CHAIN,
    RULE_EXPRESSIONS,
    RULE_HANDLE,
    RULE_TABLE,
    TABLE_DORMANT,
    TABLE_FLAGS,
    TABLE_HANDLE,
    TABLE_NAME,
    TABLE_USERDATA,
)
from rulegen.nftables.messages import Connection

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
    """Those of all families and tables that packets meet. Raises InterruptedDumpError, KernelError."""
    dormant = {
        (family, _name(parts, TABLE_NAME))
        for family, parts in _list(connection, GETTABLE, 0)
        if number_of(parts, TABLE_FLAGS) & TABLE_DORMANT
    }
    found = []
    for family, parts in _list(connection, GETCHAIN, 0):
        if CHAIN_HOOK in parts and (family, _name(parts, CHAIN_TABLE)) not in dormant:
            hook = dict(attributes(parts[CHAIN_HOOK]))
            priority = _S32.unpack(hook[HOOK_PRIORITY])[0] if HOOK_PRIORITY in hook else 0
            drops = CHAIN_POLICY in parts and number_of(parts, CHAIN_POLICY) == _POLICY_DROP
            names = _name(parts, CHAIN_TABLE), _name(parts, CHAIN_NAME)
            found.append(BaseChain(family, *names, number_of(hook, HOOK_NUMBER), priority, drops))
    return found


def rules_of(connection: Connection, family: int, table: str, chain: str) -> list[bytes]:
    """The expressions of each rule of one chain; `family` as in `BaseChain`. Nothing else is listed.

    Raises InterruptedDumpError, KernelError.
    """
    payload = text_attribute(RULE_TABLE, table) + text_attribute(RULE_CHAIN, chain)
    rules = (parts for _, parts in _list(connection, GETRULE, family, payload))
    return [parts.get(RULE_EXPRESSIONS, b"") for parts in rules if _name(parts, RULE_CHAIN) == chain]


class Handle(NamedTuple):
    """Of a table (`chain` is ""), a chain or a rule.

    nf_tables gives a handle once in the life of a namespace, or of the table: who writes a rule anew, even the same
    one, or makes the table anew, changes it.
    """

    table: str
    chain: str
    handle: int


def handles(connection: Connection, family: Family, is_wanted: Callable[[str, str], bool]) -> list[Handle]:
    """Those of the chains, given by table and name, that are wanted, of their rules and their tables.

    Raises InterruptedDumpError, KernelError.
    """
    number = _FAMILY_NUMBERS[family]
    found = [
        Handle(_name(parts, CHAIN_TABLE), _name(parts, CHAIN_NAME), number_of(parts, CHAIN_HANDLE))
        for _, parts in _list(connection, GETCHAIN, number)
    ]
    found = [one for one in found if is_wanted(one.table, one.chain)]
    tables, wanted = {one.table for one in found}, {(one.table, one.chain) for one in found}
    for _, parts in _list(connection, GETTABLE, number):
        if (name := _name(parts, TABLE_NAME)) in tables:
            found.append(Handle(name, "", number_of(parts, TABLE_HANDLE)))
    for table in sorted(tables):
        for _, parts in _list(connection, GETRULE, number, text_attribute(RULE_TABLE, table)):
            if (place := (_name(parts, RULE_TABLE), _name(parts, RULE_CHAIN))) in wanted:
                found.append(Handle(*place, number_of(parts, RULE_HANDLE)))
    return found


def new_empty_table(family: Family, table: str, comment: str) -> bytearray:
    """`add table ip NAME { comment "..." ; }`; the comment has at most 128 bytes, as for nft."""
    payload = text_attribute(TABLE_NAME, table) + attribute(TABLE_USERDATA, comment_data(comment))
    return message(NEWTABLE, REQUEST | CREATE, _FAMILY_NUMBERS[family], payload)


def _list(
    connection: Connection, kind: int, family: int, payload: bytes = b""
) -> Iterator[tuple[int, Mapping[int, bytes]]]:
    """The family and the attributes of each."""
    return ((answer[0], dict(attributes(answer[FAMILY_HEADER:]))) for answer in connection.dump(kind, family, payload))


def _name(parts: Mapping[int, bytes], kind: int) -> str:
    return text_of(parts.get(kind, b""))
