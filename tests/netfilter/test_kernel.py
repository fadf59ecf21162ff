"""The evaluator beside the kernel: random rulesets, packets through both, and the outcomes must be equal."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from ipaddress import ip_address
from math import sqrt

import pytest

from rulegen.netfilter import nft
from rulegen.netfilter.intervals import Intervals
from rulegen.netfilter.kernel import list_tables
from rulegen.netfilter.machine import INTERFACE_BITS, Ending, Fate, Machine, Run
from rulegen.netfilter.model import Family, Ruleset
from rulegen.netfilter.regions import Region, single
from rulegen.netfilter.state import BEGINS, Connection
from tests import lab as labs
from tests.lab import Lab, Packet
from tests.lab.fixtures import lab_or_skip
from tests.lab.packets import endpoint_text
from tests.netfilter.random_rules import IPV4, IPV6, PORTS, RandomRules, Words

pytestmark = pytest.mark.kernel

# 150 rulesets with 140 packets and more.
SEEDS = range(150)
PACKETS = 140
REPEATED = 60
_FATES = {
    Fate.PASSED: labs.Fate.PASSED,
    Fate.TRANSLATED: labs.Fate.DELIVERED,
    Fate.REJECTED: labs.Fate.REJECTED,
    Fate.DROPPED: labs.Fate.DROPPED,
}
_FAMILIES = {"ip": Family.IPV4, "ip6": Family.IPV6}
_PROTOCOLS = {"TCP": 6, "UDP": 17}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_or_skip() as made:
        yield made


@pytest.mark.part(0)
@pytest.mark.parametrize("seed", SEEDS)
def test_packets_go_where_the_evaluator_says(seed: int, lab: Lab) -> None:
    words = IPV6 if seed % 3 == 2 else IPV4
    rules = RandomRules(seed, words)
    lab.forget_connections()
    lab.nft(rules.text)
    try:
        with lab.entered():
            listings = list_tables({"probe"})
        judge = Judge(words, nft.read_ruleset(_FAMILIES[words.ip], listings))
        packets = random_packets(seed, words, PACKETS)
        wrong = [
            text for packet, seen in zip(packets, lab.send(packets), strict=True) if (text := judge(packet, [seen]))
        ]
        if rules.draws:
            for packet in packets[:4]:
                again = [packet._replace(source_port=packet.source_port + PACKETS * (1 + n)) for n in range(REPEATED)]
                wrong += filter(None, [judge(packet, lab.send(again))])
        assert not wrong, f"seed {seed}:\n" + "\n".join(wrong[:10]) + f"\n{rules.text}"
    finally:
        lab.nft(f"delete table {words.ip} probe")


def random_packets(seed: int, words: Words, count: int) -> list[Packet]:
    pick = random.Random(seed)
    found = []
    for number in range(count):
        source = pick.choice(words.sources)
        destination = pick.choice(words.destinations)
        if source == destination and source != words.sources[-1]:
            continue
        pods = source.startswith(("10.128.", "fd00:10:128:"))
        interface = "" if source == words.sources[-1] else "pods" if pods else "eth0"
        # Each of a connection of its own.
        port = pick.choice([2000, 41000]) + number
        found.append(Packet(source, destination, pick.choice(PORTS), pick.choice(["TCP", "UDP"]), interface, port))
    return found


class Judge:
    """The evaluator's opinion of packets."""

    def __init__(self, words: Words, ruleset: Ruleset) -> None:
        self._family = _FAMILIES[words.ip]
        own = [int(ip_address(words.sources[-1]))]
        local = [(number, number) for number in own]
        local.append((127 << 24, (128 << 24) - 1) if self._family is Family.IPV4 else (1, 1))
        self._local = Intervals.of(local)
        self._machine = Machine(ruleset, self._local)
        others = {*words.sources, *words.destinations, *words.endpoints} - {words.sources[-1]}
        # The lab's packets of TCP are the first ones of their connections.
        self._facts = ((BEGINS, True), *((int(ip_address(address)), False) for address in others))

    def endings(self, packet: Packet) -> list[Ending]:
        name = packet.interface or ""
        interface = int.from_bytes(name.encode().ljust(INTERFACE_BITS // 8, b"\0"), "big")
        numbers = (
            int(ip_address(packet.source)),
            int(ip_address(packet.destination)),
            _PROTOCOLS[packet.protocol],
            packet.source_port,
            packet.port,
            interface,
            0,
            0,
            0,
        )
        region: Region = single(numbers, self._facts)
        run = Run(self._machine, Connection.NEW, is_sent=not packet.interface)
        return [ending for cell in run.follow(region) for ending in cell]

    def __call__(self, packet: Packet, seen: list[labs.Outcome]) -> str:
        """What is wrong, "" for nothing."""
        shares: dict[tuple[labs.Fate, str, bool], Fraction] = {}
        for ending in self.endings(packet):
            if ending.outcome.fate is Fate.UNKNOWN:
                # What the node sends to itself and masquerades comes in by a port that nobody can foresee.
                is_to_itself = not packet.interface and packet.source == packet.destination
                return "" if is_to_itself else f"{packet}: {ending.why}"
            for endpoint, share in ending.endpoints.items():
                key = self._key(packet, ending, endpoint)
                shares[key] = shares.get(key, Fraction(0)) + share
        if sum(shares.values()) != 1:
            return f"{packet}: the shares add up to {sum(shares.values())}"
        found = Counter(
            (one.fate, one.endpoint if one.fate is labs.Fate.DELIVERED else "", one.masqueraded) for one in seen
        )
        for key, count in found.items():
            if key not in shares:
                return f"{packet}: {key}, but expected {dict(shares)}"
            chance = float(shares[key])
            deviation = 6 * sqrt(chance * (1 - chance) * len(seen)) + 1
            if len(seen) > 1 and abs(count - chance * len(seen)) > deviation:
                return f"{packet}: {count} of {len(seen)} are {key}, but expected {chance:.3f}"
        return ""

    def _key(self, packet: Packet, ending: Ending, endpoint: tuple[int, int] | None) -> tuple[labs.Fate, str, bool]:
        fate = _FATES[ending.outcome.fate]
        text = ""
        if fate is labs.Fate.DELIVERED and endpoint is not None:
            address = str(ip_address(endpoint[0].to_bytes(self._family.bits // 8, "big")))
            text = endpoint_text(address, endpoint[1])
            unchanged = endpoint == (int(ip_address(packet.destination)), packet.port)
            if unchanged:
                fate, text = labs.Fate.PASSED, ""
        masqueraded = ending.outcome.masqueraded and fate in {labs.Fate.DELIVERED, labs.Fate.PASSED}
        return fate, text, masqueraded
