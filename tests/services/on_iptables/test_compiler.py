"""ServicePorts to chains: independent of order and history, small changes stay small, names fit and do not collide."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rulegen.config import Family
from rulegen.errors import TargetError
from rulegen.iptables.chains import Entries, target_of
from rulegen.iptables.names import MAX_LENGTH, is_ours
from rulegen.iptables.text import parse, render
from rulegen.kube.objects import EndpointSlice, Service, ServiceCIDR
from rulegen.services.on_iptables import names
from rulegen.services.on_iptables.compiler import Compiler
from rulegen.services.store import Store
from tests.builders import CONFIGURATION, Item, endpoint, endpoint_port, endpoint_slice, node, port, service
from tests.iptables.host import compiled
from tests.nftables.clusters import clusters, shuffled

HTTP = endpoint_port(8080, "http")
BUILT_IN = {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
# Letters of iptables-save's own, and what rulegen adds; nothing that a shell or a line could end at.
RULE = re.compile(r'[-A-Za-z0-9 ./:,!+"\[\]?~_]+')


@given(data=st.data())
def test_the_order_of_objects_does_not_matter(data: st.DataObject) -> None:
    items = data.draw(clusters())
    assert compiled(data.draw(shuffled(items))).entries() == compiled(items).entries()


@given(before=clusters(), after=clusters())
@settings(deadline=None)
def test_changes_one_by_one_lead_to_the_same_chains(before: list[Item], after: list[Item]) -> None:
    given_store = Store(CONFIGURATION)
    compiler = Compiler(CONFIGURATION.families, CONFIGURATION.masquerade_bit)
    given_store.set_objects(before)
    entries = updated({}, compiler, given_store)
    for item in (*before, *after):
        if item in after:
            given_store.set_objects([item])
        else:
            remove(given_store, item)
        entries = updated(entries, compiler, given_store)
    assert entries == compiler.entries() == compiled(after).entries()


def test_ports_of_one_name_and_two_protocols_have_ranges_each() -> None:
    """The API server lets no Service have them, a file may."""
    items: list[Item] = [
        service(
            "dns",
            ports=[port(53), port(53, protocol="UDP")],
            kind="LoadBalancer",
            vips=["1.1.1.1"],
            ranges=["10.0.0.0/8"],
        ),
        endpoint_slice(["10.1.0.1"], service_name="dns", ports=[endpoint_port(53), endpoint_port(53, protocol="UDP")]),
    ]
    made = [key for key in compiled(items).entries() if key.chain.startswith("RULEGEN-SRC-")]
    assert len(made) == 2


def updated(entries: Entries, compiler: Compiler, given_store: Store) -> Entries:
    changes = given_store.take_changes()
    delta, errors = compiler.update(changes.service_ports, changes.node)
    assert not errors
    kept = {key: rules for key, rules in entries.items() if key not in delta.removed}
    assert all(entries[key] == rules for key, rules in delta.removed.items())
    assert all(entries[key] == change.before for key, change in delta.changed.items())
    return {**kept, **delta.added, **{key: change.after for key, change in delta.changed.items()}}


def remove(given_store: Store, item: Item) -> None:
    match item:
        case Service():
            given_store.remove_service(item.metadata.namespace, item.metadata.name)
        case EndpointSlice():
            given_store.remove_slice(item.metadata.namespace, item.metadata.name)
        case ServiceCIDR():
            given_store.remove_service_cidr(item.metadata.name)


@given(items=clusters())
def test_every_jump_leads_somewhere_and_every_chain_is_reached(items: list[Item]) -> None:
    entries = compiled(items).entries()
    targets = {
        (key.family, key.table, target)
        for key, rules in entries.items()
        for rule in rules
        if is_ours(target := target_of(rule))
    }
    chains = {(key.family, key.table, key.chain) for key in entries if not key.is_built_in}
    assert targets == chains
    assert {key.chain for key in entries if key.is_built_in} <= BUILT_IN


@given(items=clusters())
def test_what_is_rendered_can_be_read_back(items: list[Item]) -> None:
    compiler = compiled(items)
    lines = "".join(render([compiler])).splitlines(keepends=True)
    assert parse(lines, "rules") == compiler.entries()


@given(items=clusters())
def test_names_and_rules_keep_within_their_letters(items: list[Item]) -> None:
    for key, rules in compiled(items).entries().items():
        assert len(key.chain) <= MAX_LENGTH
        assert all(RULE.fullmatch(rule) for rule in rules)


def many(count: int) -> list[Item]:
    """Services of three endpoints."""
    items: list[Item] = [node()]
    for number in range(count):
        name = f"svc-{number}"
        items.append(
            service(name, [f"10.96.{number // 200}.{number % 200 + 1}"], [port(80, "http", "TCP", 30000 + number)])
        )
        items.append(
            endpoint_slice(
                [f"10.244.{number // 200}.{number % 200 + end}" for end in range(3)],
                service_name=name,
                name=f"{name}-1",
                ports=[HTTP],
            )
        )
    return items


def test_one_endpoint_changes_one_chain() -> None:
    items = many(300)
    given_store = Store(CONFIGURATION)
    given_store.set_objects(items)
    compiler = Compiler(CONFIGURATION.families, CONFIGURATION.masquerade_bit)
    compiler.update(*given_store.take_changes()[:2])
    changed = endpoint_slice(["10.244.9.9"], service_name="svc-7", name="svc-7-1", ports=[HTTP])
    given_store.set_objects([changed])
    delta, _ = compiler.update(*given_store.take_changes()[:2])
    assert [key.chain[:12] for key in delta.changed] == ["RULEGEN-SVC-"]
    assert not delta.added
    assert not delta.removed


def test_one_service_more_changes_few_chains() -> None:
    items = many(300)
    given_store = Store(CONFIGURATION)
    given_store.set_objects(items)
    compiler = Compiler(CONFIGURATION.families, CONFIGURATION.masquerade_bit)
    compiler.update(*given_store.take_changes()[:2])
    given_store.set_objects(
        [
            service("new", ["10.96.77.1"], [port(80, "http", "TCP", 31999)]),
            endpoint_slice(["10.244.9.9"], service_name="new", name="new-1", ports=[HTTP]),
        ]
    )
    delta, _ = compiler.update(*given_store.take_changes()[:2])
    assert len(delta) <= 12


def test_many_endpoints_stand_in_a_tree_that_a_change_leaves_as_it_is() -> None:
    addresses = [f"10.244.{number // 250}.{number % 250 + 1}" for number in range(1000)]
    given_store = Store(CONFIGURATION)

    def slice_of(chosen: list[str]) -> EndpointSlice:
        return endpoint_slice([endpoint(address) for address in chosen])

    given_store.set_objects([node(), service(), slice_of(addresses)])
    compiler = Compiler(CONFIGURATION.families, CONFIGURATION.masquerade_bit)
    compiler.update(*given_store.take_changes()[:2])
    longest = max(len(rules) for key, rules in compiler.entries().items() if names.is_of_service(key.chain))
    assert longest <= 33
    given_store.set_objects([slice_of(addresses[1:])])
    delta, _ = compiler.update(*given_store.take_changes()[:2])
    assert len(delta) <= 3


def test_a_name_that_two_services_would_share_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "digest", lambda *_: "AAAAAAAAAAAAAAAA")
    items: list[Item] = [node(), service("one", ["10.96.0.1"]), service("two", ["10.96.0.2"])]
    items += [
        endpoint_slice([f"10.244.0.{number}"], service_name=name, name=name)
        for number, name in ((1, "one"), (2, "two"))
    ]
    with pytest.raises(TargetError, match=r"default/two.*RULEGEN-SVC-AAAAAAAAAAAAAAAA.*default/one"):
        compiled(items)


def test_families_that_are_not_wanted_get_nothing() -> None:
    compiler = Compiler((Family.IPV4,), 14)
    given_store = Store(CONFIGURATION)
    given_store.set_objects([node(), service("both", ["10.96.0.1", "fd00:10:96::1"])])
    compiler.update(*given_store.take_changes()[:2])
    assert {key.family for key in compiler.entries()} == {Family.IPV4}
