"""Messages of a Delta: what fits into one, and in which order; and that nobody writes who may not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from rulegen.config import RecordSettings, SocketAddress
from rulegen.dns.driver import DnsDriver
from rulegen.dns.live_records import LiveRecords, Manner
from rulegen.dns.record_sets import RecordKey, RecordSet, Zones
from rulegen.dns.registry import registry
from rulegen.dns.server import Record, Server
from rulegen.dns.updates import Message, Ownership, UpdateWriter, messages
from rulegen.dns.versions import Versions
from rulegen.errors import HostError
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.delta import Change, Delta
from rulegen.records.compiler import RecordCompiler
from rulegen.records.schema import ServiceRecords
from rulegen.reference import ObjectReference
from tests.records.servers import serving

ZONE = "cluster.local."


def key(name: str, kind: str = "A") -> RecordKey:
    return RecordKey(ZONE, f"{name}.{ZONE}", kind)


def record_set(*records: str, holder: str = "web.shop") -> RecordSet:
    return RecordSet(5, tuple(sorted(records)), holder)


def _sizes(found: list[Message]) -> list[int]:
    """Of each message as it is sent, with what the registry says."""
    writer, ownership = UpdateWriter(), Ownership()
    sizes = []
    for message in found:
        consequence = ownership.consequence(message, 5)
        sizes.append(len(writer.update_of(message, consequence).to_wire()))
        ownership.took(consequence)
    return sizes


def test_messages_are_large_and_none_is_too_large() -> None:
    one = {key(f"h-{n}.web.shop.svc"): record_set(f"10.0.{n // 250}.{n % 250}") for n in range(2000)}
    many = {
        key(f"h-{n}.s-{n % 500}.shop.svc"): record_set(f"10.0.{n // 250}.{n % 250}", holder=f"s-{n % 500}.shop")
        for n in range(2000)
    }
    huge = {key("web.shop.svc"): record_set(*(f"10.0.{n // 250}.{n % 250}" for n in range(3750)))}
    for added in (one, many, huge):
        sizes = _sizes(list(messages(Delta(added, {}, {}))))
        assert max(sizes) < 65_000
        assert sum(sizes[:-1]) / len(sizes[:-1]) > 30_000


def test_what_goes_is_gone_before_what_cannot_be_beside_it_comes() -> None:
    name = key("web.shop.svc", "CNAME")
    delta = Delta({key("web.shop.svc"): record_set("10.0.0.1")}, {}, {name: record_set("www.example.com.")})
    steps = [step for message in messages(delta) for step in message.steps]
    assert [step.key.type for step in steps] == ["CNAME", "A"]


def test_a_change_of_a_large_service_writes_little() -> None:
    old = {key(f"h-{n}.web.shop.svc"): record_set(f"10.0.{n // 250}.{n % 250}") for n in range(5000)}
    ownership = Ownership()
    for message in messages(Delta(old, {}, {})):
        ownership.took(ownership.consequence(message, 5))
    changed, gone = key("h-1.web.shop.svc"), key("h-2.web.shop.svc")
    delta = Delta(
        {key("new.web.shop.svc"): record_set("10.9.0.1")},
        {changed: Change(old[changed], record_set("10.9.0.2"))},
        {gone: old[gone]},
    )
    (message,) = messages(delta)
    consequence = ownership.consequence(message, 5)
    # The parts that speak of what comes and of what goes; that which has changed is as before.
    assert len(consequence.steps) == 2
    assert len(UpdateWriter().update_of(message, consequence).to_wire()) < 15_000


class _Zone:
    """A server with one zone that holds these records."""

    def __init__(self, *records: Record) -> None:
        self.records = records

    def transfer(self, zone: str) -> Iterator[Record]:
        yield Record(zone, "SOA", 5, f"localhost. nobody.invalid. {len(self.records)} 1 1 1 1")
        yield from self.records


def _kept(zone: _Zone) -> tuple[LiveRecords, list[str]]:
    """Records that keep it, and what a person is told."""
    server, told = cast(Server, zone), list[str]()
    compilers = CompilerSet({"records": RecordCompiler(Zones(ZONE, ()), 5)})
    return LiveRecords(server, Versions(server), compilers, Manner(5, told.append)), told


def _asked(kind: str, *records: str, name: str = "web") -> ServiceRecords:
    return ServiceRecords({(f"{name}.shop.svc.{ZONE}", kind): records}, {})


def test_what_was_never_there_is_not_taken_away() -> None:
    """As a server would refuse it, and all that goes with it."""
    rules, told = _kept(_Zone(Record(f"web.shop.svc.{ZONE}", "TXT", 5, '"theirs"')))
    rules.read()
    service = ("shop", "web")
    delta, _ = rules.update({"records": {service: _asked("CNAME", "example.org.")}}, {})
    assert (len(delta), told) == (0, [f"web.shop.svc.{ZONE} CNAME: somebody else's record is there, and is left alone"])
    delta, _ = rules.update({"records": {service: _asked("A", "10.96.0.1")}}, {})
    assert (len(delta.added), len(delta)) == (1, 1)
    rules.update({"records": {service: _asked("CNAME", "example.org.")}}, {})
    delta, _ = rules.update({"records": {service: None}}, {})
    assert not delta


def test_a_place_that_is_taken_again_is_told_of_again() -> None:
    theirs = Record(f"web.shop.svc.{ZONE}", "A", 5, "192.0.2.1")
    zone = _Zone(theirs)
    rules, told = _kept(zone)
    for records, count in (((theirs,), 1), ((theirs,), 1), ((), 1), ((theirs,), 2)):
        zone.records = records
        rules.read()
        rules.update({"records": {("shop", "web"): _asked("A", "10.96.0.1")}}, {})
        rules.difference()
        assert len(told) == count


def test_what_only_the_registry_has_goes_also_beside_records_of_others() -> None:
    ((place, written),) = registry(ZONE, "old.shop", [key("old.shop.svc")], 5).items()
    theirs = Record(f"web.shop.svc.{ZONE}", "A", 5, "192.0.2.1")
    rules, _ = _kept(_Zone(theirs, Record(place.owner, place.type, 5, written.records[0])))
    rules.read()
    rules.update({"records": {("shop", "web"): _asked("A", "10.96.0.1")}}, {})
    assert list(rules.difference().removed) == [key("old.shop.svc")]


def test_what_an_unreadable_service_has_stays_when_others_want_it_too() -> None:
    """As a name that two Services have is one record set."""
    end = f"svc.{ZONE}"
    zone = "10.in-addr.arpa."
    server = cast(Server, _Zone(Record("1.0.96.10.in-addr.arpa.", "PTR", 5, f"a.shop.{end}")))
    compilers = CompilerSet({"records": RecordCompiler(Zones(ZONE, (zone,)), 5)})
    rules = LiveRecords(server, Versions(server), compilers, Manner(5))
    rules.preserve_unreadable({"records": [ObjectReference("Service", "shop", "a")]})
    rules.read()
    rules.update({"records": {}}, {})
    assert not rules.difference()
    asked = ServiceRecords({}, {"10.96.0.1": (f"b.shop.{end}",)})
    delta, _ = rules.update({"records": {("shop", "b"): asked}}, {})
    assert not delta


@pytest.mark.kernel
def test_nothing_is_written_by_who_may_not(tmp_path: Path) -> None:
    """From one message to the next, as when a replica is stopped in the middle."""
    with serving("bind", tmp_path) as server, server.namespace.entered():
        settings = RecordSettings(server=SocketAddress("127.0.0.1", 53), key_file=str(tmp_path / "key"))
        added = {
            key(f"h-{n}.s-{n % 500}.shop.svc"): record_set(f"10.0.{n // 250}.{n % 250}", holder=f"s-{n % 500}.shop")
            for n in range(2000)
        }
        number = len(list(messages(Delta(added, {}, {}))))
        assert number > 3
        allowed = iter([True, True])
        with DnsDriver(settings, print).open() as opened:
            opened.only_while(lambda: next(allowed, False))
            rules = opened.rules(CompilerSet({}))
            assert isinstance(rules, LiveRecords)
            with pytest.raises(HostError, match="another replica may be at work"):
                rules.apply(Delta(added, {}, {}))
        serial = int(server.short("cluster.local", "SOA")[0].split()[2])
        assert 2 <= serial <= 3
