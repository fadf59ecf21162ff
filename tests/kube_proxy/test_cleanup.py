"""`rulegen cleanup --kube-proxy`: it leaves no node without rules unless told to, and takes out all that it can."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.running import RULEGEN, manifest, web
from tests.builders import node
from tests.kube_proxy.stand_in import MODES, running
from tests.nftables.host import Host, host_or_skip
from tests.patience import patience

pytestmark = pytest.mark.kernel

TARGETS = {
    "nftables": ("--target", "nftables"),
    "iptables-nft": ("--target", "iptables", "--iptables-variant", "nft"),
    "iptables-legacy": ("--target", "iptables", "--iptables-variant", "legacy"),
}


@pytest.fixture
def host() -> Iterator[Host]:
    with host_or_skip() as made:
        yield made


@pytest.fixture
def objects(tmp_path: Path) -> str:
    path = tmp_path / "objects.json"
    path.write_bytes(manifest(node(), *web(1, 1)))
    return str(path)


def _rulegen(host: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    return host.run(RULEGEN, *arguments, timeout=patience(20.0))


def _left_behind(host: Host, folder: Path, mode: str) -> None:
    with running(host.namespace, folder, mode, ports=False) as proxy:
        proxy.end()


def _is_there(host: Host, mode: str) -> bool:
    if mode == "nftables":
        return "table ip kube-proxy" in host.nft("list tables")
    return "KUBE-SERVICES" in host.run(f"{mode}-save").stdout


@pytest.mark.parametrize("mode", MODES)
def test_it_refuses_while_rulegens_rules_are_not_in_force(host: Host, tmp_path: Path, mode: str) -> None:
    _left_behind(host, tmp_path, mode)
    done = _rulegen(host, "cleanup", "--kube-proxy")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("rulegen: rulegen's rules are not in force here for IPv4")
    assert _is_there(host, mode)
    assert _rulegen(host, "cleanup", "--kube-proxy", "--force").returncode == 0
    assert not _is_there(host, mode)


@pytest.mark.part(3)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", MODES)
def test_it_works_when_they_are(host: Host, tmp_path: Path, objects: str, mode: str, target: str) -> None:
    _left_behind(host, tmp_path, mode)
    assert _rulegen(host, "apply", "-f", objects, "--node", "node-1", *TARGETS[target]).returncode == 0
    done = _rulegen(host, "cleanup", "--kube-proxy")
    assert (done.returncode, done.stderr) == (0, "")
    assert not _is_there(host, mode)
    assert _rulegen(host, "cleanup", "--kube-proxy").stdout == "nothing to remove\n"


@pytest.mark.parametrize(
    ("target", "damage"),
    [
        ("nftables", "nft add table ip rulegen { flags dormant ; }"),
        ("nftables", "nft flush chain ip rulegen {nat}"),
        ("nftables", "nft delete table ip rulegen"),
        ("iptables-nft", "iptables-nft -t nat -D PREROUTING -j RULEGEN-SERVICES"),
        ("iptables-legacy", "iptables-legacy -t nat -F OUTPUT"),
        ("iptables-nft", "iptables-nft -t nat -F RULEGEN-SERVICES"),
        ("iptables-legacy", "iptables-legacy -t nat -F RULEGEN-VIPS"),
        ("iptables-legacy", "iptables-legacy -t nat -I PREROUTING -j ACCEPT"),
    ],
)
def test_rules_that_packets_do_not_meet_are_not_in_force(
    host: Host, tmp_path: Path, objects: str, target: str, damage: str
) -> None:
    _left_behind(host, tmp_path, "nftables")
    assert _rulegen(host, "apply", "-f", objects, "--node", "node-1", *TARGETS[target]).returncode == 0
    found = re.search(
        r"chain (\S+) \{\s+type nat hook prerouting", host.run("nft", "list", "table", "ip", "rulegen").stdout
    )
    done = host.run(*damage.replace("{nat}", found[1] if found else "").split(" "))
    assert done.returncode == 0, done.stderr
    done = _rulegen(host, "cleanup", "--kube-proxy")
    assert done.returncode == 2
    assert "not in force here for IPv4" in done.stderr
    assert _is_there(host, "nftables")


def test_rules_without_services_are_not_in_force(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    path.write_bytes(manifest(node()))
    _left_behind(host, tmp_path, "nftables")
    assert _rulegen(host, "apply", "-f", str(path), "--node", "node-1").returncode == 0
    assert _rulegen(host, "cleanup", "--kube-proxy").returncode == 2
    assert _is_there(host, "nftables")


def test_a_family_without_services_of_kube_proxys_needs_none_of_rulegens(host: Host, objects: str) -> None:
    fixed = ("services", "service-endpoints-check", "nodeport-endpoints-check", "firewall-check", "nat-prerouting")
    host.nft("add table ip kube-proxy; add table ip6 kube-proxy")
    host.nft("".join(f"add chain ip6 kube-proxy {name}\n" for name in fixed))
    assert _rulegen(host, "apply", "-f", objects, "--node", "node-1").returncode == 0
    assert _rulegen(host, "cleanup", "--kube-proxy").stdout == "removed ip kube-proxy\nremoved ip6 kube-proxy\n"


def test_a_family_with_services_of_kube_proxys_needs_rulegens(host: Host, objects: str) -> None:
    host.nft("add table ip6 kube-proxy; add chain ip6 kube-proxy service-2QRHZV4L-default/web/tcp/")
    assert _rulegen(host, "apply", "-f", objects, "--node", "node-1").returncode == 0
    done = _rulegen(host, "cleanup", "--kube-proxy")
    assert done.returncode == 2
    assert "not in force here for IPv6" in done.stderr


def test_it_refuses_beside_a_kube_proxy_of_this_network_namespace_only(
    host: Host, tmp_path: Path, objects: str
) -> None:
    assert _rulegen(host, "apply", "-f", objects, "--node", "node-1").returncode == 0
    with running(host.namespace, tmp_path, "nftables", ports=False) as proxy:
        done = _rulegen(host, "cleanup", "--kube-proxy")
        assert done.returncode == 2
        assert f"kube-proxy runs on this node (process {proxy.pid})" in done.stderr
    with subprocess.Popen([tmp_path / "kube-proxy", "-c", "import time; time.sleep(60)"]) as elsewhere:
        try:
            done = _rulegen(host, "cleanup", "--kube-proxy")
        finally:
            elsewhere.kill()
    assert (done.returncode, done.stdout) == (0, "removed ip kube-proxy\n")
