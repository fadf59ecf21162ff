"""`rulegen cleanup --ip-masq-agent`: its chain goes, everything else stays; it refuses while that is needed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.running import RULEGEN
from tests.nftables.host import Host, host_or_skip
from tests.patience import patience

pytestmark = pytest.mark.kernel

SCENARIO = str(Path(__file__).parents[2] / "golden" / "egress-masquerade" / "cluster.yaml")
LEFT = """\
*nat
:IP-MASQ-AGENT - [0:0]
:IP-MASQ-AGENT-OF-MINE - [0:0]
-A POSTROUTING -m comment --comment "-j IP-MASQ-AGENT" -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT
-A POSTROUTING -m comment --comment "-j IP-MASQ-AGENT" -j IP-MASQ-AGENT-OF-MINE
-A IP-MASQ-AGENT -d 10.0.0.0/8 -m comment --comment "ip-masq-agent: local" -j RETURN
-A IP-MASQ-AGENT -m comment --comment "ip-masq-agent: outbound" -j MASQUERADE --random-fully
-A IP-MASQ-AGENT-OF-MINE -d 192.0.2.1/32 -j RETURN
COMMIT
"""


@pytest.fixture
def host() -> Iterator[Host]:
    with host_or_skip() as made:
        yield made


def _rulegen(host: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    return host.run(RULEGEN, *arguments, timeout=patience(30.0))


@pytest.mark.parametrize("variant", ["nft", "legacy"])
@pytest.mark.parametrize("target", ["nftables", "iptables"])
def test_what_is_left_goes_when_rulegen_masquerades(host: Host, target: str, variant: str) -> None:
    done = host.run(f"iptables-{variant}-restore", "--noflush", input=LEFT)
    assert done.returncode == 0, done.stderr
    where = ("--target", target, "--iptables-variant", variant, "--node", "node-a", "-f", SCENARIO)
    # Without the feature nothing would masquerade.
    assert _rulegen(host, "apply", *where).returncode == 0
    refused = _rulegen(host, "cleanup", "--ip-masq-agent")
    assert refused.returncode == 2
    assert "egress masquerading is not in force here for IPv4, and without" in refused.stderr
    applied = _rulegen(host, "apply", *where, "--feature", "egress-masquerade")
    assert applied.returncode == 0, applied.stderr
    assert _rulegen(host, "cleanup", "--ip-masq-agent").stdout == f"removed iptables-{variant} nat\n"
    left = host.run(f"iptables-{variant}-save", "-t", "nat").stdout
    assert "-A IP-MASQ-AGENT " not in left
    assert "-A IP-MASQ-AGENT-OF-MINE -d 192.0.2.1/32 -j RETURN" in left
    assert '-A POSTROUTING -m comment --comment "-j IP-MASQ-AGENT" -j IP-MASQ-AGENT-OF-MINE' in left
    assert "-j IP-MASQ-AGENT\n" not in left
    assert _rulegen(host, "diff", *where, "--feature", "egress-masquerade").returncode == 0
    assert _rulegen(host, "cleanup", "--ip-masq-agent").stdout == "nothing to remove\n"


def test_force_and_one_at_a_time(host: Host) -> None:
    host.run("iptables-nft-restore", "--noflush", input=LEFT)
    assert _rulegen(host, "cleanup", "--ip-masq-agent", "--force").stdout == "removed iptables-nft nat\n"
    done = _rulegen(host, "cleanup", "--ip-masq-agent", "--portmap")
    assert (done.returncode, done.stderr) == (2, "rulegen: --portmap and --ip-masq-agent: one at a time\n")
