"""The evaluator beside the kernel, for rules of iptables of either variant: random rulesets, packets through both."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rulegen.netfilter import iptables
from rulegen.netfilter.ipsets import parse_saved
from rulegen.netfilter.machine import Probe
from rulegen.netfilter.model import Family
from tests.lab import Lab
from tests.lab.fixtures import lab_or_skip
from tests.netfilter.judge import FAMILIES, Judge, client_packets, random_packets
from tests.netfilter.random_iptables import LISTS, RandomChains
from tests.netfilter.random_rules import IPV4, IPV6, Words

pytestmark = pytest.mark.kernel

SEEDS = range(120)
PACKETS = 90
REPEATED = 40
_PROTOCOLS = ("TCP", "UDP", "ICMP")
_EMPTY = "*raw\nCOMMIT\n*mangle\nCOMMIT\n*nat\nCOMMIT\n*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_or_skip() as made:
        yield made


class Loaded:
    """Rules in the kernel of the lab, by one of the two variants of iptables."""

    def __init__(self, lab: Lab, words: Words, variant: str) -> None:
        self._lab = lab
        self._words = words
        self._program = f"{'iptables' if words is IPV4 else 'ip6tables'}-{variant}"

    def load(self, rules: RandomChains) -> None:
        """In place of all that there are."""
        self._run(["ipset", "restore"], rules.ipsets)
        self._run([f"{self._program}-restore"], rules.text)

    def saved(self) -> str:
        """As the kernel has them."""
        return self._run([f"{self._program}-save"])

    def remove(self) -> None:
        """Leaves the tables empty, and no ipset."""
        self._run([f"{self._program}-restore"], _EMPTY)
        self._run(["ipset", "destroy"])

    def remember(self, client: str, name: str) -> None:
        """The client was seen just now."""
        self._write(name, f"+{client}\n")

    def forget(self) -> None:
        """Nobody was seen."""
        for name in LISTS:
            self._write(name, "/\n")

    def _write(self, name: str, text: str) -> None:
        with self._lab.entered():
            path = Path(f"/proc/thread-self/net/xt_recent/{name}")
            if path.exists():
                path.write_text(text)

    def _run(self, words: list[str], given: str = "") -> str:
        with self._lab.entered():
            done = subprocess.run(words, input=given, capture_output=True, text=True, check=False)
        assert not done.returncode, f"{' '.join(words)}: {done.stderr}\n{given}"
        return done.stdout


@pytest.mark.part(2)
@pytest.mark.parametrize("seed", SEEDS)
def test_packets_go_where_the_evaluator_says(seed: int, lab: Lab) -> None:
    """Read as written and as the kernel says it, with either variant."""
    words = IPV6 if seed % 3 == 2 else IPV4
    rules = RandomChains(seed, words, remembers=seed % 4 == 3)
    loaded = Loaded(lab, words, ("nft", "legacy")[seed % 2])
    lab.forget_connections()
    try:
        loaded.load(rules)
        text = rules.text if seed % 5 < 2 else loaded.saved()
        tables = iptables.parse_restore(text)
        family: Family = FAMILIES[words.ip]
        judge = Judge(words, iptables.read_ruleset(family, tables, parse_saved(rules.ipsets.splitlines())))
        packets = random_packets(seed, words, PACKETS, _PROTOCOLS)
        wrong = []
        if seed % 4 == 3:
            for one in (1, 2):
                wrong += _remembered(loaded, lab, judge, seed + one * 1000, words)
        else:
            wrong = judge.wrong(lab, packets)
            for packet in packets[:2] if rules.draws else ():
                again = [packet._replace(source_port=packet.source_port + PACKETS * (1 + n)) for n in range(REPEATED)]
                wrong += filter(None, [judge(packet, lab.send(again))])
        assert not wrong, f"seed {seed}:\n" + "\n".join(wrong[:10]) + f"\n{rules.ipsets}{rules.text}"
    finally:
        loaded.remove()


def _remembered(loaded: Loaded, lab: Lab, judge: Judge, seed: int, words: Words) -> list[str]:
    """A packet of each of many clients, of which each list has some."""
    pick = random.Random(seed)
    packets, memories = client_packets(seed, words), {}
    loaded.forget()
    lab.forget_connections()
    for packet in packets:
        name = pick.choice(("", *LISTS))
        if name:
            loaded.remember(packet.source, name)
            memories[packet.source] = Probe(name, (), None)
    return judge.wrong(lab, packets, memories)
