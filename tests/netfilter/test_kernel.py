"""The evaluator beside the kernel: random rulesets, packets through both, and the outcomes must be equal."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

import pytest

from rulegen.netfilter import nft
from rulegen.netfilter.kernel import list_tables
from rulegen.netfilter.machine import Probe
from tests.lab import Lab
from tests.lab.fixtures import lab_or_skip
from tests.netfilter.judge import FAMILIES, Judge, client_packets, random_packets
from tests.netfilter.random_rules import IPV4, IPV6, RandomRules, Words, hashed

pytestmark = pytest.mark.kernel

# 150 rulesets with 140 packets and more.
SEEDS = range(150)
PACKETS = 140
REPEATED = 60


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_or_skip() as made:
        yield made


@pytest.mark.part(2)
@pytest.mark.parametrize("seed", SEEDS)
def test_packets_go_where_the_evaluator_says(seed: int, lab: Lab) -> None:
    words = IPV6 if seed % 3 == 2 else IPV4
    rules = RandomRules(seed, words)
    lab.forget_connections()
    lab.nft(rules.text)
    try:
        with lab.entered():
            listings = list_tables({"probe"})
        judge = Judge(words, nft.read_ruleset(FAMILIES[words.ip], listings))
        packets = random_packets(seed, words, PACKETS)
        wrong = judge.wrong(lab, packets)
        if rules.draws:
            for packet in packets[:4]:
                again = [packet._replace(source_port=packet.source_port + PACKETS * (1 + n)) for n in range(REPEATED)]
                wrong += filter(None, [judge(packet, lab.send(again))])
        assert not wrong, f"seed {seed}:\n" + "\n".join(wrong[:10]) + f"\n{rules.text}"
    finally:
        lab.nft(f"delete table {words.ip} probe")


@pytest.mark.part(4)
@pytest.mark.parametrize("seed", range(60))
def test_what_is_remembered(seed: int, lab: Lab) -> None:
    """Packets of many clients, of which each dynamic set has some; a hash is written by a rule of its own."""
    words = IPV6 if seed % 3 == 2 else IPV4
    rules = RandomRules(10_000 + seed, words, remembers=True)
    clients = [packet.source for packet in client_packets(seed, words)]
    pick = random.Random(seed)
    lab.forget_connections()
    lab.nft(rules.text)
    try:
        memories: dict[str, Probe] = {}
        for client in dict.fromkeys(clients):
            name, data, element = pick.choice(
                [
                    ("", None, ""),
                    ("seen", None, client),
                    ("clients", 0x4001.to_bytes(4, sys.byteorder), f"{client} : 0x4001"),
                    ("hashed", None, ""),
                ]
            )
            if name:
                memories[client] = Probe(name, (), data)
            if element:
                lab.nft(f"add element {words.ip} probe {name} {{ {element} }}")
        _write_hashes(lab, words, [client for client, memory in memories.items() if memory.name == "hashed"])
        with lab.entered():
            listings = list_tables({"probe"})
        judge = Judge(words, nft.read_ruleset(FAMILIES[words.ip], listings))
        wrong = judge.wrong(lab, client_packets(seed, words), memories)
        assert not wrong, f"seed {seed}:\n" + "\n".join(wrong[:10]) + f"\n{rules.text}"
    finally:
        lab.nft(f"delete table {words.ip} probe")


def _write_hashes(lab: Lab, words: Words, clients: list[str]) -> None:
    """By packets, in a chain that is there for so long: nobody but the kernel says what a hash is."""
    chain = f"{words.ip} probe first"
    lab.nft(
        f"add chain {chain} {{ type filter hook prerouting priority -400; }}\n"
        f"add rule {chain} udp dport 9 update @hashed {{ {hashed(words)} }} drop"
    )
    packets = [packet for packet in client_packets(0, words) if packet.source in clients]
    lab.send(packet._replace(port=9, protocol="UDP") for packet in packets)
    lab.nft(f"delete chain {chain}")
