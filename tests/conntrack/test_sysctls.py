"""Rule 71: what is configured is set, all else is left alone. The host's own values are never touched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rulegen.config import Conntrack
from rulegen.conntrack.sysctls import SysctlChange, apply_sysctls, connection_limit
from rulegen.demo.namespaces import NetworkNamespace
from rulegen.errors import HostError
from tests.lab.fixtures import namespace_or_skip

BEFORE = {
    "nf_conntrack_max": 262144,
    "nf_conntrack_tcp_be_liberal": 0,
    "nf_conntrack_tcp_timeout_established": 432000,
    "nf_conntrack_tcp_timeout_close_wait": 60,
    "nf_conntrack_udp_timeout": 30,
    "nf_conntrack_udp_timeout_stream": 120,
}
ALL = Conntrack(
    max_per_core=32768,
    tcp_established_timeout=86400.0,
    tcp_close_wait_timeout=3600.0,
    tcp_be_liberal=True,
    udp_timeout=10.0,
    udp_stream_timeout=60.5,
)


class Folder:
    """A copy of the files that hold sysctls."""

    def __init__(self, root: Path, hash_size: int = 65536) -> None:
        self.root = root
        self.folder = root / "proc/sys/net/netfilter"
        self.folder.mkdir(parents=True)
        for name, value in BEFORE.items():
            (self.folder / name).write_text(f"{value}\n")
        self.hash_size = root / "sys/module/nf_conntrack/parameters/hashsize"
        self.hash_size.parent.mkdir(parents=True)
        self.hash_size.write_text(f"{hash_size}\n")

    def values(self) -> dict[str, int]:
        return {name: int((self.folder / name).read_text()) for name in BEFORE}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize(
    ("max_per_core", "minimum", "cpus", "limit"),
    [
        (0, 131072, 8, 0),
        (32768, 131072, 2, 131072),
        (32768, 131072, 8, 262144),
        (32768, 131072, 32, 1048576),
        (32768, 131072, 33, 1048576),
        (32768, 2000000, 4, 2000000),
        (1, 0, 4, 4),
    ],
)
def test_the_limit_grows_with_the_cpus(max_per_core: int, minimum: int, cpus: int, limit: int) -> None:
    assert connection_limit(Conntrack(max_per_core=max_per_core, minimum=minimum), cpus) == limit


def test_nothing_configured_reads_and_writes_nothing(tmp_path: Path) -> None:
    assert apply_sysctls(Conntrack(minimum=500000), 8, tmp_path) == []


def test_everything_configured_is_set_and_told(folder: Folder) -> None:
    changes = apply_sysctls(ALL, 16, folder.root)
    assert folder.values() == {
        "nf_conntrack_max": 524288,
        "nf_conntrack_tcp_be_liberal": 1,
        "nf_conntrack_tcp_timeout_established": 86400,
        "nf_conntrack_tcp_timeout_close_wait": 3600,
        "nf_conntrack_udp_timeout": 10,
        "nf_conntrack_udp_timeout_stream": 61,
    }
    assert int(folder.hash_size.read_text()) == 131072
    assert changes[0] == SysctlChange("nf_conntrack_max", 262144, 524288)
    assert str(changes[1]) == "/sys/module/nf_conntrack/parameters/hashsize: 65536 -> 131072"
    assert len(changes) == 7
    assert apply_sysctls(ALL, 16, folder.root) == []


def test_a_limit_goes_down_and_the_hash_table_does_not(folder: Folder) -> None:
    assert apply_sysctls(Conntrack(max_per_core=1, minimum=131072), 1, folder.root) == [
        SysctlChange("nf_conntrack_max", 262144, 131072)
    ]
    assert int(folder.hash_size.read_text()) == 65536


def test_one_setting_leaves_the_others(folder: Folder) -> None:
    apply_sysctls(Conntrack(udp_timeout=0.2), 4, folder.root)
    assert folder.values() == BEFORE | {"nf_conntrack_udp_timeout": 1}


def test_what_is_missing_or_unreadable_is_named(folder: Folder) -> None:
    path = folder.folder / "nf_conntrack_udp_timeout"
    path.write_text("soon\n")
    with pytest.raises(HostError, match='nf_conntrack_udp_timeout: expected a number, found "soon"'):
        apply_sysctls(ALL, 4, folder.root)
    path.unlink()
    with pytest.raises(HostError, match="nf_conntrack_udp_timeout: not there; load the kernel's module nf_conntrack"):
        apply_sysctls(ALL, 4, folder.root)


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    with namespace_or_skip() as made:
        yield made


@pytest.mark.kernel
def test_a_namespace_gets_its_own_values(namespace: NetworkNamespace) -> None:
    here = Path("/proc/sys/net/netfilter")
    host_before = {name: (here / name).read_text() for name in BEFORE}
    settings = Conntrack(udp_timeout=7.0, udp_stream_timeout=77.0, tcp_be_liberal=True, tcp_close_wait_timeout=777.0)
    with namespace.entered():
        assert [change.after for change in apply_sysctls(settings)] == [1, 777, 7, 77]
        assert (here / "nf_conntrack_udp_timeout").read_text() == "7\n"
        assert apply_sysctls(settings) == []
    assert {name: (here / name).read_text() for name in BEFORE} == host_before


@pytest.mark.kernel
def test_what_belongs_to_the_host_says_so_in_a_namespace(namespace: NetworkNamespace) -> None:
    now = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    with (
        namespace.entered(),
        pytest.raises(
            HostError, match=rf"nf_conntrack_max: cannot be set to {now + 4} \(it is {now}\): Perm.*the host"
        ),
    ):
        apply_sysctls(Conntrack(max_per_core=1, minimum=now + 4), 1)


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_read_only_proc_says_what_a_container_needs() -> None:
    # The root need not be a mount: it is none in a chroot. What is mounted here stays here all the same.
    script = (
        "mount --make-rprivate /proc && mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec "
        f"{sys.executable} -c 'from rulegen.conntrack.sysctls import *; apply_sysctls(Conntrack(udp_timeout=5.0))'"
    )
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--propagation", "unchanged", "bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    line = done.stderr.strip().splitlines()[-1]
    assert re.search(r"nf_conntrack_udp_timeout: cannot be set to 5 \(it is \d+\): Read-only .* privileged", line)
