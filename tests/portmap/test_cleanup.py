"""`rulegen cleanup --portmap`: what portmap has left goes, everything else stays; it refuses while it is needed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.running import RULEGEN
from tests.nftables.host import Host, host_or_skip
from tests.patience import patience

pytestmark = pytest.mark.kernel

SCENARIO = str(Path(__file__).parents[2] / "golden" / "host-ports" / "cluster.yaml")
TARGETS = {
    "nftables": ("--target", "nftables"),
    "iptables-nft": ("--target", "iptables", "--iptables-variant", "nft"),
    "iptables-legacy": ("--target", "iptables", "--iptables-variant", "legacy"),
}
LEFT_BY = ("nftables", "iptables-nft", "iptables-legacy")
LEFT = """\
*nat
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-HOSTPORT-SETMARK - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
:CNI-DN-0a1b2c3d4e5f60718293a - [0:0]
:CNI-aaaaaaaaaaaaaaaaaaaaaaaa - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade -j CNI-DN" -j CNI-HOSTPORT-MASQ
-A POSTROUTING -s 10.1.0.0/16 -j CNI-aaaaaaaaaaaaaaaaaaaaaaaa
-A CNI-HOSTPORT-DNAT -p tcp -m multiport --dports 80 -j CNI-DN-0a1b2c3d4e5f60718293a
-A CNI-HOSTPORT-SETMARK -j MARK --set-xmark 0x2000/0x2000
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
-A CNI-DN-0a1b2c3d4e5f60718293a -s 10.1.0.0/16 -p tcp -m tcp --dport 80 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-0a1b2c3d4e5f60718293a -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.1.0.5:8080
-A CNI-aaaaaaaaaaaaaaaaaaaaaaaa -d 10.1.0.0/16 -j ACCEPT
COMMIT
"""
TABLE = """
table ip cni_hostport {
    chain hostports { tcp dport 80 dnat to 10.1.0.5:8080; }
    chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local jump hostports; }
}
table ip mine {
    chain keep { accept; }
}
"""


@pytest.fixture
def host() -> Iterator[Host]:
    with host_or_skip() as made:
        yield made


@pytest.fixture
def cni(tmp_path: Path) -> Path:
    folder = tmp_path / "net.d"
    folder.mkdir()
    (folder / "10-net.conflist").write_text(json.dumps({"name": "net", "plugins": [{"type": "bridge"}]}))
    return folder


def _cleanup(host: Host, cni: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return host.run(RULEGEN, "cleanup", "--portmap", "--cni-config", str(cni), *arguments, timeout=patience(30.0))


def _leave(host: Host, left: str) -> None:
    if left == "nftables":
        done = host.run("nft", "-f", "-", input=TABLE)
    else:
        done = host.run(f"{left}-restore", "--noflush", input=LEFT)
    assert done.returncode == 0, done.stderr


def _is_there(host: Host, left: str) -> bool:
    if left == "nftables":
        return "table ip cni_hostport" in host.nft("list tables")
    return any(name in host.run(f"{left}-save").stdout for name in ("CNI-HOSTPORT", ":CNI-DN"))


def _apply(host: Host, target: str, *features: str) -> None:
    done = host.run(
        RULEGEN, "apply", "-f", SCENARIO, "--node", "node-a", *features, *TARGETS[target], timeout=patience(30.0)
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("left", LEFT_BY)
def test_it_refuses_while_host_ports_are_not_in_force(host: Host, cni: Path, left: str) -> None:
    _leave(host, left)
    for target in ("nftables", "iptables-nft"):
        _apply(host, target)
        done = _cleanup(host, cni)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("rulegen: rulegen's host ports are not in force here for IPv4")
        assert _is_there(host, left)
    assert _cleanup(host, cni, "--force").returncode == 0
    assert not _is_there(host, left)


@pytest.mark.parametrize("target", TARGETS)
def test_what_portmap_left_goes_and_all_else_stays(host: Host, cni: Path, target: str) -> None:
    """As versions of portmap left it, one after the other; of each alone, see above."""
    for left in LEFT_BY:
        _leave(host, left)
    _apply(host, target, "--feature", "host-ports")
    done = _cleanup(host, cni)
    assert done.returncode == 0, done.stderr
    assert sum(line.startswith("removed ") for line in done.stdout.splitlines()) >= len(LEFT_BY)
    assert [left for left in LEFT_BY if _is_there(host, left)] == []
    assert "table ip mine" in host.nft("list tables")
    for program in ("iptables-nft", "iptables-legacy"):
        saved = host.run(f"{program}-save").stdout
        assert "-A POSTROUTING -s 10.1.0.0/16 -j CNI-aaaaaaaaaaaaaaaaaaaaaaaa" in saved
        assert "-A CNI-aaaaaaaaaaaaaaaaaaaaaaaa -d 10.1.0.0/16 -j ACCEPT" in saved
    again = _cleanup(host, cni)
    assert (again.returncode, again.stdout) == (0, "nothing to remove\n")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("20-a.conflist", b'{"plugins": [{"type": "bridge"}, {"type": "portmap"}]}', "names portmap"),
        ("20-b.conf", b'{"type": "portmap"}', "names portmap"),
        ("20-c.json", b'{"plugins": [', "expected a CNI configuration in JSON"),
        ("20-d.conf", b'{"type": "\xff"}', "expected a CNI configuration in JSON"),
        ("20-e.conf", b'{"type": ' + b"[" * 100_000, "expected a CNI configuration in JSON"),
    ],
)
def test_it_refuses_while_portmap_is_configured(host: Host, cni: Path, name: str, content: bytes, said: str) -> None:
    _leave(host, "iptables-nft")
    _apply(host, "nftables", "--feature", "host-ports")
    (cni / name).write_bytes(content)
    done = _cleanup(host, cni)
    assert (done.returncode, done.stdout) == (2, "")
    assert name in done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert _is_there(host, "iptables-nft")
    (cni / name).rename(cni / f"{name}.bak")
    assert _cleanup(host, cni).returncode == 0


def test_a_folder_that_is_not_there_says_nothing_about_portmap(host: Host, tmp_path: Path) -> None:
    _leave(host, "iptables-nft")
    done = _cleanup(host, tmp_path / "none")
    assert done.returncode == 2
    assert "cannot be read" in done.stderr
