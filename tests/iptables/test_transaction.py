"""The order of restores, and when there is but one."""

from __future__ import annotations

import pytest

from rulegen.config import Family
from rulegen.iptables.chains import FILTER, MANGLE, NAT, Entries, EntryKey
from rulegen.iptables.text import adopt_wording
from rulegen.iptables.transaction import Step, plan, removal
from rulegen.reconcile.delta import diff


def key(table: str, chain: str, family: Family = Family.IPV4) -> EntryKey:
    return EntryKey(family, table, chain)


CLOSED = key(FILTER, "RULEGEN-NO-ENDPOINTS")
FIREWALL = key(MANGLE, "RULEGEN-FIREWALL")
RANGES = key(MANGLE, "RULEGEN-SRC-A")
VIPS = key(NAT, "RULEGEN-VIPS")


def steps(live: Entries, desired: Entries) -> list[Step]:
    return plan(diff(live, desired), live)


def rules_of(step: Step) -> list[str]:
    return [line for line in step.lines if line.startswith("-")]


def test_a_change_of_one_table_is_one_restore() -> None:
    assert [str(step) for step in steps({VIPS: ("-j DROP",)}, {VIPS: ("-j ACCEPT",)})] == ["ip nat"]
    assert [str(step) for step in steps({CLOSED: ()}, {CLOSED: ("-j DROP",)})] == ["ip filter"]


def test_nothing_to_change_is_no_restore() -> None:
    assert steps({VIPS: ("-j DROP",)}, {VIPS: ("-j DROP",)}) == []


def test_what_is_closed_stays_closed_until_nat_has_changed() -> None:
    live = {VIPS: ("-d 10.0.0.1/32 -j DNAT",), CLOSED: ("-d 10.0.0.2/32 -j DROP", "-d 10.0.0.3/32 -j DROP")}
    desired = {VIPS: ("-d 10.0.0.2/32 -j DNAT",), CLOSED: ("-d 10.0.0.1/32 -j DROP", "-d 10.0.0.3/32 -j DROP")}
    first, second, third = steps(live, desired)
    assert [step.table for step in (first, second, third)] == [FILTER, NAT, FILTER]
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
        assert any(address in rule for rule in rules_of(first))
    assert not any("10.0.0.2" in rule for rule in rules_of(third))


def test_what_is_only_new_needs_no_second_round() -> None:
    live: Entries = {VIPS: (), CLOSED: ("-d 10.0.0.2/32 -j DROP",)}
    desired: Entries = {VIPS: ("-j ACCEPT",), CLOSED: ("-d 10.0.0.1/32 -j DROP", "-d 10.0.0.2/32 -j DROP")}
    assert [step.table for step in steps(live, desired)] == [FILTER, NAT]


def test_source_ranges_are_never_mixed() -> None:
    live: Entries = {VIPS: (), RANGES: ("-s 192.0.2.0/24 -j RETURN", "-j DROP")}
    desired: Entries = {VIPS: ("-j ACCEPT",), RANGES: ("-s 198.51.100.0/24 -j RETURN", "-j DROP")}
    first, _ = steps(live, desired)
    assert rules_of(first) == [f"-A RULEGEN-SRC-A {rule}" for rule in desired[RANGES]]


def test_a_vip_stays_closed_until_nothing_leads_to_it() -> None:
    live: Entries = {VIPS: ("-j ACCEPT",), FIREWALL: ("-d 10.0.0.1/32 -j RULEGEN-SRC-A",), RANGES: ("-j DROP",)}
    nat, mangle = steps(live, {VIPS: (), FIREWALL: ()})
    assert (nat.table, mangle.table) == (NAT, MANGLE)
    assert mangle.lines[-2:] == ("-X RULEGEN-SRC-A", "COMMIT")


def test_families_follow_one_another() -> None:
    both: Entries = {VIPS: ("-j ACCEPT",), key(NAT, "RULEGEN-VIPS", Family.IPV6): ("-j ACCEPT",)}
    assert [str(step) for step in steps({}, both)] == ["ip nat", "ip6 nat"]


def test_jumps_go_to_the_front_and_old_ones_leave() -> None:
    jump = key(NAT, "PREROUTING")
    live: Entries = {jump: ("# behind: -j ACCEPT", "-j RULEGEN-VIPS", "-j RULEGEN-VIPS"), VIPS: ()}
    (step,) = steps(live, {jump: ("-j RULEGEN-VIPS",), VIPS: ()})
    assert rules_of(step) == ["-D PREROUTING -j RULEGEN-VIPS"] * 2 + ["-I PREROUTING 1 -j RULEGEN-VIPS"]


def test_a_removal_takes_jumps_first_and_chains_last() -> None:
    (step,) = removal({key(NAT, "PREROUTING"): ("-j RULEGEN-VIPS",), VIPS: ("-j ACCEPT",)})
    assert step.lines == (
        "*nat",
        ":RULEGEN-VIPS - [0:0]",
        "-D PREROUTING -j RULEGEN-VIPS",
        "-X RULEGEN-VIPS",
        "COMMIT",
    )


@pytest.mark.parametrize(
    "listed",
    [
        "-d 10.0.0.1/32 -p tcp -m tcp --dport 80 -j REJECT",
        "-d 10.0.0.1/32 -p tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable",
    ],
)
def test_the_same_rule_in_other_words_is_no_damage(listed: str) -> None:
    desired = {CLOSED: ("-d 10.0.0.1/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable",)}
    assert adopt_wording({CLOSED: (listed,)}, desired) == desired


def test_another_number_is_damage() -> None:
    desired = {CLOSED: ("-m statistic --mode random --probability 0.33333333349 -j DROP",)}
    same = {CLOSED: ("-m statistic --mode random --probability 0.333333333489 -j DROP",)}
    other = {CLOSED: ("-m statistic --mode random --probability 0.33333333209 -j DROP",)}
    assert adopt_wording(same, desired) == desired
    assert adopt_wording(other, desired) == other
