"""What the compiler keeps, and what it never gives to another."""

from __future__ import annotations

from rulegen.config import Family
from rulegen.nftables.tables import AllEntries
from rulegen.services.on_nftables.compiler import compile_ruleset
from rulegen.services.on_nftables.layout import LAYOUTS
from tests.builders import CONFIGURATION, endpoint, endpoint_slice, service, store

_LAYOUT = LAYOUTS[Family.IPV4]


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
