"""What a Service asks for: the statements of the DNS specification 1.1.0, and what has no place in DNS. No server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from rulegen.dns.record_sets import RecordKey, Zones
from rulegen.dns.registry import PARTS, holder_of, registered, registry
from rulegen.kube.decode import decode_object
from rulegen.kube.named_objects import EndpointSlice, Service
from rulegen.records.compiler import RecordCompiler
from rulegen.records.schema import Left, ServiceRecords, service_records, version_records
from rulegen.records.store import ServiceKey, Store
from tests.counting import lines_run

ZONE = "cluster.local."
SVC = f"svc.{ZONE}"
L63 = "a" * 63


def service(name: str = "web", namespace: str = "shop", **spec: Any) -> Service:
    return decode_object(
        Service, json.dumps({"metadata": {"name": name, "namespace": namespace}, "spec": spec}).encode()
    )


def endpoints(*found: Mapping[str, Any], ports: Any = (), family: str = "IPv4") -> EndpointSlice:
    labels = {"kubernetes.io/service-name": "web"}
    text = {
        "metadata": {"name": "web-a", "namespace": "shop", "labels": labels},
        "addressType": family,
        "ports": list(ports),
        "endpoints": list(found),
    }
    return decode_object(EndpointSlice, json.dumps(text).encode())


def asked(item: Service, *slices: EndpointSlice) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """`owner TYPE` without the zone, and PTR by address."""
    records, left = service_records(item, slices, ZONE)
    assert left == []
    return _plain(records)


def _plain(records: ServiceRecords) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    forward = {f"{owner.removesuffix(f'.{SVC}')} {kind}": list(data) for (owner, kind), data in records.forward.items()}
    return forward, {address: list(names) for address, names in records.reverse.items()}


def test_schema_version() -> None:
    assert version_records(ZONE) == {(f"dns-version.{ZONE}", "TXT"): ('"1.1.0"',)}


@pytest.mark.parametrize("addresses", [["10.96.0.1"], ["fd00:96::1"], ["10.96.0.1", "fd00:96::1"]])
def test_cluster_ip(addresses: list[str]) -> None:
    """2.3.1 to 2.3.3: each family has its record, each named port an SRV, each address its name."""
    ports = [{"name": "https", "port": 443}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 9}]
    ports.append({"name": "s", "port": 7, "protocol": "SCTP"})
    forward, reverse = asked(service(clusterIP=addresses[0], clusterIPs=addresses, ports=ports))
    by_type = {"AAAA" if ":" in address else "A": [address] for address in addresses}
    assert forward == {f"web.shop {kind}": found for kind, found in by_type.items()} | {
        "_https._tcp.web.shop SRV": [f"0 100 443 web.shop.{SVC}"],
        "_dns._udp.web.shop SRV": [f"0 100 53 web.shop.{SVC}"],
        "_s._sctp.web.shop SRV": [f"0 100 7 web.shop.{SVC}"],
    }
    assert reverse == {address: [f"web.shop.{SVC}"] for address in addresses}


def test_headless() -> None:
    """2.4: ready endpoints by their hostnames; of N endpoints and M named ports N times M SRV."""
    ports = [{"name": "pg", "port": 15432}, {"name": "m", "port": 9, "protocol": "UDP"}, {"port": 1}, {"name": "none"}]
    four = endpoints(
        {"addresses": ["10.1.0.1"], "hostname": "db-0"},
        {"addresses": ["10.1.0.2"]},
        {"addresses": ["10.1.0.3"], "conditions": {"ready": False}},
        # One hostname may have several addresses.
        {"addresses": ["10.1.0.4"], "hostname": "db-0", "conditions": {"ready": True}},
        ports=ports,
    )
    six = endpoints({"addresses": ["fd00::1"]}, family="IPv6", ports=ports[:1])
    # The Service's own ports mean nothing where nobody translates them.
    forward, reverse = asked(service(clusterIP="None", ports=[{"name": "pg", "port": 5432}]), four, six)
    hosts = {"10-1-0-2", "db-0"}
    six_host = "fd00-0-0-0-0-0-0-1"
    assert forward == {
        "web.shop A": ["10.1.0.1", "10.1.0.2", "10.1.0.4"],
        "web.shop AAAA": ["fd00::1"],
        "db-0.web.shop A": ["10.1.0.1", "10.1.0.4"],
        "10-1-0-2.web.shop A": ["10.1.0.2"],
        f"{six_host}.web.shop AAAA": ["fd00::1"],
        "_pg._tcp.web.shop SRV": sorted(f"0 100 15432 {host}.web.shop.{SVC}" for host in {*hosts, six_host}),
        "_m._udp.web.shop SRV": sorted(f"0 100 9 {host}.web.shop.{SVC}" for host in hosts),
    }
    assert reverse == {
        "10.1.0.1": [f"db-0.web.shop.{SVC}"],
        "10.1.0.2": [f"10-1-0-2.web.shop.{SVC}"],
        "10.1.0.4": [f"db-0.web.shop.{SVC}"],
        "fd00::1": [f"{six_host}.web.shop.{SVC}"],
    }


def test_headless_without_a_ready_endpoint_has_no_name_unless_it_publishes_them() -> None:
    unready = endpoints({"addresses": ["10.1.0.1"], "conditions": {"ready": False}})
    assert asked(service(clusterIP="None", ports=[{"name": "x", "port": 1}]), unready) == ({}, {})
    forward, _ = asked(service(clusterIP="None", publishNotReadyAddresses=True), unready)
    assert forward["web.shop A"] == ["10.1.0.1"]
    # What has no address yet, or slices of names, have no record either.
    assert asked(service(type="ClusterIP")) == ({}, {})
    assert asked(service(clusterIP="None"), endpoints({"addresses": ["a.example"]}, family="FQDN")) == ({}, {})


@pytest.mark.parametrize("name", ["www.example.com", "www.example.com.", "a", f"{L63}.{L63}.{L63}.{'a' * 61}"])
def test_external_name(name: str) -> None:
    forward, reverse = asked(service(type="ExternalName", externalName=name))
    assert (forward, reverse) == ({"web.shop CNAME": [f"{name.removesuffix('.')}."]}, {})


GARBAGE = [
    "",
    ".",
    " ",
    "a b",
    "[::1]",
    "WWW.x.org",
    "-x.com",
    "x-.com",
    "_a.b",
    f"{L63}a.b",
    f"{L63}.{L63}.{L63}.{L63}",
]
GARBAGE += ["*.x.org", "x..y", "\u00e9.org", "a;b", "x\n5 IN A 192.0.2.1", 'a"b', "a\\b", f"web.shop.{SVC}"]


@pytest.mark.parametrize("name", GARBAGE)
def test_external_name_that_dns_cannot_have(name: str) -> None:
    records, left = service_records(service(type="ExternalName", externalName=name), [], ZONE)
    assert records == ServiceRecords({}, {})
    assert [one.reason for one in left] == ["BadExternalName"]
    assert left[0].message.isprintable()


@pytest.mark.parametrize("address", ["10.0.0.1", "::1", "10.0.0.1."])
def test_external_name_that_is_an_address(address: str) -> None:
    records, left = service_records(service(type="ExternalName", externalName=address), [], ZONE)
    assert (records.forward, [one.reason for one in left]) == ({}, ["ExternalNameIsAddress"])


def test_labels_and_names_have_their_limits() -> None:
    # A label of 63 is one; with the underscore of a port it is not.
    ports = [{"name": "p" * 62, "port": 1}, {"name": "q" * 63, "port": 2}]
    records, left = service_records(service(L63, "b" * 63, clusterIP="10.96.0.1", ports=ports), [], ZONE)
    assert [owner.partition(".")[0] for owner, _ in sorted(records.forward)] == [f"_{'p' * 62}", L63]
    assert [one.reason for one in left] == ["NameTooLong"]
    # 253 characters are a name, 254 are none; what fits is there all the same.
    item = endpoints({"addresses": ["10.1.0.1"], "hostname": "h" * 63}, {"addresses": ["10.1.0.2"], "hostname": "h"})
    zone = f"{'z' * 57}."
    records, left = service_records(service(L63, "b" * 63, clusterIP="None"), [item], zone)
    assert max(len(owner) for owner, _ in records.forward) == 254
    assert left == []
    records, left = service_records(service(L63, "b" * 63, clusterIP="None"), [item], f"z{zone}")
    assert [one.reason for one in left] == ["NameTooLong"]
    assert {address for owner, _ in records.forward for address in records.forward[owner, "A"]} == {
        "10.1.0.1",
        "10.1.0.2",
    }
    assert list(records.reverse) == ["10.1.0.2"]


@pytest.mark.parametrize("hostname", ["Bad", "a_b", "-a", "a" * 64, "a.b", "x\ny"])
def test_a_hostname_that_is_no_label_is_the_addresss(hostname: str) -> None:
    item = endpoints({"addresses": ["10.1.0.1"], "hostname": hostname})
    records, left = service_records(service(clusterIP="None"), [item], ZONE)
    assert sorted(owner for owner, _ in records.forward) == [f"10-1-0-1.web.shop.{SVC}", f"web.shop.{SVC}"]
    assert [one.reason for one in left] == ["BadHostname"]
    assert left[0].message.isprintable()


def test_more_than_an_answer_holds_is_bounded_with_a_finding_each() -> None:
    item = endpoints(
        *({"addresses": [f"10.1.{n // 250}.{n % 250}"]} for n in range(5000)), ports=[{"name": "x", "port": 1}]
    )
    records, left = service_records(service(clusterIP="None"), [item], ZONE)
    assert len(records.forward[f"web.shop.{SVC}", "A"]) == 3750
    assert [one.reason for one in left] == ["TooManyRecords", "TooManyRecords"]
    # Each endpoint is there by its own name.
    assert len(records.forward) == 5002
    assert len(records.reverse) == 5000
    again, _ = service_records(service(clusterIP="None"), [item], ZONE)
    assert again == records


def test_names_of_an_address_are_bounded_with_a_finding() -> None:
    item = endpoints(*({"addresses": ["10.1.0.1"], "hostname": f"h{n:03}"} for n in range(101)))
    records, left = service_records(service(clusterIP="None"), [item], ZONE)
    assert records.reverse["10.1.0.1"] == tuple(f"h{n:03}.web.shop.{SVC}" for n in range(100))
    assert left == [Left("TooManyRecords", "10.1.0.1 leads to 100 of 101 names: it may have no more")]


def _of_one_address(number: int) -> dict[ServiceKey, ServiceRecords | None]:
    """Services with an endpoint each, all with the same address."""
    return {("a", f"s{n:05}"): ServiceRecords({}, {"10.1.0.1": (f"10-1-0-1.s{n:05}.a.{SVC}",)}) for n in range(number)}


def test_names_of_an_address_are_bounded_of_all_services_together() -> None:
    compiler = RecordCompiler(Zones(ZONE, ("in-addr.arpa.",)), 5)
    own = ServiceRecords({}, {"10.1.0.1": (f"web.shop.{SVC}",)})
    compiler.update({**_of_one_address(150), ("shop", "web"): own}, None)
    key = RecordKey("in-addr.arpa.", "1.0.1.10.in-addr.arpa.", "PTR")
    found = compiler.entries()[key].records
    # A Service's own name is there, whoever names its address.
    assert found == (*(f"10-1-0-1.s{n:05}.a.{SVC}" for n in range(99)), f"web.shop.{SVC}")
    delta, _ = compiler.update({("a", "s00000"): None, ("a", "s00001"): None}, None)
    assert delta.changed[key].before.records == found
    assert delta.changed[key].after.records == (*(f"10-1-0-1.s{n:05}.a.{SVC}" for n in range(2, 101)), found[-1])
    gone: dict[ServiceKey, ServiceRecords | None] = dict.fromkeys([*_of_one_address(150), ("shop", "web")])
    delta, _ = compiler.update(gone, None)
    assert list(delta.removed) == [key]
    assert compiler.entries() == {}


def test_an_address_of_many_services_is_put_together_once() -> None:
    def work(number: int) -> int:
        compiler, items = RecordCompiler(Zones(ZONE, ("in-addr.arpa.",)), 5), _of_one_address(number)
        return lines_run(lambda: compiler.update(items, None))

    assert work(4000) < 5 * work(1000)


def test_what_was_found_of_a_service_goes_when_it_is_made_anew() -> None:
    def made(uid: str, target: str) -> Service:
        metadata = {"name": "web", "namespace": "shop", "uid": uid}
        spec = {"type": "ExternalName", "externalName": target}
        return decode_object(Service, json.dumps({"metadata": metadata, "spec": spec}).encode())

    store = Store(ZONE)
    store.put(made("1", "192.0.2.1"))
    store.take()
    assert [reference.uid for reference in store.findings.now] == ["1"]
    # A list that was read anew does not say that one was deleted in between.
    store.put(made("2", "db.example.org"))
    store.take()
    assert store.findings.now == {}


def test_of_many_names_that_have_no_place_a_few_are_told_and_the_number() -> None:
    store = Store(ZONE)
    store.put(service(clusterIP="None"))
    store.put(endpoints(*({"addresses": [f"10.1.{n // 250}.{n % 250}"], "hostname": f"A{n}"} for n in range(900))))
    store.take()
    ((_, found),) = store.findings.items()
    assert (len(found), found[-1].message) == (11, "and 890 more like these")


# -- the registry --


def _keys(number: int) -> set[RecordKey]:
    return {RecordKey(ZONE, f"h-{one}.web.shop.{SVC}", kind) for one in range(number) for kind in ("A", "AAAA")}


@pytest.mark.parametrize("number", [1, 32, 33, 5000])
def test_what_is_written_down_is_read_again(number: int) -> None:
    written = registry(ZONE, "web.shop", _keys(number), 5)
    assert {holder_of(place) for place in written} == {"web.shop"}
    read = {key for value in written.values() for key in registered(ZONE, value.records)}
    assert read == _keys(number)
    # None is more than a message holds, and a change of a large one writes a part.
    assert max(len(text) for value in written.values() for text in value.records) < 20_000
    assert len(written) == (1 if number <= 32 else len(PARTS) if number == 5000 else len(written))
    some = registry(ZONE, "web.shop", _keys(number), 5, {0, 1})
    assert number <= 32 or {place.owner.partition(".")[0] for place in some} <= {"_0", "_1"}


def test_what_is_no_registry() -> None:
    assert registry(ZONE, "web.shop", set(), 5) == {}
    assert holder_of(RecordKey(ZONE, f"web.shop.{SVC}", "TXT")) is None
    assert holder_of(RecordKey(ZONE, f"web.shop._rulegen.{ZONE}", "A")) is None
    assert holder_of(RecordKey(ZONE, f"_rulegen.{ZONE}", "TXT")) == ""
    assert list(registered(ZONE, ['"" "x" " A" "a  A"', "garbage", f'"{"x" * 300} A"'])) == [
        RecordKey(ZONE, f"a.{ZONE}", "A")
    ]
    # No name, no type of ours.
    others = ['"a..b A"', f'"{"x" * 64} A"', f'"{".".join(["x" * 60] * 4)} A"', '"a\\300 A" "\\195\\188 A"']
    assert list(registered(ZONE, [*others, '"a FOO TYPE99999 ANY TSIG a SOA"'])) == []


def test_findings_are_each_told_once() -> None:
    item = endpoints(*({"addresses": [f"10.1.0.{n}"], "hostname": "A"} for n in range(3)))
    _, left = service_records(service(clusterIP="None"), [item], ZONE)
    assert left == [Left("BadHostname", 'hostname of an endpoint: expected a DNS label, got "A"')]
