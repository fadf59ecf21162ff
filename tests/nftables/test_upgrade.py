"""A table that another version of rulegen loaded becomes this version's, in one transaction, with traffic flowing.

The other version is this one with other templates; or an earlier one, of which `fixtures/` holds what it rendered:
`filter-hooks.nft`, with hooks of type filter as well, is ITEMS.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rulegen import resources
from rulegen.config import Family
from rulegen.nftables.transaction import AddChains, DeleteChains, MoveHook, Transaction, WriteRules
from rulegen.services.on_nftables import base_chains
from rulegen.services.on_nftables.layout import LAYOUTS
from tests.builders import Item, endpoint, endpoint_slice, node, service
from tests.lab import Fate, Packet
from tests.lab.fixtures import MakeLab
from tests.nftables.host import Host, elements_of, host_in, lines_of
from tests.nftables.traffic import ADDRESSES, Traffic

pytestmark = pytest.mark.kernel

FIXTURES = Path(__file__).with_name("fixtures")
ITEMS: list[Item] = [
    node(),
    service(external_ips=["198.51.100.1"], affinity=600),
    endpoint_slice([endpoint(f"10.244.1.{number}") for number in range(1, 4)]),
]
LoadChanged = Callable[[Host, Callable[[str], str]], None]


@contextmanager
def _templates(folder: Path) -> Iterator[None]:
    """Within the block, the fixed part comes from `folder`."""

    def forget() -> None:
        for cached in (
            base_chains._render_base_chains,
            base_chains.balance_chain,
            base_chains._balance_module,
            resources.environment,
        ):
            cached.cache_clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resources, "templates", lambda _: folder)
        forget()
        yield
    forget()


@pytest.fixture
def loaded_by_another(tmp_path: Path) -> LoadChanged:
    """Loads ITEMS with the fixed part's template changed."""

    def load(host: Host, change: Callable[[str], str]) -> None:
        folder = tmp_path / "nftables"
        shutil.copytree(resources.templates("nftables"), folder)
        template = folder / "base_chains.nft.j2"
        text = change(template.read_text())
        assert text != template.read_text()
        template.write_text(text)
        with _templates(folder):
            host.apply(*ITEMS)

    return load


def _other_rules(text: str) -> str:
    return (
        text.replace("goto translated\n", "goto old-translated\n")
        .replace("\tchain translated {", "\tchain old-translated {")
        .replace('{{ hook["input"] }}', "type nat hook input priority 98; policy accept;")
    )


def _other_sets(text: str) -> str:
    return text.replace("\tset hairpin {\n", "\tset old-hairpin {\n\t\ttypeof meta mark\n\t}\n\tset hairpin {\n")


def _remembered(host: Host) -> str:
    return host.run("nft", "list", "map", "ip", "rulegen", "affinity").stdout


def _apply_in_traffic(host: Host, traffic: Traffic) -> Transaction:
    """Applies ITEMS while packets come in, before, during and after."""
    with traffic.flowing():
        transaction = host.apply(*ITEMS)
    assert traffic.leaked == 0
    return transaction


def test_other_rules_are_rewritten_and_elements_stay(make_lab: MakeLab, loaded_by_another: LoadChanged) -> None:
    lab = make_lab()
    traffic = Traffic(lab)
    with host_in(lab.namespace) as host, lab.entered():
        loaded_by_another(host, _other_rules)
        lab.send([Packet("203.0.113.9", "10.96.0.10", 80)])
        assert "203.0.113.9" in _remembered(host)
        transaction = _apply_in_traffic(host, traffic)
        assert lines_of(host.delta(*ITEMS)) == []
        assert "203.0.113.9" in _remembered(host)
    assert transaction.tables == ()
    assert elements_of(transaction) == []
    changes = [change for stage in transaction.stages for change in stage]
    written = {(change.spec.family, change.chain.name) for change in changes if isinstance(change, WriteRules)}
    names = ("translated", "postrouting", "input")
    assert written == {(family, name) for family in Family for name in names}
    assert all(isinstance(change, WriteRules | AddChains | MoveHook | DeleteChains) for change in changes)


def test_other_sets_mean_another_table_in_one_transaction(make_lab: MakeLab, loaded_by_another: LoadChanged) -> None:
    lab = make_lab()
    traffic = Traffic(lab)
    with host_in(lab.namespace) as host, lab.entered():
        loaded_by_another(host, _other_sets)
        transaction = _apply_in_traffic(host, traffic)
        assert lines_of(host.delta(*ITEMS)) == []
        assert "old-hairpin" not in host.run("nft", "list", "table", "ip", "rulegen").stdout
    assert [table.base_chains.family for table in transaction.tables] == list(Family)
    assert list(transaction.stages) == []


def test_the_table_with_hooks_of_type_filter_is_replaced_at_once(make_lab: MakeLab) -> None:
    """What it remembers of clients does not come along: whom a record leads to stood in maps that are no more."""
    lab = make_lab()
    traffic = Traffic(lab)
    with host_in(lab.namespace) as host, lab.entered():
        host.nft((FIXTURES / "filter-hooks.nft").read_text())
        assert {kind for _, kind, _, _ in _hooks(host)} == {"filter", "nat"}
        transaction = _apply_in_traffic(host, traffic)
        assert lines_of(host.delta(*ITEMS)) == []
        assert {kind for _, kind, _, _ in _hooks(host)} == {"nat"}
        lab.forget_connections()
        outcomes = lab.send([Packet("203.0.113.9", address, 80) for address in ADDRESSES])
        assert {outcome.fate for outcome in outcomes} == {Fate.DELIVERED}
    assert [table.base_chains.family for table in transaction.tables] == list(Family)
    assert list(transaction.stages) == []


def test_a_table_that_goes_is_met_first(host: Host) -> None:
    """A packet that has passed the new table's empty hooks must not come to the old table's after it is gone."""
    host.apply(*ITEMS)
    before = _hooks(host)
    with host.namespace.entered():
        host.kernel._keep_in_front(LAYOUTS[Family.IPV4])
        host.kernel._keep_in_front(LAYOUTS[Family.IPV4])
    copies = {(f"{name}-in-front", kind, hook, priority - 1) for name, kind, hook, priority in before}
    assert _hooks(host) == before | copies
    assert "goto frontend" in host.run("nft", "list", "chain", "ip", "rulegen", "prerouting-in-front").stdout
    host.apply(*ITEMS)
    assert _hooks(host) == before


def _hooks(host: Host) -> set[tuple[str, str, str, int]]:
    """Name, type, hook and priority of the IPv4 table's chains that have one."""
    listing = json.loads(host.run("nft", "-j", "list", "table", "ip", "rulegen").stdout)
    chains = [item["chain"] for item in listing["nftables"] if "chain" in item]
    return {(chain["name"], chain["type"], chain["hook"], chain["prio"]) for chain in chains if "hook" in chain}


def _with_a_counter(text: str) -> str:
    hook = '{{ hook["prerouting"] }}'
    return text.replace(hook, f"{hook}\n\t\tcounter")


def test_other_rules_leave_the_hook_where_it_is(make_lab: MakeLab, loaded_by_another: LoadChanged) -> None:
    lab = make_lab()
    traffic = Traffic(lab)
    with host_in(lab.namespace) as host, lab.entered():
        loaded_by_another(host, _with_a_counter)
        before = _handles(host)
        _apply_in_traffic(host, traffic)
        assert _handles(host) == before


def _handles(host: Host) -> dict[str, int]:
    listing = json.loads(host.run("nft", "-j", "list", "chains").stdout)
    chains = [item["chain"] for item in listing["nftables"] if "chain" in item]
    return {f"{chain['family']} {chain['name']}": chain["handle"] for chain in chains if chain["table"] == "rulegen"}
