"""Which records of a zone are ours: keys come in, the text records that say so go out, and back. Pure.

`web.shop._rulegen.cluster.local. TXT "@ A AAAA" "_http._tcp SRV"` says whose `web.shop.svc.cluster.local` and what is
below are. It is changed in the same messages as what it speaks of, so that both are in force together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from zlib import crc32

from rulegen.dns.record_sets import REGISTRY, RecordKey

# Of larger holders each record speaks of a part, so that a change writes a little of it.
_ONE_RECORD = 64
_PARTS = 64
# Longer than what a name of ours could be, and what a character-string holds (RFC 1035, 3.3).
_LONGEST_STRING = 255


def registry_key(zone: str, holder: str) -> RecordKey:
    """Where it is written down."""
    return RecordKey(zone, f"{holder}.{REGISTRY}.{zone}" if holder else f"{REGISTRY}.{zone}", "TXT")


def holder_of(key: RecordKey) -> str | None:
    """The holder whose registry a record set is; None for one that is none."""
    end = f"{REGISTRY}.{key.zone}"
    if key.type != "TXT" or not (key.owner == end or key.owner.endswith(f".{end}")):
        return None
    return key.owner.removesuffix(end).removesuffix(".")


def part_of(owner: str) -> int:
    """Changes that concern the same records are made together."""
    return crc32(owner.encode("utf-8", "backslashreplace")) % _PARTS


def registry_records(keys: Collection[RecordKey]) -> tuple[str, ...]:
    """The text records for the keys of one holder, as in a zone file; sorted."""
    types: dict[str, list[str]] = {}
    for key in sorted(keys):
        types.setdefault(key.owner, []).append(key.type)
    parts: dict[int, list[str]] = {}
    is_small = len(types) <= _ONE_RECORD
    for owner, of_owner in types.items():
        relative = owner.removesuffix(f".{next(iter(keys)).zone}")
        parts.setdefault(0 if is_small else part_of(owner), []).append(f'"{relative} {" ".join(of_owner)}"')
    return tuple(sorted(" ".join(strings) for strings in parts.values()))


def registered(zone: str, records: Iterable[str]) -> Iterator[RecordKey]:
    """The keys that text records speak of; what is none of ours in them is passed over."""
    for record in records:
        for string in record.split('"'):
            relative, *types = string.split(" ") if len(string) <= _LONGEST_STRING else ("",)
            if relative:
                yield from (RecordKey(zone, f"{relative}.{zone}", one) for one in types if one)
