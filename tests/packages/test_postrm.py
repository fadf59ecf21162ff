"""What a purge of the Debian package takes out: the script that dpkg runs when the program is gone, on both targets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.running import RULEGEN
from tests.nftables.host import Host, host_or_skip
from tests.patience import patience

pytestmark = pytest.mark.kernel

REPOSITORY = Path(__file__).parents[2]
POSTRM = str(REPOSITORY / "debian/rulegen.postrm")
# A scenario with each kind of chain: session affinity, source ranges, NodePorts, hairpins.
CLUSTER = str(REPOSITORY / "golden/load-balancer/cluster.yaml")

FOREIGN_NFT = """
table ip rulegenerator { chain c { type filter hook input priority 0; policy accept; }; }
table inet rulegen2 { set s { type ipv4_addr; }; }
"""
FOREIGN_IPTABLES = """*nat
:OTHERS - [0:0]
:MY-RULEGEN-CHAIN - [0:0]
-A PREROUTING -m comment --comment "before RULEGEN-VIPS comes" -j OTHERS
-A OTHERS -d 192.0.2.1/32 -j ACCEPT
COMMIT
"""


@pytest.fixture
def host() -> Iterator[Host]:
    with host_or_skip() as made:
        yield made


def _script(host: Host, word: str) -> str:
    done = host.run("sh", POSTRM, word)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def _apply(host: Host, *arguments: str) -> None:
    done = host.run(RULEGEN, "apply", "-f", CLUSTER, "--node", "node-a", *arguments, timeout=patience(60))
    assert done.returncode == 0, done.stderr


def _iptables(host: Host, variant: str) -> list[str]:
    """Chains and rules of others, of both families; tables that are empty but for built-in chains are nothing."""
    lines: list[str] = []
    for program in (f"iptables-{variant}-save", f"ip6tables-{variant}-save"):
        saved = host.run(program).stdout.splitlines()
        lines += [line for line in saved if re.match(r"-A |:\S+ - ", line)]
    return [re.sub(r"\[.*", "", line) for line in lines]


def test_on_nftables(host: Host) -> None:
    host.nft(FOREIGN_NFT)
    before = host.nft("list ruleset")
    assert _script(host, "remove") == ""
    _apply(host)
    assert "rules stay in the kernel" in _script(host, "remove")
    assert "table ip rulegen " in host.nft("list ruleset")
    assert "removed the table ip rulegen\n" in _script(host, "purge")
    assert host.nft("list ruleset") == before
    assert _script(host, "purge") == ""


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_on_iptables(host: Host, variant: str) -> None:
    restore = host.run(f"iptables-{variant}-restore", input=FOREIGN_IPTABLES)
    assert restore.returncode == 0, restore.stderr
    before = _iptables(host, variant)
    _apply(host, "--target", "iptables", "--iptables-variant", variant)
    assert len(_iptables(host, variant)) > len(before) + 10
    assert "rules stay in the kernel" in _script(host, "remove")
    assert f"removed its rules from iptables-{variant}\n" in _script(host, "purge")
    assert _iptables(host, variant) == before
    assert _script(host, "purge") == ""


def test_ipsets_that_its_chains_look_into(host: Host) -> None:
    """As network policies have them."""
    if host.run("sh", "-c", "ipset create others hash:ip && ipset create rulegenerated hash:ip").returncode:
        return  # neither the program nor what it would make
    before = host.run("ipset", "list", "-name").stdout
    chain = (
        "*filter\n:RULEGEN-NP-EGRESS - [0:0]\n-A RULEGEN-NP-EGRESS -m set --match-set rulegen-pods-1b2c src -j DROP\n"
    )
    chain += "-A FORWARD -j RULEGEN-NP-EGRESS\nCOMMIT\n"
    for name, family in (("rulegen-pods-1b2c", "inet"), ("rulegen6-pods-1b2c", "inet6")):
        assert host.run("ipset", "create", name, "hash:ip", "family", family).returncode == 0
    restored = host.run("iptables-nft-restore", "--noflush", input=chain)
    assert restored.returncode == 0, restored.stderr
    assert "removed its rules from iptables-nft\n" in _script(host, "purge")
    assert host.run("ipset", "list", "-name").stdout == before


def test_an_agent_that_runs_elsewhere_keeps_its_rules(host: Host) -> None:
    _apply(host)
    # Its lock; a table that a socket owns is gone with it, so here it is a plain one.
    host.nft("add table ip rulegen-agent")
    before = host.nft("list ruleset")
    done = host.run("sh", POSTRM, "purge")
    assert done.returncode == 0
    assert "another agent runs here" in done.stderr
    assert host.nft("list ruleset") == before


def test_what_rulegen_itself_would_leave_is_what_a_purge_leaves(host: Host) -> None:
    """Whatever rulegen puts into a kernel, now and later: `rulegen cleanup` finds nothing after a purge."""
    for target in ("nftables", "iptables"):
        _apply(host, "--target", target)
        _script(host, "purge")
        done = host.run(RULEGEN, "cleanup", timeout=patience(60))
        assert (done.returncode, done.stdout) == (0, "nothing to remove\n"), done.stderr
