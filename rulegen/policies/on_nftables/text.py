"""A table of network policies as a file for people and `nft -f`. The same entries give the same bytes. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from ipaddress import ip_address

from rulegen.config import Family
from rulegen.policies.model import Address
from rulegen.policies.names import TABLE
from rulegen.policies.on_nftables.compiler import CHAINS, DECLARATIONS, SELF, EntryKey
from rulegen.policies.on_nftables.rules import IP
from rulegen.policies.ranges import text_of

_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}


def render_table(program: str, entries: Mapping[EntryKey, str], family: Family) -> Iterator[str]:
    """The lines of a file that replaces the table, in one transaction."""
    groups: defaultdict[str, dict[bytes, str]] = defaultdict(dict)
    for (group, key), value in entries.items():
        groups[group][key] = value
    ip = IP[family]
    yield f"add table {ip} {TABLE}\n"
    yield f"delete table {ip} {TABLE}\n"
    for line in program.splitlines(keepends=True):
        if line == "}\n":
            for part in (DECLARATIONS, CHAINS):
                for _, block in sorted(groups[part].items()):
                    yield "\n"
                    yield block
        yield line
    for name in sorted(groups.keys() - {CHAINS, DECLARATIONS}):
        yield f"add element {ip} {TABLE} {name} {{\n"
        for key, value in sorted(groups[name].items()):
            yield f"\t{_key_text(name, key, family)}{f' : {value}' if value else ''},\n"
        yield "}\n"


def _key_text(group: str, key: bytes, family: Family) -> str:
    size = 4 if family is Family.IPV4 else 16
    if group == SELF:
        return f"{_address(key[:size])} . {_address(key[size:])}"
    if group.startswith("blocks-"):
        return text_of((key[:size], key[size:]))
    if group.startswith("ports-"):
        first, last = int.from_bytes(key[4:6], "big"), int.from_bytes(key[12:14], "big")
        return f"{_PROTOCOLS[key[0]]} . " + (str(first) if first == last else f"{first}-{last}")
    if group.startswith("named"):
        port = int.from_bytes(key[size + 4 : size + 6], "big")
        return f"{_address(key[:size])} . {_PROTOCOLS[key[size]]} . {port}"
    return _address(key)


def _address(address: Address) -> str:
    return str(ip_address(address))
