"""Real packets through a real kernel while Nodes, the configuration and other programs' rules change."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import pytest
from msgspec.structs import replace

from rulegen.config import EgressSettings, NodeConfiguration
from rulegen.conntrack.table import ConnectionTable
from rulegen.egress.connections import PodFlows
from rulegen.egress.feature import EgressMasquerade
from rulegen.egress.model import NAME
from rulegen.iptables.binaries import Variant
from rulegen.reconcile.feature import AnyDelta
from tests.builders import node
from tests.lab import NODE_ADDRESSES, Fate, Lab, Packet
from tests.lab.fixtures import MakeLab
from tests.policies.kept import Kept

pytestmark = pytest.mark.kernel

# Nothing is exempt, so that what keeps its source does so as the network model has it.
STRICT = EgressSettings(non_masquerade_cidrs=(), masq_link_local=True, masq_link_local_ipv6=True)
CONFIGURATION = NodeConfiguration(node_name="node-1", egress=STRICT)
OWN = node("node-1", ["192.0.2.10"], pod_cidrs=["10.128.0.0/24", "fd00:10:128::/64"])
POD, POD_6 = "10.128.0.5", "fd00:10:128::5"
OUTSIDE, OUTSIDE_6 = "203.0.113.9", "2001:db8:9::9"


class Rules(Enum):
    """Where the rules are; the value is the variant of iptables, None on nftables."""

    NFTABLES = None
    IPTABLES_NFT = Variant.NFT
    IPTABLES_LEGACY = Variant.LEGACY

    def command(self, lab: Lab, *words: str, ip: str = "iptables") -> str:
        """Runs a program of the variant on the node; what it prints."""
        assert self.value is not None
        program = f"{ip}-{self.value.value}"
        name, *rest = words
        command = [f"{program}-save", *rest] if name == "save" else [program, "--wait", "60", *words]
        with lab.entered():
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr
        return done.stdout


ALL = pytest.mark.parametrize("rules", Rules, ids=lambda rules: rules.name.lower())
ON_IPTABLES = pytest.mark.parametrize(
    "rules", [Rules.IPTABLES_NFT, Rules.IPTABLES_LEGACY], ids=lambda rules: rules.name.lower()
)


def other(number: int) -> Any:
    """A node whose pods have addresses of their own."""
    return node(
        f"node-{number}", [f"198.51.100.{number}"], pod_cidrs=[f"100.64.{2 * number}.0/24", f"fd{number:02}::/64"]
    )


@contextmanager
def kept(lab: Lab, rules: Rules, configuration: NodeConfiguration = CONFIGURATION) -> Iterator[Kept]:
    made = Kept(lab.entered, configuration, NAME, variant=rules.value)
    try:
        yield made
    finally:
        made.close()


def masqueraded(lab: Lab, source: str, *destinations: str) -> dict[str, bool]:
    """Which of the places sees the node's address; all must be reached."""
    lab.forget_connections()
    outcomes = lab.send([Packet(source, place, 80) for place in destinations])
    assert {outcome.fate for outcome in outcomes} == {Fate.PASSED}
    return {place: outcome.masqueraded for place, outcome in zip(destinations, outcomes, strict=True)}


def _all(value: bool, places: Iterable[str]) -> dict[str, bool]:
    return dict.fromkeys(places, value)


@ALL
def test_ranges_come_and_go_with_nodes(make_lab: MakeLab, rules: Rules) -> None:
    """More nodes than a chain of iptables holds; between two of them lie addresses that are nobody's."""
    lab = make_lab()
    numbers = range(2, 62)
    inside = [f"100.64.{2 * number}.{last}" for number in numbers for last in (0, 255)]
    between = [f"100.64.{2 * number + 1}.0" for number in numbers]
    inside_6 = [f"fd{number:02}::{last}" for number in numbers for last in ("1", "ffff:ffff:ffff:ffff")]
    with kept(lab, rules) as node_1:
        node_1.keep([OWN])
        assert masqueraded(lab, POD, OUTSIDE, *inside) == _all(True, [OUTSIDE, *inside])
        assert masqueraded(lab, POD_6, OUTSIDE_6, *inside_6) == _all(True, [OUTSIDE_6, *inside_6])
        node_1.keep([OWN, *map(other, numbers)])
        assert masqueraded(lab, POD, OUTSIDE, *between) == _all(True, [OUTSIDE, *between])
        assert masqueraded(lab, POD, "10.128.0.6", *inside) == _all(False, ["10.128.0.6", *inside])
        assert masqueraded(lab, POD_6, *inside_6) == _all(False, inside_6)
        assert masqueraded(lab, POD_6, OUTSIDE_6) == {OUTSIDE_6: True}
        # What other nodes' pods send through this node, and what the node sends, is left alone.
        assert masqueraded(lab, "100.64.4.5", OUTSIDE, POD) == {OUTSIDE: False, POD: False}
        assert masqueraded(lab, "192.0.2.10", OUTSIDE, POD, "100.64.4.5") == _all(False, [OUTSIDE, POD, "100.64.4.5"])
        # One that goes is an element of each family, or the chains on its own path.
        delta = node_1.keep([OWN, *map(other, numbers[1:])]).delta
        assert len(delta) <= 4
        if rules is Rules.NFTABLES:
            assert not any(set_spec.is_chains for set_spec, _ in (*delta.added, *delta.changed, *delta.removed))
        assert masqueraded(lab, POD, *inside[:4]) == {**_all(True, inside[:2]), **_all(False, inside[2:4])}
        # A range around all of them, and back.
        node_1.keep([OWN, *map(other, numbers), node("node-1000", pod_cidrs=["100.64.0.0/10"])])
        assert masqueraded(lab, POD, *inside, *between) == _all(False, [*inside, *between])
        node_1.keep([OWN, *map(other, numbers)])
        assert masqueraded(lab, POD, *between) == _all(True, between)
        assert masqueraded(lab, POD, *inside) == _all(False, inside)
    # Whoever comes next finds all of it as it should be.
    with kept(lab, rules) as node_1:
        assert not node_1.keep([OWN, *map(other, numbers)]).delta


@ALL
def test_a_changed_configuration_changes_exemptions_and_nothing_else(make_lab: MakeLab, rules: Rules) -> None:
    lab = make_lab()
    places = ["172.16.0.1", "172.16.128.1", "172.17.0.1", "169.254.7.7", OUTSIDE]
    steps: list[tuple[tuple[str, ...], list[bool]]] = [
        ((), [True, True, True, True, True]),
        (("172.16.0.0/12",), [False, False, False, True, True]),
        (("172.16.128.0/17", "169.254.0.0/16"), [True, False, True, False, True]),
        (("172.16.0.0/17", "172.16.128.1/32"), [False, False, True, True, True]),
        (("0.0.0.0/0", "::/0"), [False, False, False, False, False]),
        (("203.0.113.9/32", "2001:db8:9::9/128"), [True, True, True, True, False]),
    ]
    for cidrs, wanted in steps:
        configuration = replace(CONFIGURATION, egress=replace(STRICT, non_masquerade_cidrs=cidrs))
        with kept(lab, rules, configuration) as node_1:
            node_1.keep([OWN, other(2)])
            assert list(masqueraded(lab, POD, *places).values()) == wanted, cidrs
            exempts_6 = any(":" in cidr for cidr in cidrs)
            assert masqueraded(lab, POD_6, OUTSIDE_6) == {OUTSIDE_6: not exempts_6}
            assert masqueraded(lab, POD, "100.64.4.1") == {"100.64.4.1": False}
        with kept(lab, rules, configuration) as node_1:
            assert not node_1.keep([OWN, other(2)]).delta


@ALL
def test_until_pods_are_known_what_is_in_force_stays(make_lab: MakeLab, rules: Rules) -> None:
    lab = make_lab()
    with kept(lab, rules) as node_1:
        # There never was anything.
        node_1.keep([])
        assert masqueraded(lab, POD, OUTSIDE) == {OUTSIDE: False}
        node_1.keep([OWN, other(2)])
        assert masqueraded(lab, POD, OUTSIDE, "100.64.4.1") == {OUTSIDE: True, "100.64.4.1": False}
    unusable = replace(CONFIGURATION, egress=EgressSettings(unusable="the file cannot be used"))
    for configuration, objects in ((CONFIGURATION, [other(3)]), (unusable, [OWN])):
        with kept(lab, rules, configuration) as node_1:
            assert not _own_keys(node_1.keep(objects).delta)
            assert masqueraded(lab, POD, OUTSIDE, "100.64.4.1") == {OUTSIDE: True, "100.64.4.1": False}
            # Nor does it go by others' doing.
            _damage(lab, rules)
            assert masqueraded(lab, POD, OUTSIDE) == {OUTSIDE: False}
            node_1.reconciler.distrust()
            node_1.keep(objects)
            assert masqueraded(lab, POD, OUTSIDE, "100.64.4.1") == {OUTSIDE: True, "100.64.4.1": False}
    with kept(lab, rules) as node_1:
        node_1.keep([other(3)])
        node_1.keep([OWN, other(3)])
        assert masqueraded(lab, POD, OUTSIDE, "100.64.4.1", "100.64.6.1") == {
            OUTSIDE: True,
            "100.64.4.1": True,
            "100.64.6.1": False,
        }


def _own_keys(delta: AnyDelta) -> list[Any]:
    """The feature's part of a Delta."""
    keys = [*delta.added, *delta.changed, *delta.removed]
    return [key for key in keys if "RULEGEN-EG-" in key or getattr(key[0], "table", "").endswith(NAME)]


def _damage(lab: Lab, rules: Rules) -> None:
    if rules is Rules.NFTABLES:
        lab.nft(f"delete table ip rulegen-{NAME}")
    else:
        rules.command(lab, "-t", "nat", "-D", "POSTROUTING", "-j", "RULEGEN-EG-PODS")


@ALL
def test_who_translates_before_chooses_the_source(make_lab: MakeLab, rules: Rules) -> None:
    """An address for what one pod sends, such as an egress gateway gives it; and no repair of that."""
    lab = make_lab(addresses=[*NODE_ADDRESSES, "192.0.2.77/32"])
    lab.nft("table ip seen { chain out { type filter hook postrouting priority 300; ip saddr 192.0.2.77 counter; }; }")
    if rules is Rules.NFTABLES:
        lab.nft(
            "table ip gateway { chain out { type nat hook postrouting priority srcnat; "
            "ip saddr 10.128.0.7 snat to 192.0.2.77; }; }"
        )
    else:
        rules.command(
            lab, "-t", "nat", "-A", "POSTROUTING", "-s", "10.128.0.7", "-j", "SNAT", "--to-source", "192.0.2.77"
        )
        rules.command(lab, "-t", "nat", "-A", "POSTROUTING", "-s", "10.128.0.8", "-j", "ACCEPT")
    with kept(lab, rules) as node_1:
        node_1.keep([OWN])
        assert masqueraded(lab, "10.128.0.7", OUTSIDE) == {OUTSIDE: True}
        assert "counter packets 1 " in lab.nft("list table ip seen")
        assert masqueraded(lab, POD, OUTSIDE) == {OUTSIDE: True}
        assert "counter packets 1 " in lab.nft("list table ip seen")
        node_1.reconciler.distrust()
        assert not node_1.keep([OWN]).delta


@ON_IPTABLES
def test_the_rule_stays_behind_all_others(make_lab: MakeLab, rules: Rules) -> None:
    lab = make_lab()
    rules.command(lab, "-t", "nat", "-A", "POSTROUTING", "-d", "192.0.2.200", "-j", "ACCEPT")

    def listed() -> list[str]:
        lines = rules.command(lab, "save", "-t", "nat").splitlines()
        return [line.removeprefix("-A POSTROUTING ") for line in lines if line.startswith("-A POSTROUTING ")]

    wanted = ["-j RULEGEN-POSTROUTING", "-d 192.0.2.200/32 -j ACCEPT", "-j RULEGEN-EG-PODS"]
    with kept(lab, rules) as node_1:
        node_1.keep([OWN])
        assert listed() == wanted
        # Twice, or before the Services' own.
        rules.command(lab, "-t", "nat", "-I", "POSTROUTING", "-j", "RULEGEN-EG-PODS")
        node_1.reconciler.distrust()
        node_1.keep([OWN])
        assert listed() == wanted
        rules.command(lab, "-t", "nat", "-D", "POSTROUTING", "-j", "RULEGEN-EG-PODS")
        rules.command(lab, "-t", "nat", "-I", "POSTROUTING", "-j", "RULEGEN-EG-PODS")
        node_1.reconciler.distrust()
        node_1.keep([OWN])
        assert listed() == wanted


@ALL
def test_later_packets_pay_nothing(make_lab: MakeLab, rules: Rules) -> None:
    lab = make_lab()
    with kept(lab, rules) as node_1:
        node_1.keep([OWN])
        packet = Packet(POD, OUTSIDE, 80, source_port=1234)
        assert lab.send([packet])[0].masqueraded
        lab.send([packet])
        lab.send([packet])
    if rules is Rules.NFTABLES:
        counts = re.findall(r"counter packets (\d+)", lab.nft(f"list chain ip rulegen-{NAME} postrouting"))
    else:
        listing = rules.command(lab, "save", "-c", "-t", "nat")
        counts = re.findall(
            r"^\[(\d+):\d+\] -A (?:POSTROUTING -j RULEGEN-EG-PODS|RULEGEN-EG-EXEMPT)", listing, re.MULTILINE
        )
    assert set(counts) == {"1"}


def test_flows_that_left_before_there_were_rules_begin_anew(make_lab: MakeLab) -> None:
    """One that nobody answers would go on from the pod's own address for as long as it sends."""
    lab = make_lab()

    def flow(source: str, destination: str, port: int = 53) -> Packet:
        return Packet(source, destination, port, "UDP", source_port=4000)

    doomed = [flow(POD, OUTSIDE), flow(POD, OUTSIDE, 123), flow(POD_6, OUTSIDE_6)]
    others = [
        flow(POD, "100.64.4.5"),
        flow("100.64.4.5", OUTSIDE),
        flow("192.0.2.10", OUTSIDE),
        flow(POD, "192.0.2.10"),
    ]
    assert not any(outcome.masqueraded for outcome in lab.send([*doomed, *others]))
    feature = EgressMasquerade(CONFIGURATION)
    for item in (OWN, other(2)):
        feature.put(item)
    flows = PodFlows(feature.store)
    with kept(lab, Rules.NFTABLES) as node_1, lab.entered():
        node_1.keep([OWN, other(2)])
        assert flows.end() == len(doomed)
        # The next packet of each begins one that is masqueraded, and stays.
        assert all(outcome.masqueraded for outcome in lab.send(doomed))
        assert flows.end() == 0


def test_no_pods_no_look_at_connections() -> None:
    def refuse() -> ConnectionTable:
        raise AssertionError

    assert PodFlows(EgressMasquerade(CONFIGURATION).store, refuse).end() == 0
