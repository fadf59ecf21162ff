"""Records as a server has them come in; which of them are ours, and which names are somebody else's, goes out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from rulegen.dns.record_sets import Entries, RecordKey, RecordSet
from rulegen.dns.registry import holder_of, registered
from rulegen.dns.server import Record
from rulegen.dns.updates import Ownership

# What a server that signs a zone puts beside every record, a CNAME too (RFC 4035, 2.5).
_SIGNING = frozenset({"RRSIG", "NSEC", "NSEC3"})

IsOurs = Callable[[RecordKey, Collection[str]], bool]


class Found(NamedTuple):
    """What zones hold. `ours`: our record sets; `others`: the types that others have at a name."""

    ours: Entries
    others: dict[str, set[str]]
    ownership: Ownership

    def blocks(self, key: RecordKey) -> bool:
        """Whether somebody else's record is where ours would be, or cannot be beside it (RFC 1034, 3.6.2)."""
        types = self.others.get(key.owner)
        return types is not None and (key.type in types or key.type == "CNAME" or "CNAME" in types)


def sorted_out(zone: str, records: Iterable[Record], known: Entries, is_ours: IsOurs) -> Found:
    """`known`: what we have put there ourselves, whatever the registry says by now."""
    sets: dict[RecordKey, tuple[int, set[str]]] = {}
    for record in records:
        key = RecordKey(zone, record.owner, record.type)
        if key in sets:
            sets[key][1].add(record.data)
        else:
            sets[key] = (record.ttl, {record.data})
    found = Found({}, {}, Ownership())
    holders = _registry(zone, sets, found.ownership)
    for key, (ttl, texts) in sets.items():
        records_of_key = tuple(sorted(texts))
        holder = holders.get(key)
        if holder is not None or is_ours(key, records_of_key) or _is_known(known.get(key), records_of_key):
            found.ours[key] = RecordSet(ttl, records_of_key, holder)
        elif key.type not in _SIGNING:
            found.others.setdefault(key.owner, set()).add(key.type)
    return found


def _registry(zone: str, sets: dict[RecordKey, tuple[int, set[str]]], ownership: Ownership) -> dict[RecordKey, str]:
    """Takes the registry out of `sets`; whose each record set is that it speaks of."""
    holders: dict[RecordKey, str] = {}
    for key in [key for key in sets if holder_of(key) is not None]:
        holder = holder_of(key)
        assert holder is not None  # noqa: S101 - chosen so
        ttl, texts = sets.pop(key)
        keys = list(registered(zone, texts))
        ownership.note(holder, key, RecordSet(ttl, tuple(sorted(texts)), None), keys)
        holders |= dict.fromkeys(keys, holder)
    return holders


def _is_known(known: RecordSet | None, records: tuple[str, ...]) -> bool:
    return known is not None and known.records == records
