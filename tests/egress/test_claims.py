"""Ranges that several claim, against brute force."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from hypothesis import given, settings
from hypothesis import strategies as st

from rulegen.egress.claims import Claims
from tests.counting import lines_run

# 32 addresses: so few that ranges of all lengths meet.
_SPACE = 27


def _network(index: int, length: int) -> IPv4Network:
    return IPv4Network((0x0A000000 + (index << (32 - length)), length))


NETWORKS = st.integers(_SPACE, 32).flatmap(
    lambda length: st.integers(0, (1 << (length - _SPACE)) - 1).map(lambda index: _network(index, length))
)
STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.frozensets(NETWORKS, max_size=4)), max_size=12)


def _outermost(claimed: dict[str, frozenset[IPv4Network]]) -> dict[IPv4Network, str]:
    owners: dict[IPv4Network, str] = {}
    for owner, networks in sorted(claimed.items(), reverse=True):
        owners |= dict.fromkeys(networks, owner)
    return {one: owner for one, owner in owners.items() if not any(one != two and one.subnet_of(two) for two in owners)}


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_the_outermost_ranges_are_there_and_no_others(steps: list[tuple[str, frozenset[IPv4Network]]]) -> None:
    claims = Claims()
    claimed: dict[str, frozenset[IPv4Network]] = {}
    taken: dict[object, str] = {}
    for owner, networks in steps:
        claims.claim(owner, networks)
        claimed[owner] = networks
        wanted = _outermost(claimed)
        assert claims.outermost.now == wanted
        # What is taken bit by bit adds up to the same.
        for network, change in claims.outermost.take().items():
            assert taken.get(network) == change.before
            if change.after is None:
                del taken[network]
            else:
                taken[network] = change.after
        assert taken == wanted
        for number in range(0, 32, 3):
            address = f"10.0.0.{number}"
            around = next((item for item in wanted.items() if IPv4Address(address) in item[0]), None)
            assert claims.covering(address) == around
    for owner in claimed:
        claims.claim(owner, ())
    assert not claims.outermost


def test_a_range_that_comes_touches_none_of_its_neighbours() -> None:
    claims = Claims()
    for number in range(200):
        claims.claim(f"Node {number}", [IPv4Network(f"10.{number}.0.0/24")])
    claims.outermost.take()
    claims.claim("Node new", [IPv4Network("10.7.1.0/24")])
    assert list(claims.outermost.take()) == [IPv4Network("10.7.1.0/24")]
    claims.claim("Node 7", ())
    assert list(claims.outermost.take()) == [IPv4Network("10.7.0.0/24")]


def test_ranges_of_many_lengths_cost_no_more_where_there_are_many() -> None:
    def cost(number: int) -> int:
        claims = Claims()
        claims.claim("ServiceCIDR small", [IPv4Network("10.255.255.0/28")])
        owned = [(f"Node {one}", IPv4Network((0x0A000000 + (one << 8), 24))) for one in range(number)]

        def come_and_go() -> None:
            for owner, network in owned:
                claims.claim(owner, [network])
            for owner, _ in owned:
                claims.claim(owner, ())

        return lines_run(come_and_go)

    few, many = cost(100), cost(1000)
    assert many < 11 * few, (few, many)
