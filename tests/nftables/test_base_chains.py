"""Where SVC-67 looks at all: a prefix around the addresses of Services, rendered into the fixed part."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rulegen.config import Family
from rulegen.nftables.elements import Value
from rulegen.nftables.tables import AllEntries
from rulegen.nftables.transaction import WriteRules
from rulegen.services.on_nftables.base_chains import accepts_nodeports, service_ranges
from rulegen.services.on_nftables.compiler import Compiler
from rulegen.services.on_nftables.layout import LAYOUTS
from rulegen.services.store import Store
from tests.builders import CONFIGURATION, Item, endpoint_slice, node, port, service, service_cidr
from tests.nftables.host import Host, compiled, elements_of, lines_of


def ranges(cidrs: list[str], *cluster_ips: str, family: Family = Family.IPV4) -> tuple[str, ...]:
    return service_ranges(family, tuple(cidrs), tuple(ip_address(address).packed for address in cluster_ips))


@pytest.mark.parametrize(
    ("cidrs", "cluster_ips", "expected"),
    [
        ([], [], ()),
        (["10.96.0.0/12"], [], ("10.96.0.0/12",)),
        (["10.96.0.0/12"], ["10.96.0.1", "10.111.255.254"], ("10.96.0.0/12",)),
        (["10.96.0.0/16", "10.97.0.0/16"], ["10.96.0.1", "10.97.0.1"], ("10.96.0.0/15",)),
        ([], ["10.96.0.1", "10.96.0.1"], ("10.96.0.0/16",)),
        ([], ["10.96.0.1", "10.97.0.1"], ("10.96.0.0/15",)),
        (["10.96.0.0/24"], ["10.96.0.1", "10.99.0.1"], ("10.96.0.0/14",)),
        (["10.96.0.0/16"], ["10.96.0.1", "192.168.0.1"], ("@cluster-ips", "@service-cidrs")),
        (["0.0.0.0/0"], [], ("@cluster-ips", "@service-cidrs")),
    ],
)
def test_the_prefix(cidrs: list[str], cluster_ips: list[str], expected: tuple[str, ...]) -> None:
    assert ranges(cidrs, *cluster_ips) == expected


def test_the_prefix_of_ipv6() -> None:
    assert ranges(["fd00:10:96::/108"], "fd00:10:96::1", "fd00:10:96::a", family=Family.IPV6) == ("fd00:10:96::/108",)
    assert ranges([], "fd00:10:96::1", "fd00:10:96::1", family=Family.IPV6) == ("fd00:10:96::/64",)


@pytest.mark.parametrize(
    ("cidrs", "expected"),
    [
        (["192.0.2.10/32"], "ip daddr 192.0.2.10"),
        (["192.0.2.0/24"], "ip daddr 192.0.2.0/24"),
        (["0.0.0.0/0"], "ip daddr != 127.0.0.0/8"),
        (["64.0.0.0/2"], "ip daddr != 127.0.0.0/8 ip daddr 64.0.0.0/2"),
        (["127.0.0.0/8"], "ip daddr != 127.0.0.0/8 ip daddr 127.0.0.0/8"),
        (["192.0.2.10/32", "198.51.100.0/24"], "ip daddr != 127.0.0.0/8 ip daddr @nodeport-addresses"),
        ([], "ip daddr != 127.0.0.0/8 ip daddr @nodeport-addresses"),
    ],
)
def test_where_nodeports_are_accepted(cidrs: list[str], expected: str) -> None:
    assert accepts_nodeports(Family.IPV4, tuple(cidrs)) == expected


def test_where_nodeports_are_accepted_of_ipv6() -> None:
    assert accepts_nodeports(Family.IPV6, ("fd00::10/128",)) == "ip6 daddr fd00::10"
    assert accepts_nodeports(Family.IPV6, ("::/0",)) == "ip6 daddr != ::1"
    assert accepts_nodeports(Family.IPV6, ("::/64",)) == "ip6 daddr != ::1 ip6 daddr ::/64"


@given(
    cidrs=st.lists(st.sampled_from(["10.96.0.0/16", "10.97.128.0/17", "172.16.0.0/12", "10.0.0.0/8"]), max_size=3),
    addresses=st.lists(st.ip_addresses(v=4), max_size=4),
)
def test_nothing_of_a_service_lies_outside(cidrs: list[str], addresses: list[object]) -> None:
    ordered = sorted(ip_address(str(address)) for address in addresses)
    found = ranges(cidrs, *(str(address) for address in (ordered[:1] + ordered[-1:])))
    if not found:
        assert not cidrs
        assert not addresses
    elif not found[0].startswith("@"):
        (prefix,) = map(ip_network, found)
        assert all(address in prefix for address in ordered)
        assert all(ip_network(cidr).subnet_of(prefix) for cidr in cidrs)  # type: ignore[arg-type]


# ---- as Services come and go ----


def _web(name: str, address: str) -> list[Item]:
    return [service(name, [address]), endpoint_slice(["10.244.1.1"], service_name=name, name=f"{name}-1")]


INSIDE = [node(), service_cidr("10.96.0.0/16"), *_web("inside", "10.96.0.1")]


@pytest.mark.kernel
def test_a_cluster_ip_outside_of_the_ranges_widens_the_prefix_and_gives_it_back(host: Host) -> None:
    host.apply(*INSIDE)
    before = host.read().entries
    transaction = host.apply(*INSIDE, *_web("more", "10.96.9.9"))
    assert not [change for change in transaction.changes if isinstance(change, WriteRules)]
    transaction = host.apply(*INSIDE, *_web("outside", "10.99.0.1"))
    written = {change.chain.name for change in transaction.changes if isinstance(change, WriteRules)}
    assert written == {"prerouting-unused", "output-unused"}
    assert "10.96.0.0/14" in host.nft("list chain ip rulegen output-unused")
    assert lines_of(host.delta(*INSIDE, *_web("outside", "10.99.0.1"))) == []
    transaction = host.apply(*INSIDE)
    assert [line for line in elements_of(transaction) if line.startswith("+")] == []
    assert host.read().entries == before


def _nodeport(name: str, *numbers: int) -> list[Item]:
    return [
        service(name, [f"10.96.1.{len(name)}"], ports=[port(n, f"p{n}", node_port=n) for n in numbers], kind="NodePort")
    ]


@pytest.mark.kernel
def test_ports_of_nodeports_are_compared_as_far_as_there_are_any(host: Host) -> None:
    def compared() -> str:
        chain = host.nft("list chain ip rulegen prerouting") + host.nft("list chain ip rulegen output")
        found = set(re.findall(r"th dport ([0-9-]+) meta priority set", chain))
        assert len(found) < 2
        return "".join(found)

    host.apply(*INSIDE)
    before = host.read().entries
    assert compared() == ""
    for nodeports, expected in (
        ([_nodeport("a", 30080)], "28672-32767"),
        ([_nodeport("a", 30080), _nodeport("bb", 32767)], "28672-32767"),
        ([_nodeport("a", 30080), _nodeport("bb", 32768)], "28672-36863"),
        ([_nodeport("bb", 1, 65535)], "0-65535"),
        ([_nodeport("bb", 65535)], "61440-65535"),
    ):
        items = [*INSIDE, *(item for items in nodeports for item in items)]
        host.apply(*items)
        assert compared() == expected
        assert lines_of(host.delta(*items)) == []
    host.apply(*INSIDE)
    assert host.read().entries == before


def test_another_address_of_the_node_is_written_into_the_chain_that_compares_it(host: Host) -> None:
    host.apply(*INSIDE)
    transaction = host.apply(*INSIDE, node(addresses=["192.168.1.11"]))
    written = {change.chain.name for change in transaction.changes if isinstance(change, WriteRules)}
    assert written == {"nodeport"}
    assert "ip daddr 192.168.1.11 fib daddr type local" in host.nft("list chain ip rulegen nodeport")


def test_a_compiler_that_follows_changes_says_the_same_as_one_that_starts() -> None:
    made = Store(CONFIGURATION)
    compiler = Compiler(CONFIGURATION.families, CONFIGURATION.masquerade_bit)
    names = [f"outside-{number}" for number in range(5)]
    items = {name: _web(name, f"10.{99 + number}.0.1") for number, name in enumerate(names)}
    seen = set()
    for present in ([], names[:1], names, names[1:], names[2:4], [], names[::-1]):
        made.set_objects([*INSIDE, *(item for name in present for item in items[name])])
        for name in set(names) - set(present):
            made.remove_service("default", name)
            made.remove_slice("default", f"{name}-1")
        changes = made.take_changes()
        compiler.update(changes.service_ports, changes.node)
        fresh = compiled([*INSIDE, *(item for name in present for item in items[name])])
        assert compiler.base_chains == fresh.base_chains
        assert _unused(compiler.entries()) == _unused(fresh.entries())
        seen.add(_unused(fresh.entries()))
    assert len(seen) > 2


def _unused(entries: AllEntries) -> Value:
    return entries[LAYOUTS[Family.IPV4].chains, b"output-unused"]
