"""What objects may list: nothing costs more than its length, and what does not count is said."""

from __future__ import annotations

from rulegen.kube.objects import Service
from rulegen.reference import Finding
from rulegen.services.model import FrontendKind, Reason, Verdict
from rulegen.services.store import MAX_ENDPOINTS
from tests.builders import Item, endpoint_port, endpoint_slice, node, port, service, store


def _found(*items: Item) -> list[Finding]:
    return [finding for finding in store(node(), *items).findings() if not finding.subject.startswith("Node ")]


def test_of_thousands_of_mistakes_a_few_are_told_and_the_number() -> None:
    found = _found(service(external_ips=[f"nonsense-{number}" for number in range(900)]))
    assert len(found) == 11
    assert "and 890 more like these" in [finding.message for finding in found]
    slices = _found(service(), endpoint_slice([f"nonsense-{number}" for number in range(900)]))
    assert len(slices) == 11


def test_a_finding_shows_what_is_wrong_shortened_and_escaped() -> None:
    (found,) = _found(service(external_ips=["\x1b[2J\u202e" + "x" * 300_000]))
    assert found.message.isprintable()
    assert found.message.isascii()
    assert len(found.message) < 200


def test_only_the_first_thousand_addresses_count() -> None:
    item = service(external_ips=[f"192.0.{number // 250}.{number % 250}" for number in range(1200)])
    made = store(node(), item, endpoint_slice(["10.0.0.1"]))
    (service_port,) = made.service_ports()
    assert len(service_port.frontends) == 1001
    assert "only the first 1000 of 1200 addresses count" in made.findings()[0].message


def test_addresses_times_ports_are_bounded() -> None:
    ports = [port(number + 1, f"p{number}") for number in range(50)]
    item = service(ports=ports, external_ips=[f"192.0.{number // 250}.{number % 250}" for number in range(600)])
    made = store(node(), item)
    assert {frontend.kind for service_port in made.service_ports() for frontend in service_port.frontends} == {
        FrontendKind.CLUSTER_IP
    }
    assert "external addresses times ports (30000)" in made.findings()[0].message


def _guarded(ranges: int, vips: int) -> Service:
    return service(
        kind="LoadBalancer",
        vips=[f"192.0.2.{number + 1}" for number in range(vips)],
        ranges=[f"10.{number // 125}.{number % 125 * 2}.0/25" for number in range(ranges)],
    )


def test_source_ranges_that_are_too_many_let_nobody_in() -> None:
    for ranges, vips in ((6000, 1), (3000, 10)):
        made = store(node(), _guarded(ranges, vips), endpoint_slice(["10.0.0.1"]))
        (service_port,) = made.service_ports()
        allowed = {one.allowed_sources for one in service_port.frontends if one.kind is FrontendKind.LOAD_BALANCER}
        assert allowed == {("0.0.0.0/32",)}
        assert "nobody is let in (SVC-51)" in made.findings()[0].message
        assert made.findings()[0].reason is Reason.UNUSABLE_RANGE
    made = store(node(), _guarded(3000, 2), endpoint_slice(["10.0.0.1"]))
    assert len(made.service_ports()[0].frontends[1].allowed_sources or ()) == 3000


def test_a_slice_with_many_ports_and_endpoints_stands_for_no_millions() -> None:
    ports = [port(number + 1, f"p{number}") for number in range(300)]
    item = service(ports=ports)
    slice_ = endpoint_slice(
        [f"10.0.{host // 250}.{host % 250 + 1}" for host in range(1000)],
        ports=[endpoint_port(8000 + number, f"p{number}") for number in range(300)],
    )
    made = store(node(), item, slice_)
    service_ports = made.service_ports()
    assert sum(len(service_port.cluster_endpoints) for service_port in service_ports) == MAX_ENDPOINTS
    rejected = [service_port for service_port in service_ports if service_port.frontends[0].verdict is Verdict.REJECT]
    assert len(rejected) == 100
    assert {finding.reason for finding in made.findings()} == {Reason.TOO_MANY_ENDPOINTS}
    assert made.large[("default", "web")] > MAX_ENDPOINTS


def test_a_claim_that_does_not_win_concerns_nobody_else() -> None:
    """Otherwise each of thousands of Services with one externalIP would have all of them compiled."""
    made = store(node(), *(service(f"web-{n}", [f"10.96.0.{n + 1}"], external_ips=["192.0.2.1"]) for n in range(50)))
    made.take_changes()
    made.findings_of.take()
    made.set_service(service("web-50", ["10.96.0.51"], external_ips=["192.0.2.1"]))
    changes = made.take_changes()
    assert {name.name for name, _ in changes.service_ports} == {"web-50"}
    assert {(told.namespace, told.name) for told in made.findings_of.take()} == {("default", "web-50")}
    # The owner goes: the next one has it, and all are told whose it is now.
    made.remove_service("default", "web-0")
    changes = made.take_changes()
    assert {name.name for name, _ in changes.service_ports} == {"web-0", "web-1"}
    assert len(made.findings_of.take()) == 50
