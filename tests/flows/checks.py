"""Packets through a ProxyNode beside what the oracle expects of them; differences come out as sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address, ip_network
from itertools import islice
from typing import NamedTuple

from tests.flows.oracle import Expected, Oracle, Sent
from tests.flows.world import World
from tests.lab import UPLINK, Fate, Lab, Outcome, Packet
from tests.lab.statistics import packets_to_see_all

# The chance that one right endpoint of one flow is never drawn: less than one in 10,000 for a million flows.
MISSED_ONE_IN = 10_000_000_000


class Flow(NamedTuple):
    """A packet in the oracle's words, and what the case is called."""

    name: str
    sent: Sent

    @property
    def packet(self) -> Packet:
        """The same for the lab."""
        sent = self.sent
        return Packet(sent.source, sent.destination, sent.port, sent.protocol, sent.interface)

    def __str__(self) -> str:
        sent = self.sent
        where = f" on {sent.interface}" if sent.interface else ", sent by the node,"
        return f"{self.name}: {sent.source}{where} to {sent.destination} port {sent.port}/{sent.protocol}"


def flow(
    world: World, name: str, source: str, destination: str, port: int = 0, protocol: str = "TCP", interface: str = ""
) -> Flow:
    """A Flow; without `interface` the packet arrives where the way back leads."""
    if source not in world.own_addresses and not interface:
        interface = arriving_interface(world, source)
    return Flow(name, Sent(source, destination, port, protocol, interface))


def arriving_interface(world: World, source: str) -> str:
    """The most specific route back to `source`."""
    service_ports = [(ip_network(cidr), name) for name, cidrs in world.interfaces.items() for cidr in cidrs]
    found = [(network.prefixlen, name) for network, name in service_ports if ip_address(source) in network]
    return max(found)[1] if found else UPLINK


def differences(lab: Lab, world: World, flows: Sequence[Flow]) -> list[str]:
    """What the kernel does otherwise than the oracle says, a sentence for each flow."""
    oracle = Oracle(world)
    found = _different(lab, [(flow, oracle.expect(flow.sent)) for flow in flows])
    # A masqueraded connection may hold the very port that the node's own packet comes from; then that port changes too.
    own = [(flow, expected) for flow, expected, _ in found if not flow.sent.interface]
    lab.forget_connections()
    still = {flow for flow, _, _ in _different(lab, own)}
    return [text for flow, _, text in found if flow.sent.interface or flow in still]


def _different(lab: Lab, planned: Sequence[tuple[Flow, Expected]]) -> list[tuple[Flow, Expected, str]]:
    counted = [(flow, expected, _count(expected)) for flow, expected in planned]
    outcomes = iter(lab.send(flow.packet for flow, _, count in counted for _ in range(count)))
    found = []
    for flow, expected, count in counted:
        problem = problem_of(expected, list(islice(outcomes, count)))
        if problem:
            found.append((flow, expected, f"{flow}: by {expected.why} {problem}"))
    return found


def _count(expected: Expected) -> int:
    """Packets enough to see every endpoint; a client with affinity sees but one."""
    if not expected.shares or expected.affinity:
        return 2 if expected.affinity else 1
    return packets_to_see_all(expected.shares, one_in=MISSED_ONE_IN)


def problem_of(expected: Expected, outcomes: Sequence[Outcome]) -> str:
    """What is wrong with the outcomes, "" for nothing."""
    return next(_problems(expected, outcomes), "")


def _problems(expected: Expected, outcomes: Iterable[Outcome]) -> Iterator[str]:
    seen = set()
    for outcome in outcomes:
        seen.add(outcome.endpoint)
        if outcome.fate is not Fate(expected.fate):
            yield f"{expected.fate} {_words(expected)}, but {outcome.fate.value} {outcome.endpoint}"
        elif outcome.fate is Fate.DELIVERED and outcome.endpoint not in expected.shares:
            yield f"to {_words(expected)}, but went to {outcome.endpoint}"
        elif outcome.masqueraded != (outcome.endpoint in expected.masqueraded):
            yield f"{'not ' if outcome.masqueraded else ''}masqueraded to {outcome.endpoint}, but it was the other way"
    if expected.affinity and len(seen) > 1:
        yield f"to one endpoint, but went to {sorted(seen)}"
    if expected.shares and not expected.affinity and (missing := sorted(expected.shares.keys() - seen)):
        yield f"to {_words(expected)}, but never to {missing}"


def _words(expected: Expected) -> str:
    return " or ".join(sorted(expected.shares))
