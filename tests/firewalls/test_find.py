"""Chains of others that may drop: found in every table and hook, unless it is certain that Services get through."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from rulegen.config import Target
from rulegen.firewalls.find import obstacles_beside
from tests.agent.running import RULEGEN
from tests.nftables.host import Host, host_or_skip

pytestmark = pytest.mark.kernel

PODS = "Services with endpoints in pods"
HOST = "health-check ports of Services, and Services with endpoints in this node's own network"


@pytest.fixture
def host() -> Iterator[Host]:
    with host_or_skip() as made:
        yield made


def _found(host: Host, target: Target = Target.NFTABLES) -> list[str]:
    with host.namespace.entered():
        return [str(obstacle) for obstacle in obstacles_beside(target)]


def _table(chain: str, more: str = "", family: str = "inet") -> str:
    return f"table {family} other {{\n{more}\nchain c {{\n{chain}\n}}\n}}\n"


FORWARD, INPUT = "type filter hook forward priority 0; policy", "type filter hook input priority 0; policy"


@pytest.mark.parametrize(
    ("chain", "why"),
    [
        (f"{FORWARD} drop;", f"(policy drop) may drop {PODS}"),
        (f"{INPUT} drop;", f"(policy drop) may drop {HOST}"),
        ("type filter hook prerouting priority -300; policy drop;", "(policy drop) may drop all Services"),
        ("type filter hook postrouting priority 0; policy drop;", "(policy drop) may drop all Services"),
        (
            "type filter hook output priority 0; policy drop;",
            "(policy drop) may drop connections of this node to Services",
        ),
        (f"{FORWARD} drop; ct state established,related accept; iifname eth0 accept", f"(policy drop) may drop {PODS}"),
        (f"{FORWARD} accept; iifname lo accept; drop", f"(a rule drops whatever comes to it) may drop {PODS}"),
        (
            f"{FORWARD} accept; counter log reject with icmpx admin-prohibited",
            f"(a rule rejects whatever comes to it) may drop {PODS}",
        ),
        (f"{FORWARD} accept; jump last", f"(a rule drops whatever comes to it) may drop {PODS}"),
        (f"{FORWARD} drop; goto nothing", f"(policy drop) may drop {PODS}"),
        (f"{FORWARD} accept; ct status dnat drop", f"(a rule drops whatever comes to it) may drop {PODS}"),
        # Before the translation there is no status.
        ("type filter hook prerouting priority -150; policy drop; ct status dnat accept", "may drop all Services"),
        # Marks of kube-proxy's are none of rulegen's.
        (f"{FORWARD} drop; meta mark & 0x4000 == 0x4000 accept", f"(policy drop) may drop {PODS}"),
        (f"{FORWARD} drop; ct status snat accept", f"(policy drop) may drop {PODS}"),
        (f"{FORWARD} drop; ct status dnat iifname eth0 accept", f"(policy drop) may drop {PODS}"),
        (f"{FORWARD} drop; jump users", f"(policy drop) may drop {PODS}"),
    ],
)
def test_what_may_drop_is_named(host: Host, chain: str, why: str) -> None:
    more = "chain last {\ncounter drop\n}\nchain nothing {\n}\nchain users {\nreturn\naccept\n}"
    host.nft(_table(chain, more))
    (found,) = _found(host)
    assert found.startswith("nftables chain c of table inet other (")
    assert found.endswith(why)


@pytest.mark.parametrize(
    "chain",
    [
        f"{FORWARD} accept;",
        f"{FORWARD} accept; iifname eth0 drop",
        f"{FORWARD} drop; ct status dnat accept",
        f"{FORWARD} accept; ct state established accept; ct status dnat accept; iifname lo accept; reject",
        f"{FORWARD} drop; counter accept",
        f"{FORWARD} drop; jump users",
        f"{FORWARD} drop; ct status dnat jump anybody",
        f"{FORWARD} accept; return; drop",
        "type filter hook prerouting priority -50; policy drop; ct status dnat accept",
    ],
)
def test_what_lets_services_through_is_not(host: Host, chain: str) -> None:
    host.nft(_table(chain, "chain users {\niifname lo drop\nct status dnat accept\n}\nchain anybody {\naccept\n}"))
    assert _found(host) == []


def test_a_dormant_table_is_in_nobodys_way(host: Host) -> None:
    host.nft(_table(f"{FORWARD} drop;"))
    host.nft("add table inet other { flags dormant; }")
    assert _found(host) == []


@pytest.mark.parametrize("family", ["ip", "ip6", "bridge"])
def test_in_every_family(host: Host, family: str) -> None:
    host.nft(_table(f"{FORWARD} drop;", family=family))
    assert _found(host) == [f"nftables chain c of table {family} other (policy drop) may drop {PODS}"]


def test_in_front_of_an_interface(host: Host) -> None:
    host.nft(_table('type filter hook ingress device "lo" priority 0; policy drop;', family="netdev"))
    assert _found(host) == ["nftables chain c of table netdev other (policy drop) may drop all Services"]


@pytest.mark.parametrize("variant", ["nft", "legacy"])
@pytest.mark.parametrize("name", ["iptables", "ip6tables"])
def test_in_both_variants_of_iptables(host: Host, name: str, variant: str) -> None:
    program = f"{name}-{variant}"
    shown = name if variant == "nft" else program

    def run(*arguments: str) -> None:
        done = host.run(program, *arguments)
        assert done.returncode == 0, done.stderr

    run("-P", "FORWARD", "DROP")
    run("-A", "FORWARD", "-i", "eth0", "-j", "ACCEPT")
    run("-A", "FORWARD", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT")
    run("-A", "INPUT", "-m", "comment", "--comment", 'the "end" -j ACCEPT', "-j", "REJECT")
    forward = f"{shown} chain FORWARD of table filter (policy drop) may drop {PODS}"
    inward = f"{shown} chain INPUT of table filter (a rule rejects whatever comes to it) may drop {HOST}"
    assert _found(host) == [forward, inward]
    # As docs/deploy.md says for Docker.
    run("-N", "DOCKER-USER")
    run("-I", "FORWARD", "-j", "DOCKER-USER")
    run("-A", "DOCKER-USER", "-m", "conntrack", "--ctstate", "DNAT", "-j", "ACCEPT")
    assert _found(host) == [inward]
    run("-I", "INPUT", "-m", "conntrack", "!", "--ctstate", "DNAT", "-j", "ACCEPT")
    assert _found(host) == [inward]
    run("-I", "INPUT", "-m", "conntrack", "--ctstate", "NEW,DNAT", "-j", "ACCEPT")
    assert _found(host) == []
    run("-t", "mangle", "-P", "PREROUTING", "DROP")
    assert _found(host) == [f"{shown} chain PREROUTING of table mangle (policy drop) may drop all Services"]
    run("-P", "FORWARD", "DROP")
    run("-F", "FORWARD")
    assert len(_found(host)) == 2
    assert len(_found(host, Target.IPTABLES)) == 1


def test_nothing_is_loaded_for_it_and_sets_are_not_read(host: Host) -> None:
    def names() -> str:
        with host.namespace.entered():
            return subprocess.run(
                ["cat", "/proc/thread-self/net/ip_tables_names"], capture_output=True, text=True, check=False
            ).stdout

    before, generation = names(), host.generation()
    assert _found(host) == []
    assert (names(), host.generation()) == (before, generation)


# ---- as people see it ----


def test_lint_of_the_host(host: Host) -> None:
    host.nft(_table(f"{FORWARD} drop;"))
    source = ("-f", "golden/weights/cluster.yaml", "--node", "node-a")
    without = host.run(RULEGEN, "lint", *source).stdout.splitlines()
    done = host.run(RULEGEN, "lint", *source, "--live")
    assert done.returncode == 1
    new = [line for line in done.stdout.splitlines() if line not in without]
    assert new[0] == f"Node node-a: ForeignDrop: nftables chain c of table inet other (policy drop) may drop {PODS}"
