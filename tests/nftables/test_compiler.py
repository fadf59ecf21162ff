"""What the compiler keeps, and what it never gives to another."""

from __future__ import annotations

from rulegen.config import Family
from rulegen.nftables.layout import LAYOUTS
from rulegen.services.on_nftables.compiler import compile_ruleset
from tests.builders import CONFIGURATION, cluster, endpoint, endpoint_slice, service

_LAYOUT = LAYOUTS[Family.IPV4]


def _ids(entries: object) -> set[bytes]:
    assert isinstance(entries, dict)
    return {value.data for (container, _), value in entries.items() if container is _LAYOUT.frontends}


def test_an_id_is_not_given_on_in_a_table_that_is_there() -> None:
    """Clients may be remembered by it, even if no Service is left (SVC-58)."""
    full = cluster(service(), endpoint_slice([endpoint("10.244.1.1")]))
    nodes = {Family.IPV4: full.node_routing(Family.IPV4)}
    assert nodes[Family.IPV4] is not None
    node = {family: routing for family, routing in nodes.items() if routing is not None}
    empty = compile_ruleset([], node, CONFIGURATION.masquerade_bit).entries()
    routes = [route for route in full.routes() if route.family is Family.IPV4]
    first = _ids(compile_ruleset(routes, node, CONFIGURATION.masquerade_bit).entries())
    again = _ids(compile_ruleset(routes, node, CONFIGURATION.masquerade_bit, empty).entries())
    assert len(first) == len(again) == 1
    assert first != again


def test_a_service_without_its_only_frontend_is_known_by_its_endpoints() -> None:
    """Somebody removed the element; to put it back is all there is to do."""
    made = cluster(service(), endpoint_slice([endpoint("10.244.1.1"), endpoint("10.244.1.2")]))
    routing = made.node_routing(Family.IPV4)
    assert routing is not None
    routes = [route for route in made.routes() if route.family is Family.IPV4]
    entries = compile_ruleset(routes, {Family.IPV4: routing}, CONFIGURATION.masquerade_bit).entries()
    damaged = {key: value for key, value in entries.items() if key[0] is not _LAYOUT.frontends}
    again = compile_ruleset(routes, {Family.IPV4: routing}, CONFIGURATION.masquerade_bit, damaged).entries()
    assert again == entries
