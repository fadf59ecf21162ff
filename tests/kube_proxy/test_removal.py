"""Cleaning up after kube-proxy: its chains go, everybody else's rules stay as and where they are (SVC-99)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rulegen.iptables.removal import removal as removal_of
from rulegen.kube_proxy.rules import CHAIN

_NAT = """\
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]
:OTHER - [0:0]
-A PREROUTING -m comment --comment "before -j KUBE-SERVICES" -j OTHER
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -d 192.0.2.7/32 -j OTHER
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE
-A KUBE-SEP-AAAAAAAAAAAAAAAA -s 10.128.0.5/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -j DNAT --to-destination 10.128.0.5:8080
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-SVC-AAAAAAAAAAAAAAAA
-A KUBE-SVC-AAAAAAAAAAAAAAAA -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A OTHER -j RETURN
COMMIT
"""
_FILTER = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FIREWALL -d 127.0.0.0/8 -j RETURN
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
"""


def test_nothing_to_remove_gives_no_commands() -> None:
    assert removal([":INPUT ACCEPT [0:0]", ":KUBE-FIREWALL - [0:0]", "-A INPUT -j KUBE-FIREWALL"]) == []


def removal(lines: list[str]) -> list[str]:
    return removal_of(lines, lambda name: CHAIN.fullmatch(name) is not None, "KUBE-")


def test_a_comment_that_looks_like_a_jump_is_not_one() -> None:
    lines = [":A - [0:0]", ":KUBE-SERVICES - [0:0]", '-A A -m comment --comment "x -j KUBE-SERVICES" -j DROP']
    assert removal(lines) == [":KUBE-SERVICES - [0:0]", "-X KUBE-SERVICES"]


def _kept(table: str) -> list[str]:
    """The rules of a saved table that are not kube-proxy's."""
    mine = ("OTHER", "10.0.0.0/8", "KUBE-FIREWALL")
    return [line for line in table.splitlines() if line.startswith("-A") and any(word in line for word in mine)]


@pytest.mark.kernel
@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_chains_of_kube_proxy_go_and_all_others_stay(variant: str) -> None:
    script = f"""
        set -e
        iptables-{variant}-restore <<'RULES'
{_NAT}{_FILTER}RULES
        {sys.executable} -c '
from rulegen.kube_proxy.removal import remove_iptables_rules
print(*sorted(remove_iptables_rules()), sep=", ")
print(*remove_iptables_rules(), sep=", ")'
        iptables-{variant}-save
    """
    done = subprocess.run(["unshare", "--net", "bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second, *saved = done.stdout.splitlines()
    assert first == f"iptables-{variant} filter, iptables-{variant} nat"
    assert second == ""
    rules = [line for line in saved if line.startswith("-A")]
    assert [line for line in rules if line in _kept(_NAT)] == _kept(_NAT)
    assert [line for line in rules if line in _kept(_FILTER)] == _kept(_FILTER)
    assert len(rules) == len(_kept(_NAT)) + len(_kept(_FILTER))
    chains = {line.split(" ")[0] for line in saved if line.startswith(":KUBE")}
    assert chains == {":KUBE-KUBELET-CANARY", ":KUBE-FIREWALL"}
