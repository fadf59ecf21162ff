"""What the compiler keeps, and what it never gives to another."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from rulegen.config import Family
from rulegen.nftables.elements import Value, pack_register
from rulegen.nftables.plain_elements import PlainElements, difference, in_parts
from rulegen.nftables.tables import AllEntries
from rulegen.reconcile.delta import diff
from rulegen.reference import ObjectReference
from rulegen.services.model import NodeSettings, ServicePort, ServicePortKey
from rulegen.services.on_nftables.compiler import Compiler, compile_ruleset
from rulegen.services.on_nftables.layout import LAYOUTS
from rulegen.services.on_nftables.registers import id_of
from rulegen.services.on_nftables.tables import ServiceTables
from tests.builders import CONFIGURATION, endpoint, endpoint_slice, port, service, store

_LAYOUT = LAYOUTS[Family.IPV4]


def _whole_ruleset() -> tuple[tuple[dict[ServicePortKey, ServicePort | None], dict[Family, NodeSettings]], AllEntries]:
    """Two Services, compiled; and what they are compiled from."""
    made = store(
        service(),
        endpoint_slice([endpoint("10.244.1.1"), endpoint("10.244.1.2")]),
        service("other", ["10.96.0.11"]),
        endpoint_slice(
            [endpoint(f"10.244.2.{number}") for number in range(1, 4)], service_name="other", name="other-1"
        ),
    )
    settings = made.node_settings(Family.IPV4)
    assert settings is not None
    service_ports: dict[ServicePortKey, ServicePort | None] = {
        (one.name, one.family): one for one in made.service_ports() if one.family is Family.IPV4
    }
    nodes = {Family.IPV4: settings}
    compiler = Compiler((Family.IPV4,), CONFIGURATION.masquerade_bit)
    compiler.update(service_ports, nodes)
    return (service_ports, nodes), compiler.entries()


def _ids(entries: AllEntries) -> set[bytes]:
    return {value.data for (set_spec, _), value in entries.items() if set_spec is _LAYOUT.frontends}


def test_an_id_is_not_given_on_in_a_table_that_is_there() -> None:
    """Clients may be remembered by it, even if no Service is left (SVC-58)."""
    full = store(service(), endpoint_slice([endpoint("10.244.1.1")]))
    nodes = {Family.IPV4: full.node_settings(Family.IPV4)}
    assert nodes[Family.IPV4] is not None
    node = {family: settings for family, settings in nodes.items() if settings is not None}
    empty = compile_ruleset([], node, CONFIGURATION.masquerade_bit).entries()
    service_ports = [service_port for service_port in full.service_ports() if service_port.family is Family.IPV4]
    first = _ids(compile_ruleset(service_ports, node, CONFIGURATION.masquerade_bit).entries())
    again = _ids(compile_ruleset(service_ports, node, CONFIGURATION.masquerade_bit, empty).entries())
    assert len(first) == len(again) == 1
    assert first != again


def test_who_takes_over_a_frontend_of_a_service_that_cannot_be_read_does_not_get_its_id() -> None:
    """All other frontends of that Service stay, and would lead to the endpoints of the one that has its id."""
    broken = service(external_ips=["1.1.1.1"], kind="NodePort", ports=[port(node_port=30000)])
    tables = ServiceTables(CONFIGURATION)
    items, context, _ = store(broken, endpoint_slice(["10.244.1.1"])).take_changes()
    tables.update(items, context)
    live = tables.entries()
    heir = service("heir", ["10.96.0.11"], external_ips=["1.1.1.1"], kind="NodePort", ports=[port(node_port=30000)])
    again = ServiceTables(CONFIGURATION)
    again.adopt(live, [ObjectReference("Service", "default", "web")])
    items, context, _ = store(heir, endpoint_slice(["10.244.2.1"], service_name="heir")).take_changes()
    again.update(items, context)
    delta = again.spare(diff(live, again.entries()))
    entries = {**live, **delta.added, **{key: change.after for key, change in delta.changed.items()}}
    ids: dict[str, set[int]] = {}
    for (set_spec, _), value in entries.items():
        if set_spec in (_LAYOUT.frontends, _LAYOUT.nodeports):
            ids.setdefault(value.comment, set()).add(id_of(value.data))
    assert ids.keys() == {"default/web", "default/heir"}
    assert len(ids["default/heir"]) == 1
    assert ids["default/web"].isdisjoint(ids["default/heir"])


@pytest.mark.parametrize("is_swapped", [False, True])
def test_an_endpoint_index_that_two_endpoints_have_is_adopted_by_one(is_swapped: bool) -> None:
    """Somebody has changed one of the two maps, so that it says another endpoint than the other one."""
    sticky = service(affinity=600, external_ips=["192.0.2.1"], internal="Local")
    made = store(sticky, endpoint_slice([endpoint("10.244.1.1", "node-1"), endpoint("10.244.1.2", "node-1")]))
    settings = made.node_settings(Family.IPV4)
    assert settings is not None
    service_ports, nodes = list(made.service_ports()), {Family.IPV4: settings}
    whole = dict(compile_ruleset(service_ports, nodes, CONFIGURATION.masquerade_bit).entries())
    first, second = [key for of, key in whole if of is _LAYOUT.sticky_local_endpoints]
    live = whole | {(_LAYOUT.sticky_local_endpoints, second): whole[_LAYOUT.sticky_local_endpoints, first]}
    if is_swapped:
        live[_LAYOUT.sticky_local_endpoints, first] = whole[_LAYOUT.sticky_local_endpoints, second]
    again = compile_ruleset(service_ports, nodes, CONFIGURATION.masquerade_bit, live).entries()
    assert dict(again) == whole


def test_a_service_without_its_only_frontend_is_known_by_its_endpoints() -> None:
    """Somebody removed the element; to put it back is all there is to do."""
    made = store(service(), endpoint_slice([endpoint("10.244.1.1"), endpoint("10.244.1.2")]))
    settings = made.node_settings(Family.IPV4)
    assert settings is not None
    service_ports = [service_port for service_port in made.service_ports() if service_port.family is Family.IPV4]
    entries = compile_ruleset(service_ports, {Family.IPV4: settings}, CONFIGURATION.masquerade_bit).entries()
    damaged = {key: value for key, value in entries.items() if key[0] is not _LAYOUT.frontends}
    again = compile_ruleset(service_ports, {Family.IPV4: settings}, CONFIGURATION.masquerade_bit, damaged).entries()
    assert again == entries


# What somebody may have done to the endpoints of two Services, of two and of three slots, by key and data.
_KEYS = sorted(key for of, key in _whole_ruleset()[1] if of is _LAYOUT.endpoints)
_NEW = pack_register(0x80999000) + _KEYS[0][4:], bytes(8)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param({}, id="nothing"),
        pytest.param({_KEYS[0]: None}, id="the first slot of one is gone"),
        pytest.param({_KEYS[1]: None}, id="the last slot of one is gone"),
        pytest.param(dict.fromkeys(_KEYS), id="all are gone"),
        pytest.param({_KEYS[1]: Value(bytes(8))}, id="a slot leads elsewhere"),
        pytest.param({_NEW[0]: Value(_NEW[1])}, id="one more"),
        pytest.param({_KEYS[1]: None, _NEW[0]: Value(_NEW[1])}, id="another one in its place"),
        pytest.param({_KEYS[1][:-4] + pack_register(2): Value(bytes(8))}, id="one more slot"),
    ],
)
@pytest.mark.parametrize("is_read", [True, False], ids=["read from the kernel", "from a file"])
def test_what_is_live_is_adopted_and_what_differs_is_found(damage: Mapping[bytes, Value | None], is_read: bool) -> None:
    made, entries = _whole_ruleset()
    endpoints = {key: value.data for (of, key), value in entries.items() if of is _LAYOUT.endpoints}
    for key, value in damage.items():
        endpoints.pop(key, None) if value is None else endpoints.update({key: value.data})
    small = {entry: value for entry, value in entries.items() if entry[0] is not _LAYOUT.endpoints}
    live: AllEntries = in_parts(small, [(_LAYOUT.endpoints, PlainElements(_LAYOUT.endpoints, endpoints))])
    if not is_read:
        live = dict(live)
    compiler = Compiler((Family.IPV4,), CONFIGURATION.masquerade_bit, live)
    delta, errors = compiler.update(*made)
    assert not errors
    found = difference(live, delta.added)
    assert found == diff(dict(live), dict(compiler.entries()))
    assert {key for of, key in (*found.added, *found.changed, *found.removed) if of is _LAYOUT.endpoints} == set(damage)
    assert bool(found) is bool(damage)
