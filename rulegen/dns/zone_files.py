"""Entries come in; zone files (RFC 1035, 5) go out, as a server loads them, and back. Same entries, same bytes.

A file has all that we would put into the zone, the registry too, so that what a server has loaded from it is known to
be ours. The SOA and the NS are those of RFC 6303: they are the server's business, and never compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from rulegen.dns.record_sets import Entries, RecordKey, RecordSet, Zones
from rulegen.dns.registry import registry
from rulegen.dns.server import Record
from rulegen.dns.zone_data import sorted_out
from rulegen.errors import InputError, shown

_HEADER = """\
; zone {zone}
$ORIGIN {zone}
{zone} {ttl} IN SOA localhost. nobody.invalid. 1 3600 1200 604800 {ttl}
{zone} {ttl} IN NS localhost.
"""


def render(entries: Mapping[RecordKey, RecordSet], zones: Zones, ttl: int) -> Iterator[str]:
    """A zone after the other; `ttl`: of what is beside the entries."""
    by_zone: dict[str, dict[RecordKey, RecordSet]] = {zone: {} for zone in zones.all}
    for key, value in {**entries, **_registry(entries, ttl)}.items():
        by_zone[key.zone][key] = value
    for number, (zone, of_zone) in enumerate(by_zone.items()):
        yield ("\n" if number else "") + _HEADER.format(zone=zone, ttl=ttl)
        for key in sorted(of_zone, key=_canonical):
            value = of_zone[key]
            for record in value.records:
                yield f"{key.owner} {value.ttl} IN {key.type} {record}\n"


def _canonical(key: RecordKey) -> tuple[list[str], str]:
    """By the name from its end, as a zone is a tree."""
    return key.owner.split(".")[::-1], key.type


def _registry(entries: Mapping[RecordKey, RecordSet], ttl: int) -> Entries:
    holders: dict[tuple[str, str], list[RecordKey]] = {}
    for key, value in entries.items():
        if value.holder is not None:
            holders.setdefault((key.zone, value.holder), []).append(key)
    found: Entries = {}
    for (zone, holder), keys in holders.items():
        found |= registry(zone, holder, keys, ttl)
    return found


_LINE = re.compile(r"(?P<owner>[^\s;]+) (?P<ttl>\d{1,10}) IN (?P<type>[A-Z0-9]+) (?P<data>.+)")


def parse(lines: Iterable[str], source: str) -> Entries:
    """What a file that `render` wrote has of ours; what others have written beside it is passed over.

    Raises InputError, with the line that is none of a zone file as `render` writes them.
    """
    records: dict[str, list[Record]] = {}
    zone = ""
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith("$ORIGIN "):
            zone = text.removeprefix("$ORIGIN ")
        elif text and not text.startswith(";"):
            found = _LINE.fullmatch(text)
            if found is None or not zone:
                raise InputError(f"{source}, line {number}: expected a record as rulegen renders it, got {shown(text)}")
            record = Record(found["owner"], found["type"], int(found["ttl"]), found["data"])
            records.setdefault(zone, []).append(record)
    entries: Entries = {}
    for name, of_zone in records.items():
        entries |= sorted_out(name, of_zone, {}, lambda key, _: key.type == "PTR").ours
    return entries
