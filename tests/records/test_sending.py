"""Messages of a Delta: what fits into one, and in which order; and that nobody writes who may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from rulegen.config import RecordSettings, SocketAddress
from rulegen.dns.driver import DnsDriver
from rulegen.dns.live_records import LiveRecords
from rulegen.dns.record_sets import RecordKey, RecordSet
from rulegen.dns.updates import Message, Ownership, UpdateWriter, messages
from rulegen.errors import HostError
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.delta import Change, Delta
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
