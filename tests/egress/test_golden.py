"""Scenarios with egress masquerading: recorded with all that they depend on, and one line for what is wrong in them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.agent.running import RULEGEN
from tests.patience import patience

CLUSTER = str(Path(__file__).parents[2] / "golden" / "egress-masquerade" / "cluster.yaml")
OWN = """\
apiVersion: rulegen.io/v1alpha1
kind: RulegenConfiguration
features: [egress-masquerade]
egressMasquerade: {configFile: %s, podRange: ClusterCIDR}
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clusterCIDR: 10.128.0.0/14
"""


def _rulegen(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RULEGEN, *arguments], capture_output=True, text=True, check=False, timeout=patience(30))


def test_what_is_recorded_depends_on_nothing_else(tmp_path: Path) -> None:
    masq, own, packets, scenario = (tmp_path / name for name in ("masq", "own.yaml", "packets", "scenario"))
    masq.write_text("nonMasqueradeCIDRs: [203.0.113.0/24]\nmasqLinkLocal: true\n")
    own.write_text(OWN % masq)
    packets.write_text("10.129.0.5 203.0.113.9:80/tcp\n10.129.0.5 198.51.100.7:80/tcp\n10.128.0.5 169.254.1.1:80/tcp\n")
    where = ("-f", CLUSTER, "--node", "node-a", "--config", str(own), "--packets", str(packets))
    done = _rulegen("golden", "record", str(scenario), *where)
    assert done.returncode == 0, done.stderr
    masq.unlink()
    flows = (scenario / "flows.yaml").read_text()
    assert [line.strip() for line in flows.splitlines() if "expect" in line] == [
        "expect: passed",
        "expect: masqueraded",
        "expect: masqueraded",
    ]
    assert _rulegen("golden", "check", str(scenario)).returncode == 0
    # Whatever else it says, something else becomes of packets.
    for before, after in (("ClusterCIDR", "NodeCIDR"), ("203.0.113.0/24", "198.51.100.0/24"), ("true", "false")):
        (scenario / "flows.yaml").write_text(flows.replace(before, after))
        done = _rulegen("golden", "check", str(scenario))
        assert (done.returncode, "different" in done.stdout) == (1, True), before
    for before, after, words in (
        ("ClusterCIDR", "Nobody", "known are NodeCIDR, ClusterCIDR"),
        ("203.0.113.0/24", "203.0.113.1/24", "ipMasqAgent: nonMasqueradeCIDRs[0]: expected a CIDR without host bits"),
        ("masqLinkLocal", "masqLinkLocl", "ipMasqAgent: masqLinkLocl: unknown field"),
    ):
        (scenario / "flows.yaml").write_text(flows.replace(before, after))
        done = _rulegen("golden", "check", str(scenario))
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert words in done.stderr
