"""What holds for every cluster, in a real kernel."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from rulegen.nftables.transaction import plan
from rulegen.reconcile.delta import diff
from rulegen.services.on_nftables.compiler import Compiler
from rulegen.services.store import Store
from tests.builders import CONFIGURATION, Item
from tests.nftables.clusters import clusters
from tests.nftables.host import Host, compiled, lines_of, meaning, rendered
from tests.selection import examples

pytestmark = pytest.mark.kernel

# `host` is emptied in each example.
_in_the_kernel = settings(
    max_examples=examples(40),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(items=clusters())
@_in_the_kernel
def test_after_an_apply_there_is_nothing_to_change(host: Host, items: list[Item]) -> None:
    host.clear()
    host.apply(*items)
    assert lines_of(host.delta(*items)) == []
    assert host.read().entries == compiled(items).entries()


@given(items=clusters())
@_in_the_kernel
def test_what_nft_loads_from_a_rendered_file_is_what_is_wanted(host: Host, items: list[Item]) -> None:
    host.clear()
    host.nft(rendered(compiled(items)))
    assert lines_of(host.delta(*items)) == []


@given(before=clusters(), after=clusters())
@_in_the_kernel
def test_a_delta_leads_to_the_same_rules_as_a_load(host: Host, before: list[Item], after: list[Item]) -> None:
    host.clear()
    host.apply(*before)
    host.apply(*after)
    assert meaning(host.read().entries) == meaning(compiled(after).entries())
    assert lines_of(host.delta(*after)) == []


@given(before=clusters(), after=clusters())
@_in_the_kernel
def test_changes_one_by_one_lead_to_the_same_rules(host: Host, before: list[Item], after: list[Item]) -> None:
    host.clear()
    store = Store(CONFIGURATION)
    compiler = Compiler(CONFIGURATION.families, CONFIGURATION.masquerade_bit)
    store.set_objects(before)
    changes = store.take_changes()
    compiler.update(changes.service_ports, changes.node)
    live = host.read()
    entries = compiler.entries()
    host.commit(plan(diff({}, entries), live, compiler.base_chains, entries), live)
    for item in (*before, *after):
        if item not in after:
            _remove(store, item)
        else:
            store.set_objects([item])
        changes = store.take_changes()
        delta, errors = compiler.update(changes.service_ports, changes.node)
        assert not errors
        host.commit(plan(delta, live, compiler.base_chains), live)
    assert meaning(host.read().entries) == meaning(compiled(after).entries())
    assert lines_of(diff(host.read().entries, compiler.entries())) == []


def _remove(store: Store, item: Item) -> None:
    from rulegen.kube.objects import EndpointSlice, Service, ServiceCIDR

    match item:
        case Service():
            store.remove_service(item.metadata.namespace, item.metadata.name)
        case EndpointSlice():
            store.remove_slice(item.metadata.namespace, item.metadata.name)
        case ServiceCIDR():
            store.remove_service_cidr(item.metadata.name)


@given(before=clusters(), after=clusters())
@_in_the_kernel
def test_what_is_sent_over_netlink_is_what_nft_would_load(host: Host, before: list[Item], after: list[Item]) -> None:
    host.clear()
    host.apply(*before)
    host.apply(*after)
    sent = host.read()
    compiler = compiled(after, sent.entries)
    host.clear()
    host.nft(rendered(compiler))
    loaded = host.read()
    assert loaded.entries == sent.entries
    for family, table in sent.tables.items():
        assert loaded.tables[family].rules == table.rules
        assert loaded.tables[family].listed_as == table.listed_as
