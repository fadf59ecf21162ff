"""A Service or a DNS name comes in; which records there are, and why others are not, goes out. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from rulegen.dns.record_sets import RecordKey, RecordSet
from rulegen.errors import InputError, shown
from rulegen.records.compiler import RecordCompiler
from rulegen.records.store import ServiceKey, Store


class ExplainedRecord(Struct, frozen=True, kw_only=True):
    """A record set. `services`: whose it is, as `shop/web`; none for what the zone says of itself."""

    owner: str
    type: str
    ttl: int
    records: tuple[str, ...]
    services: tuple[str, ...]


class RecordsExplanation(Struct, frozen=True, kw_only=True, tag_field="version", tag=1):
    """`asked`: as a person named it, in full. `answer`: of a name, what a server says of it.

    `answer`: `records`, `NODATA` (of what type ever), `NXDOMAIN`; "" where a Service was named. `reasons`: in words.
    """

    asked: str
    answer: str
    records: tuple[ExplainedRecord, ...]
    reasons: tuple[str, ...]


def explain(asked: str, store: Store, compiler: RecordCompiler) -> RecordsExplanation:
    """`asked`: `shop/web`, or a name in one of the zones. The compiler has seen all of the store.

    Raises InputError for a Service that there is not, and for a name that is in none of the zones.
    """
    if "/" in asked:
        return _of_service(asked, store, compiler)
    return _of_name(f"{asked.rstrip('.').lower()}.", store, compiler)


def _of_service(asked: str, store: Store, compiler: RecordCompiler) -> RecordsExplanation:
    namespace, _, name = asked.partition("/")
    if not store.has((namespace, name)):
        raise InputError(f"there is no Service {shown(asked)}")
    found = compiler.entries_of((namespace, name))
    records = tuple(_explained(key, found[key], compiler) for key in sorted(found))
    return RecordsExplanation(asked=asked, answer="", records=records, reasons=tuple(store.why((namespace, name))))


def _of_name(name: str, store: Store, compiler: RecordCompiler) -> RecordsExplanation:
    zones = compiler.zones.all
    if not any(name == zone or name.endswith(f".{zone}") for zone in zones):
        raise InputError(f"{shown(name)} is in none of the zones {', '.join(zones)}")
    entries = compiler.entries()
    found = sorted(key for key in entries if key.owner == name)
    records = tuple(_explained(key, entries[key], compiler) for key in found)
    answer = "records"
    if not found:
        is_above = any(key.owner.endswith(f".{name}") for key in entries)
        answer = "NODATA" if is_above or name in zones else "NXDOMAIN"
    return RecordsExplanation(
        asked=name, answer=answer, records=records, reasons=tuple(_why_of_name(name, store, compiler))
    )


def _why_of_name(name: str, store: Store, compiler: RecordCompiler) -> Iterator[str]:
    end = f".svc.{compiler.zones.forward}"
    labels = name.removesuffix(end).split(".")
    if not name.endswith(end) or len(labels) < 2:
        return
    key: ServiceKey = (labels[-1], labels[-2])
    if store.has(key):
        yield from store.why(key)
    else:
        yield f"there is no Service {key[0]}/{key[1]}"


def _explained(key: RecordKey, value: RecordSet, compiler: RecordCompiler) -> ExplainedRecord:
    services = compiler.owners({})(key, value)
    return ExplainedRecord(
        owner=key.owner,
        type=key.type,
        ttl=value.ttl,
        records=value.records,
        services=tuple(services.split(", ")) if services else (),
    )
