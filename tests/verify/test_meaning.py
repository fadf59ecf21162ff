"""What is meant, class by class, beside the simulation of single packets, with which the oracle agrees, too."""

from __future__ import annotations

from fractions import Fraction
from ipaddress import ip_address

import pytest

from rulegen.config import Family as ServiceFamily
from rulegen.netfilter.machine import Ending, Fate, everything
from rulegen.netfilter.model import Family
from rulegen.netfilter.regions import DPORT, DST, IIF, MARK, PROTO, SRC, Region, simplest, single
from rulegen.netfilter.state import Connection
from rulegen.services import simulate as simulation
from rulegen.verify import questions
from rulegen.verify.meaning import Meaning
from tests.flows.random_worlds import RandomWorld
from tests.verify.cases import Case

_PROTOCOLS = {6: "TCP", 17: "UDP", 132: "SCTP"}
_FATES = {
    Fate.TRANSLATED: simulation.Fate.BALANCED,
    Fate.REJECTED: simulation.Fate.REJECTED,
    Fate.DROPPED: simulation.Fate.DROPPED,
    Fate.PASSED: simulation.Fate.UNTOUCHED,
}


@pytest.mark.part(10)
@pytest.mark.parametrize("seed", range(60))
def test_a_packet_of_each_class_is_treated_as_simulated(seed: int) -> None:
    case = Case(RandomWorld(seed).world, "nftables")
    compared = 0
    for meaning in questions.meanings(case.store, case.configuration, case.addresses, is_iptables=False):
        index = simulation.FrontendIndex(
            port for port in case.store.service_ports() if port.family is meaning.node.family
        )
        for is_sent in (True, False):
            whole = everything(meaning.family)
            if not is_sent:
                whole = whole.narrowed(SRC, whole.numbers(SRC) - meaning.local_addresses)
            for endings in meaning.follow(whole, Connection.NEW, is_sent=is_sent):
                compared += _compare(case, meaning, index, endings[0].cell, is_sent=is_sent)
    assert compared > 20


def _compare(case: Case, meaning: Meaning, index: simulation.FrontendIndex, region: Region, *, is_sent: bool) -> bool:
    """Whether the class has a packet that the simulation knows; asserts that both say the same of it."""
    own = [int(ip_address(address)) for address in case.addresses if (":" in address) is _is_ipv6(meaning)]
    packet = simplest(region, {SRC: tuple(own) if is_sent else (), PROTO: (6, 17, 132)})
    if packet is None or packet[PROTO] not in _PROTOCOLS or (packet[SRC] in meaning.local_addresses) is not is_sent:
        return False
    # Of an address that is not known to be the node's the simulation says that it is not; a mark it does not know.
    if any(value for _, value in region.facts) or packet[MARK]:
        return False
    others = {
        end.address for port in case.store.service_ports() for end in (*port.cluster_endpoints, *port.local_endpoints)
    }
    numbers = {int(ip_address(address)) for address in others if (":" in address) is _is_ipv6(meaning)} | {packet[DST]}
    facts = tuple((number, False) for number in numbers if number not in meaning.local_addresses)
    answer = [
        ending for cell in meaning.follow(single(packet, facts), Connection.NEW, is_sent=is_sent) for ending in cell
    ]
    size = IIF_BYTES
    name = "" if is_sent else packet[IIF].to_bytes(size, "big").rstrip(b"\0").decode("latin-1")
    sent = simulation.Packet(
        _text(meaning, packet[SRC]), _text(meaning, packet[DST]), packet[DPORT], _PROTOCOLS[packet[PROTO]], name
    )
    outcome = simulation.simulate(index, meaning.node, case.addresses, sent)
    assert {_FATES[ending.outcome.fate] for ending in answer} == {outcome.fate}, (sent, answer, outcome)
    if outcome.fate is simulation.Fate.BALANCED:
        assert _shares(meaning, answer) == {
            str(one.backend): (pytest.approx(one.probability), one.masquerade) for one in outcome.deliveries
        }, sent
    return True


IIF_BYTES = 16


def _shares(meaning: Meaning, answer: list[Ending]) -> dict[str, tuple[object, bool]]:
    found: dict[str, tuple[Fraction, bool]] = {}
    for ending in answer:
        for endpoint, share in ending.endpoints.items():
            assert endpoint is not None
            address = _text(meaning, endpoint[0])
            key = f"[{address}]:{endpoint[1]}" if ":" in address else f"{address}:{endpoint[1]}"
            found[key] = (found.get(key, (Fraction(0), False))[0] + share, ending.outcome.masqueraded)
    return {key: (float(share), masqueraded) for key, (share, masqueraded) in found.items()}


def _is_ipv6(meaning: Meaning) -> bool:
    return meaning.node.family is ServiceFamily.IPV6


def _text(meaning: Meaning, number: int) -> str:
    return str(ip_address(number.to_bytes(4 if meaning.family is Family.IPV4 else 16, "big")))
