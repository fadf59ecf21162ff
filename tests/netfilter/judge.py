"""What the evaluator says of single packets beside what a kernel has made of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from ipaddress import ip_address
from math import sqrt

from rulegen.netfilter.intervals import Intervals
from rulegen.netfilter.machine import INTERFACE_BITS, Ending, Fate, Machine, Probe, Run
from rulegen.netfilter.model import Family, Ruleset
from rulegen.netfilter.regions import Region, single
from rulegen.netfilter.state import BEGINS, Connection
from tests import lab as labs
from tests.lab import Lab, Packet
from tests.lab.packets import endpoint_text
from tests.netfilter.random_rules import PORTS, Words

FAMILIES = {"ip": Family.IPV4, "ip6": Family.IPV6}
_FATES = {
    Fate.PASSED: labs.Fate.PASSED,
    Fate.TRANSLATED: labs.Fate.DELIVERED,
    Fate.REJECTED: labs.Fate.REJECTED,
    Fate.DROPPED: labs.Fate.DROPPED,
}
_PROTOCOLS = {"TCP": 6, "UDP": 17}
NOTHING: Mapping[str, Probe] = {}
_CLIENTS = {"ip": ("10.128.0.", "203.0.113."), "ip6": ("fd00:10:128::", "2001:db8:b::")}
# What stands in place of a source port: the type, and the code.
_ECHO_REQUEST = {Family.IPV4: (1, 8 << 8), Family.IPV6: (58, 128 << 8)}


def random_packets(seed: int, words: Words, count: int, protocols: Sequence[str] = ("TCP", "UDP")) -> list[Packet]:
    """Some of them; those that nobody could send are left out."""
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
        service_port, protocol = pick.choice(PORTS), pick.choice(protocols)
        if protocol == "ICMP":
            service_port = 0
        found.append(Packet(source, destination, service_port, protocol, interface, port))
    return found


def client_packets(seed: int, words: Words) -> list[Packet]:
    """One of each of 80 clients: a list of the match recent has no room for more than 100."""
    clients = [f"{one}{number}" for one in _CLIENTS[words.ip] for number in range(20, 60)]
    found = []
    for packet, client in zip(random_packets(seed, words, 120), clients, strict=False):
        interface = "pods" if client.startswith(("10.128", "fd00")) else "eth0"
        found.append(packet._replace(source=client, interface=interface))
    return found


class Judge:
    """The evaluator's opinion of packets."""

    def __init__(self, words: Words, ruleset: Ruleset) -> None:
        self._family = FAMILIES[words.ip]
        own = [int(ip_address(words.sources[-1]))]
        local = [(number, number) for number in own]
        local.append((127 << 24, (128 << 24) - 1) if self._family is Family.IPV4 else (1, 1))
        self._local = Intervals.of(local)
        self._machine = Machine(ruleset, self._local)
        others = {*words.sources, *words.destinations, *words.endpoints} - {words.sources[-1]}
        # The lab's packets of TCP are the first ones of their connections.
        self._facts = ((BEGINS, True), *((int(ip_address(address)), False) for address in others))

    def endings(self, packet: Packet, memory: Probe | None = None) -> list[Ending]:
        """`memory`: what the kernel remembers the client by."""
        name = packet.interface or ""
        interface = int.from_bytes(name.encode().ljust(INTERFACE_BITS // 8, b"\0"), "big")
        protocol, source_port = (
            _ECHO_REQUEST[self._family]
            if packet.protocol == "ICMP"
            else (_PROTOCOLS[packet.protocol], packet.source_port)
        )
        numbers = (
            int(ip_address(packet.source)),
            int(ip_address(packet.destination)),
            protocol,
            source_port,
            packet.port,
            interface,
            0,
            0,
            0,
        )
        region: Region = single(numbers, self._facts)
        run = Run(self._machine, Connection.NEW, is_sent=not packet.interface, memory=memory)
        return [ending for cell in run.follow(region) for ending in cell]

    def wrong(self, lab: Lab, packets: Sequence[Packet], memories: Mapping[str, Probe] = NOTHING) -> list[str]:
        """Sends packets, and says what of them is otherwise. `memories`: by the client's address.

        The node's own source port shows that it was masqueraded, unless the same one is drawn, once in 64,512 times.
        """
        outcomes = lab.send(packets)
        found = []
        for packet, seen in zip(packets, outcomes, strict=True):
            memory = memories.get(packet.source)
            text = self(packet, [seen], memory)
            if text and not packet.interface and not seen.masqueraded:
                text = self(packet, lab.send([packet._replace(source_port=packet.source_port - 500)]), memory)
            found.append(text)
        return [text for text in found if text]

    def __call__(self, packet: Packet, seen: list[labs.Outcome], memory: Probe | None = None) -> str:
        """What is wrong, "" for nothing."""
        shares: dict[tuple[labs.Fate, str, bool], Fraction] = {}
        for ending in self.endings(packet, memory):
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
