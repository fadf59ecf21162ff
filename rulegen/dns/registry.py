"""Which records of a zone are ours: keys come in, the text records that say so go out, and back. Pure.

`web.shop._rulegen.cluster.local. TXT "web.shop.svc A AAAA" "_http._tcp.web.shop.svc SRV"` says whose these are. It is
changed in the same messages as what it speaks of, so that both are in force together. What a large holder has is
written down in parts, at names of their own (`_17.web.shop._rulegen`): all of it would not fit into a record set, and a
change writes a little of it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from zlib import crc32

from rulegen.dns.record_sets import REGISTRY, Entries, RecordKey, RecordSet

# So many record sets are written down in one place.
_IN_ONE_PLACE = 64
PARTS = range(64)
# Longer than what a name of ours could be, and what a character-string holds (RFC 1035, 3.3).
_LONGEST_STRING = 255
# What is ever written down. Anybody who may change the zone can write anything else there.
_TYPES = frozenset({"A", "AAAA", "CNAME", "PTR", "SRV", "TXT"})
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.")
_LONGEST_NAME = 254
_PART = re.compile(r"_(\d{1,2})\.")


def holder_of(key: RecordKey) -> str | None:
    """The holder whose registry a record set is, or is a part of; None for one that is none."""
    end = f"{REGISTRY}.{key.zone}"
    if key.type != "TXT" or not (key.owner == end or key.owner.endswith(f".{end}")):
        return None
    return _PART.sub("", key.owner.removesuffix(end), count=1).removesuffix(".")


def part_of(owner: str) -> int:
    """Changes that concern the same records are made together."""
    return crc32(owner.encode("utf-8", "backslashreplace")) % len(PARTS)


def registry(zone: str, holder: str, keys: Collection[RecordKey], ttl: int, of: Collection[int] = PARTS) -> Entries:
    """The record sets that write down the keys of one holder; where it has parts, `of` these alone."""
    if not is_in_parts(keys):
        return {_place(zone, holder): RecordSet(ttl, (_text(zone, keys),), None)} if keys else {}
    parts: dict[int, list[RecordKey]] = {}
    for key in keys:
        if (part := part_of(key.owner)) in of:
            parts.setdefault(part, []).append(key)
    return {
        _place(zone, f"_{part}.{holder}".rstrip(".")): RecordSet(ttl, (_text(zone, of_part),), None)
        for part, of_part in parts.items()
    }


def is_in_parts(keys: Collection[RecordKey]) -> bool:
    """Whether the registry of a holder with these is at several names."""
    return len(keys) > _IN_ONE_PLACE


def place_of(key: RecordKey) -> int | None:
    """The part that a record set of the registry is; None for a whole one."""
    found = _PART.match(key.owner)
    return int(found[1]) if found else None


def _place(zone: str, holder: str) -> RecordKey:
    return RecordKey(zone, f"{holder}.{REGISTRY}.{zone}" if holder else f"{REGISTRY}.{zone}", "TXT")


def _text(zone: str, keys: Iterable[RecordKey]) -> str:
    """One text record, as in a zone file."""
    types: dict[str, list[str]] = {}
    for key in sorted(keys):
        types.setdefault(key.owner, []).append(key.type)
    return " ".join(f'"{owner.removesuffix(f".{zone}")} {" ".join(of_owner)}"' for owner, of_owner in types.items())


def registered(zone: str, records: Iterable[str]) -> Iterator[RecordKey]:
    """The keys that text records speak of; what is none of ours in them is passed over."""
    for record in records:
        for string in record.split('"'):
            relative, *types = string.split(" ") if len(string) <= _LONGEST_STRING else ("",)
            owner = f"{relative}.{zone}"
            if len(owner) <= _LONGEST_NAME and _NAME.fullmatch(owner):
                yield from (RecordKey(zone, owner, one) for one in types if one in _TYPES)
