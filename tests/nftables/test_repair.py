"""What a person or another program breaks in the loaded table is seen, and only that is put right."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rulegen.config import Family
from rulegen.nftables.elements import SetSpec, Value, element_text, key_text, unpack_register
from rulegen.nftables.transaction import DeleteElements, Transaction, WriteRules
from rulegen.services.on_nftables.layout import LAYOUTS
from tests.builders import Item, endpoint, endpoint_port, endpoint_slice, node, port, service, service_cidr
from tests.nftables.host import Host, elements_of, host_or_skip, lines_of, meaning

pytestmark = pytest.mark.kernel

PORTS = [port(80, "http", node_port=30080), port(53, "dns", "UDP", node_port=30053), port(9, "signal", "SCTP")]
ENDPOINT_PORTS = [endpoint_port(8080, "http"), endpoint_port(5353, "dns", "UDP"), endpoint_port(9, "signal", "SCTP")]


def _slices(name: str, hosts: Iterable[int], node_name: str | None = None) -> list[Item]:
    return [
        endpoint_slice(
            [endpoint(f"{prefix}{host:x}" if ":" in prefix else f"{prefix}{host}", node_name) for host in hosts],
            service_name=name,
            name=f"{name}-{family.lower()}",
            family=family,
            ports=ENDPOINT_PORTS,
        )
        for family, prefix in (("IPv4", "10.128.0."), ("IPv6", "fd00:10:128::"))
    ]


def _ips(number: int) -> list[str]:
    return [f"10.96.0.{number}", f"fd00:10:96::{number}"]


def _everything() -> list[Item]:
    """Objects that put something into every set and map, in both families."""
    outside = ["198.51.100.1", "2001:db8:1::1"]
    far_ports = [port(80, "http", node_port=30083)]
    outside_too = ["198.51.100.2", "2001:db8:1::2"]
    vips = ["203.0.113.80", "2001:db8::80"]
    return [
        node(addresses=["192.168.1.10", "fd00:1::10"]),
        service_cidr("10.96.0.0/16", "fd00:10:96::/112"),
        service("web", _ips(1), PORTS, kind="NodePort", external_ips=outside),
        *_slices("web", (1, 2, 3)),
        service(
            "near",
            _ips(2),
            [port(80, "http", node_port=30081)],
            kind="LoadBalancer",
            external="Local",
            vips=vips,
            ranges=["203.0.113.0/24", "10.0.0.0/8", "2001:db8::/32"],
        ),
        *_slices("near", (4, 5), "node-1"),
        service("sticky", _ips(3), PORTS[:1], affinity=600, internal="Local", external_ips=outside_too),
        *_slices("sticky", (6, 7), "node-1"),
        service("nobody", _ips(4), [port(80, "http", node_port=30082)], kind="NodePort"),
        service("far", _ips(5), far_ports, kind="NodePort", internal="Local", external="Local"),
        *_slices("far", (8,), "node-2"),
    ]


EVERYTHING = _everything()
SET_SPECS = [set_spec for layout in LAYOUTS.values() for set_spec in layout.set_specs if not set_spec.is_chains]


def _repaired(host: Host) -> Transaction:
    """Applies, and asserts that nothing is left to do."""
    transaction = host.apply(*EVERYTHING)
    assert lines_of(host.delta(*EVERYTHING)) == []
    return transaction


@pytest.fixture(scope="module")
def _loaded_once() -> Iterator[Host]:
    with host_or_skip() as host:
        yield host


@pytest.fixture
def loaded(_loaded_once: Host) -> Host:
    """EVERYTHING is loaded, as the test before has left it."""
    if lines_of(_loaded_once.delta(*EVERYTHING)):
        _loaded_once.clear()
        _loaded_once.apply(*EVERYTHING)
    return _loaded_once


def _a_key(host: Host, set_spec: SetSpec) -> bytes:
    return min(key for of, key in host.read().entries if of is set_spec)


@pytest.mark.parametrize("set_spec", SET_SPECS, ids=repr)
def test_an_element_that_is_gone_comes_back(loaded: Host, set_spec: SetSpec) -> None:
    key = _a_key(loaded, set_spec)
    name = f"{set_spec.ip} {set_spec.name} {key_text(set_spec, key)}"
    loaded.nft(f"delete element {set_spec.ip} rulegen {set_spec.name} {{ {key_text(set_spec, key)} }}")
    assert lines_of(loaded.delta(*EVERYTHING)) == [f"+ {name}"]
    transaction = _repaired(loaded)
    assert (transaction.tables, elements_of(transaction)) == ((), [f"+ {name}"])


@pytest.mark.parametrize("set_spec", [c for c in SET_SPECS if c.data], ids=repr)
def test_an_element_with_another_value_is_put_right(loaded: Host, set_spec: SetSpec) -> None:
    key = _a_key(loaded, set_spec)
    wrong = Value(b"goto lb-7" if set_spec.is_verdict_map else b"\x81" * set_spec.data_length)
    name = f"{set_spec.ip} rulegen {set_spec.name}"
    loaded.nft(
        f"delete element {name} {{ {key_text(set_spec, key)} }}\n"
        f"add element {name} {{ {element_text(set_spec, key, wrong)} }}\n"
    )
    assert any(
        f" {set_spec.ip} {set_spec.name} {key_text(set_spec, key)}" in line
        for line in lines_of(loaded.delta(*EVERYTHING))
    )
    _repaired(loaded)


@pytest.mark.parametrize("set_spec", SET_SPECS, ids=repr)
def test_an_element_that_nobody_wants_goes(loaded: Host, set_spec: SetSpec) -> None:
    if set_spec.interval:
        element = {"source-ranges": "{0} . tcp . 9999 . {0}"}.get(set_spec.name, "{0}").format(
            "203.0.113.250" if set_spec.family is Family.IPV4 else "2001:db8:9::9"
        )
    else:
        entries = loaded.read().entries
        key = bytes(set_spec.key_length - 4) + b"\x7f\x7f\0\0"
        element = element_text(set_spec, key, next(v for (of, _), v in entries.items() if of is set_spec))
    loaded.nft(f"add element {set_spec.ip} rulegen {set_spec.name} {{ {element} }}")
    (line,) = lines_of(loaded.delta(*EVERYTHING))
    assert line.startswith(f"- {set_spec.ip} {set_spec.name} ")
    assert elements_of(_repaired(loaded)) == [line]


@pytest.mark.parametrize("set_spec", SET_SPECS, ids=repr)
def test_a_flushed_set_is_filled_again(loaded: Host, set_spec: SetSpec) -> None:
    entries = loaded.read().entries
    expected = sorted(
        f"+ {set_spec.ip} {set_spec.name} {key_text(set_spec, key)}" for of, key in entries if of is set_spec
    )
    loaded.nft(
        f"flush set {set_spec.ip} rulegen {set_spec.name}"
        if not set_spec.data
        else f"flush map {set_spec.ip} rulegen {set_spec.name}"
    )
    assert set(expected) <= set(lines_of(loaded.delta(*EVERYTHING)))
    _repaired(loaded)


def _rules(host: Host, chain: str) -> list[tuple[str, str]]:
    """Handle and text of each rule."""
    listing = host.run("nft", "-a", "list", "chain", "ip", "rulegen", chain).stdout
    return [(m[2], m[1].strip()) for m in re.finditer(r"^\t\t(.*) # handle (\d+)$", listing, re.MULTILINE)]


CHAINS = [
    "frontend",
    "special",
    "internal",
    "external",
    "external-local",
    "no-endpoints",
    "no-local-endpoints",
    "nodeport",
    "no-endpoints-nodeport",
    "balance",
    "unused",
    "marked",
    "translated",
    "prerouting",
    "output",
    "prerouting-unused",
    "output-unused",
    "input",
    "postrouting",
    "lb-1",
    "lb-3",
    "pick-1",
    "pick-2",
    "sticky-600",
    "sticky-local-600",
]


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("damage", ["deleted", "added", "inserted", "flushed"])
def test_a_chain_whose_rules_differ_is_written_again(loaded: Host, chain: str, damage: str) -> None:
    endpoint_index, _ = _rules(loaded, chain)[-1]
    before = loaded.read()
    loaded.nft(
        {
            "deleted": f"delete rule ip rulegen {chain} handle {endpoint_index}",
            "added": f"add rule ip rulegen {chain} counter",
            "inserted": f"insert rule ip rulegen {chain} ip daddr 10.96.0.1 drop",
            "flushed": f"flush chain ip rulegen {chain}",
        }[damage]
    )
    assert lines_of(loaded.delta(*EVERYTHING)) == [f"~ ip chains {chain}"]
    transaction = _repaired(loaded)
    changes = [change for stage in transaction.stages for change in stage]
    assert [change.chain.name for change in changes if isinstance(change, WriteRules)] == [chain]
    assert elements_of(transaction) == []
    assert loaded.read().tables[LAYOUTS[Family.IPV4]].rules == before.tables[LAYOUTS[Family.IPV4]].rules


@pytest.mark.parametrize(
    ("chain", "damage"),
    [
        ("prerouting", "type nat hook prerouting priority -90; policy accept;"),
        ("prerouting", "type nat hook input priority -100; policy accept;"),
        ("postrouting", "type nat hook postrouting priority 101; policy accept;"),
        ("input", "type nat hook output priority 99; policy accept;"),
        ("input", "type filter hook input priority 0; policy drop;"),
        ("output", ""),
        ("translated", None),
        ("prerouting", None),
        ("postrouting", None),
        ("prerouting-unused", None),
        ("lb-3", None),
        ("lb-3", "type filter hook input priority 9; policy accept;"),
    ],
)
def test_a_chain_that_is_gone_or_hooked_elsewhere_is_made_again(loaded: Host, chain: str, damage: str | None) -> None:
    before = loaded.read().tables[LAYOUTS[Family.IPV4]]
    if chain in ("translated", "lb-3"):
        # Only a chain that nothing refers to can be deleted.
        users = {"translated": ["postrouting"], "lb-3": []}[chain]
        loaded.nft("".join(f"flush chain ip rulegen {user}\n" for user in users))
        if chain == "lb-3":
            loaded.nft("delete element ip rulegen balancers { 0:3 }")
    loaded.nft(f"delete chain ip rulegen {chain}")
    if damage is not None:
        hook = f"{{ {damage} }}" if damage else ""
        loaded.nft(f"add chain ip rulegen {chain} {hook}\nadd rule ip rulegen {chain} counter")
    assert f"{'+' if damage is None else '~'} ip chains {chain}" in lines_of(loaded.delta(*EVERYTHING))
    assert _repaired(loaded).tables == ()
    after = loaded.read().tables[LAYOUTS[Family.IPV4]]
    assert (after.rules, after.listed_as) == (before.rules, before.listed_as)


def test_policy_drop_set_on_a_chain_is_undone(loaded: Host) -> None:
    loaded.nft("chain ip rulegen prerouting-unused { policy drop; }")
    assert lines_of(loaded.delta(*EVERYTHING)) == ["~ ip chains prerouting-unused"]
    _repaired(loaded)
    assert "policy accept" in loaded.nft("list chain ip rulegen prerouting-unused")


@pytest.mark.parametrize("hook", ["", "{ type filter hook input priority 7; policy drop; }"])
def test_a_chain_that_is_not_ours_goes(loaded: Host, hook: str) -> None:
    loaded.nft(
        f"add chain ip rulegen intruder {hook}\nadd chain ip rulegen other\n"
        "add rule ip rulegen intruder jump other\nadd rule ip rulegen intruder drop"
    )
    assert lines_of(loaded.delta(*EVERYTHING)) == ["- ip chains intruder", "- ip chains other"]
    _repaired(loaded)


def test_a_jump_into_a_foreign_chain_goes_with_it(loaded: Host) -> None:
    loaded.nft(
        "add chain ip rulegen intruder\nadd rule ip rulegen intruder drop\n"
        "insert rule ip rulegen frontend jump intruder\n"
        "add element ip rulegen balancers { 0:77 : goto intruder }"
    )
    assert lines_of(loaded.delta(*EVERYTHING)) == [
        "- ip balancers 0:77",
        "- ip chains intruder",
        "~ ip chains frontend",
    ]
    _repaired(loaded)


@pytest.mark.parametrize("damage", ["flush ruleset", "delete table ip rulegen", "delete table ip6 rulegen"])
def test_a_table_that_is_gone_is_loaded_again(loaded: Host, damage: str) -> None:
    before = loaded.read()
    loaded.nft(damage)
    transaction = _repaired(loaded)
    assert list(transaction.stages) == []
    assert len(transaction.tables) == (2 if damage == "flush ruleset" else 1)
    assert meaning(loaded.read().entries) == meaning(before.entries)


def test_both_tables_damaged_one_beyond_repair(loaded: Host) -> None:
    loaded.nft(
        "delete table ip rulegen\n"
        "flush chain ip6 rulegen frontend\n"
        "delete element ip6 rulegen cluster-ips { fd00:10:96::1 }"
    )
    _repaired(loaded)


@pytest.mark.parametrize(
    "damage",
    [
        "delete element ip rulegen fingerprints { %d }",
        "flush set ip rulegen fingerprints",
    ],
)
def test_a_chain_that_is_not_noted_any_more_is_written_again(loaded: Host, damage: str) -> None:
    loaded.nft(damage % zlib.crc32(b"frontend") if "%" in damage else damage)
    lines = lines_of(loaded.delta(*EVERYTHING))
    assert "~ ip chains frontend" in lines
    assert all(" chains " in line for line in lines)
    assert elements_of(_repaired(loaded)) == []


def test_what_another_version_of_nft_makes_of_a_rule_is_no_damage(loaded: Host) -> None:
    """It is noted what the kernel held when the chain was loaded; how this nft would encode the rule plays no part."""
    noted = loaded.read().tables[LAYOUTS[Family.IPV4]].fingerprints["input"]
    loaded.nft(
        "flush chain ip rulegen input\nadd rule ip rulegen input meta priority & 0x80000000 != 0 meta priority set none"
    )
    assert lines_of(loaded.delta(*EVERYTHING)) == ["~ ip chains input"]
    listed_as = loaded.read().tables[LAYOUTS[Family.IPV4]].listed_as["input"]
    assert listed_as != noted.loaded_as
    key = zlib.crc32(b"input")
    loaded.nft(
        f"delete element ip rulegen fingerprints {{ {key} }}\n"
        f'add element ip rulegen fingerprints {{ {key} comment "input {noted.loaded_from} {listed_as}" }}'
    )
    assert lines_of(loaded.delta(*EVERYTHING)) == []
    loaded.nft("add rule ip rulegen input counter")
    assert lines_of(loaded.delta(*EVERYTHING)) == ["~ ip chains input"]
    _repaired(loaded)


def test_a_set_that_is_missing_makes_the_table_anew(loaded: Host) -> None:
    loaded.nft("flush chain ip rulegen translated\ndelete set ip rulegen hairpin")
    transaction = _repaired(loaded)
    assert [table.base_chains.family for table in transaction.tables] == [Family.IPV4]


@pytest.mark.parametrize(
    "declaration",
    [
        "set hairpin { type ipv4_addr; }",
        "set hairpin { type ipv4_addr . ipv4_addr; flags interval; }",
        "map hairpin { typeof ip saddr . ip daddr : meta mark; }",
        "set hairpin { typeof ip saddr . ip daddr; size 2; }",
    ],
)
def test_a_set_of_another_kind_makes_the_table_anew(loaded: Host, declaration: str) -> None:
    loaded.nft("flush chain ip rulegen translated\ndelete set ip rulegen hairpin")
    loaded.nft(f"table ip rulegen {{ {declaration}\n }}")
    _repaired(loaded)
    assert "size 2" not in loaded.nft("list set ip rulegen hairpin")


def test_a_table_that_packets_do_not_meet_is_woken(loaded: Host) -> None:
    loaded.nft("add table ip rulegen { flags dormant; }")
    assert len(loaded.delta(*EVERYTHING).added) > 100
    _repaired(loaded)
    assert "dormant" not in loaded.nft("list table ip rulegen")


def test_a_foreign_set_in_the_table_goes(loaded: Host) -> None:
    loaded.nft("add set ip rulegen intruder { type ipv4_addr; }\nadd element ip rulegen intruder { 10.0.0.1 }")
    assert lines_of(loaded.delta(*EVERYTHING)) == ["- ip foreign set intruder"]
    _repaired(loaded)
    assert "intruder" not in loaded.nft("list table ip rulegen")


def test_what_the_kernel_remembers_of_clients_is_no_damage_and_is_kept(loaded: Host) -> None:
    endpoint_indexes = LAYOUTS[Family.IPV4].endpoint_indexes
    register = min(
        unpack_register(value.data) for (of, _), value in loaded.read().entries.items() if of is endpoint_indexes
    )
    base, text = (f"{number >> 16:x}:{number & 0xFFFF:x}" for number in (register & 0xFFFFF000, register))
    loaded.nft(f"add element ip rulegen affinity {{ {base} . 203.0.113.9 timeout 600s : {text} }}")
    assert lines_of(loaded.delta(*EVERYTHING)) == []
    loaded.nft("flush chain ip rulegen frontend")
    _repaired(loaded)
    assert "203.0.113.9" in loaded.nft("list map ip rulegen affinity")


# ---- intervals ----

V4_EDGES = [
    "0.0.0.0/0",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "255.255.255.255/32",
    "255.255.255.254/31",
    "0.0.0.0/32",
    "10.0.0.0/8",
    "203.0.113.0/25",
    "203.0.113.128/25",
    "203.0.114.0/24",
    "203.0.113.7/32",
]
V6_EDGES = [
    "::/0",
    "::/1",
    "8000::/1",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
    "::/128",
    "2001:db8::/33",
    "2001:db8:8000::/33",
    "2001:db8::7/128",
    "2001:db9::/32",
]


@given(
    before=st.lists(st.sampled_from(V4_EDGES + V6_EDGES), max_size=8),
    after=st.lists(st.sampled_from(V4_EDGES + V6_EDGES), max_size=8),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ranges_of_every_kind_come_back_as_they_were_written(host: Host, before: list[str], after: list[str]) -> None:
    """Service ranges and source ranges; adjacent, overlapping, at both ends of the address space."""
    host.clear()
    for cidrs in (before, after):
        items = _restricted(cidrs)
        host.apply(*items)
        assert lines_of(host.delta(*items)) == []


def _restricted(cidrs: list[str]) -> list[Item]:
    items: list[Item] = [
        node(addresses=["192.168.1.10", "fd00:1::10"]),
        service("web", _ips(1), kind="LoadBalancer", vips=["203.0.113.80", "2001:db8::80"], ranges=cidrs),
    ]
    return [*items, service_cidr(*cidrs)] if cidrs else items


def test_thousands_of_ranges(host: Host) -> None:
    ranges = [
        f"{10 + number // 65536}.{number // 256 % 256}.{number % 256}.{2 * (number % 100)}/31" for number in range(3000)
    ]
    host.apply(*_restricted(ranges))
    assert lines_of(host.delta(*_restricted(ranges))) == []
    transaction = host.apply(*_restricted(ranges[:-1]))
    assert len([change for change in transaction.changes if isinstance(change, DeleteElements)]) <= 2
    assert lines_of(host.delta(*_restricted(ranges[:-1]))) == []
