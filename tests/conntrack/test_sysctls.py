"""SVC-71: what is configured is set, all else is left alone. The host's own values are never touched."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rulegen.config import KUBE_PROXY_CONNTRACK, Conntrack
from rulegen.conntrack.sysctls import SysctlChange, Sysctls, apply_sysctls, connection_limit, set_sysctls
from rulegen.demo.namespaces import NetworkNamespace
from tests.agent.running import RULEGEN
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
    assert apply_sysctls(Conntrack(minimum=500000), 8, tmp_path) == Sysctls()


def test_everything_configured_is_set_and_told(folder: Folder) -> None:
    done = apply_sysctls(ALL, 16, folder.root)
    assert folder.values() == {
        "nf_conntrack_max": 524288,
        "nf_conntrack_tcp_be_liberal": 1,
        "nf_conntrack_tcp_timeout_established": 86400,
        "nf_conntrack_tcp_timeout_close_wait": 3600,
        "nf_conntrack_udp_timeout": 10,
        "nf_conntrack_udp_timeout_stream": 61,
    }
    assert int(folder.hash_size.read_text()) == 131072
    assert done.changes[0] == SysctlChange("nf_conntrack_max", 262144, 524288)
    assert str(done.changes[1]) == "/sys/module/nf_conntrack/parameters/hashsize: 65536 -> 131072"
    assert len(done.changes) == 7
    assert not done.refusals
    assert apply_sysctls(ALL, 16, folder.root) == Sysctls()


def test_a_limit_goes_down_and_the_hash_table_does_not(folder: Folder) -> None:
    assert apply_sysctls(Conntrack(max_per_core=1, minimum=131072), 1, folder.root).changes == (
        SysctlChange("nf_conntrack_max", 262144, 131072),
    )
    assert int(folder.hash_size.read_text()) == 65536


def test_one_setting_leaves_the_others(folder: Folder) -> None:
    apply_sysctls(Conntrack(udp_timeout=0.2), 4, folder.root)
    assert folder.values() == BEFORE | {"nf_conntrack_udp_timeout": 1}


def test_what_kube_proxy_sets_by_default(folder: Folder) -> None:
    apply_sysctls(KUBE_PROXY_CONNTRACK, 8, folder.root)
    assert folder.values() == BEFORE | {
        "nf_conntrack_tcp_timeout_established": 86400,
        "nf_conntrack_tcp_timeout_close_wait": 3600,
    }


def test_what_is_missing_or_unreadable_is_named_and_holds_up_nothing(folder: Folder) -> None:
    folder.hash_size.write_text("1\n")
    (folder.folder / "nf_conntrack_udp_timeout").write_text("soon\n")
    (folder.folder / "nf_conntrack_tcp_timeout_established").unlink()
    done = apply_sysctls(ALL, 4, folder.root)
    assert done.problems() == [
        "cannot set nf_conntrack_tcp_timeout_established to 86400: "
        "No such file or directory; load the kernel's module nf_conntrack",
        'cannot set nf_conntrack_udp_timeout to 10: expected a number, found "soon"',
    ]
    assert [change.name for change in done.changes] == [
        "nf_conntrack_max",
        "/sys/module/nf_conntrack/parameters/hashsize",
        "nf_conntrack_tcp_be_liberal",
        "nf_conntrack_tcp_timeout_close_wait",
        "nf_conntrack_udp_timeout_stream",
    ]


def test_what_nobody_can_set_is_one_line(tmp_path: Path) -> None:
    (problem,) = apply_sysctls(ALL, 16, tmp_path).problems()
    assert problem.startswith("cannot set nf_conntrack_max to 524288, nf_conntrack_tcp_be_liberal to 1, ")
    assert "hashsize" not in problem


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
        assert [change.after for change in set_sysctls(settings).changes] == [1, 777, 7, 77]
        assert (here / "nf_conntrack_udp_timeout").read_text() == "7\n"
        assert set_sysctls(settings) == Sysctls()
    assert {name: (here / name).read_text() for name in BEFORE} == host_before


@pytest.mark.kernel
def test_what_belongs_to_the_host_says_so_in_a_namespace(namespace: NetworkNamespace) -> None:
    now = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    settings = Conntrack(max_per_core=1, minimum=now + 4, udp_timeout=7.0)
    with namespace.entered():
        done = apply_sysctls(settings, 1)
    assert [change.name for change in done.changes] == ["nf_conntrack_udp_timeout"]
    (problem,) = done.problems()
    assert re.search(rf"cannot set nf_conntrack_max to {now + 4} \(it is {now}\): Perm.*the host", problem)


# -- where a container, or its lack of rights, is in the way: through the commands that people use --

# The root need not be a mount: it is none in a chroot. What is mounted here stays here all the same.
READ_ONLY = (
    "mount --make-rprivate /proc && mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && "
    "mount --bind /sys/module/nf_conntrack /sys/module/nf_conntrack && "
    "mount -o remount,ro,bind /sys/module/nf_conntrack && "
)


def in_container(script: str) -> subprocess.CompletedProcess[str]:
    """In a network and a mount namespace of its own; `$R` is rulegen."""
    command = ["unshare", "--net", "--mount", "--propagation", "unchanged", "bash", "-c", f"R={RULEGEN}; {script}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_read_only_proc_says_what_a_container_needs() -> None:
    done = in_container(f"{READ_ONLY} $R sysctls; echo $?; $R sysctls --tolerate-refusal 2>/dev/null; echo $?")
    assert done.stdout.splitlines() == ["1", "0"]
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(
        r"rulegen: cannot set (nf_conntrack_max to \d+ \(it is \d+\), )?"
        r"nf_conntrack_tcp_timeout_established to 86400 \(it is 432000\), "
        r"nf_conntrack_tcp_timeout_close_wait to 3600 \(it is 60\): Read-only file system; "
        r"a container must be privileged, or have /proc/sys and /sys writable; else set it on the host, .*",
        line,
    )


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to lose it")
def test_without_root_it_says_so() -> None:
    # A clone may be in root's own folder; who may read everything may not set a sysctl.
    kept = "--bounding-set=-all,+dac_read_search --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search"
    script = f"setpriv --reuid=65534 --regid=65534 --clear-groups {kept}"
    done = in_container(f"{script} {RULEGEN} sysctls; echo $?")
    assert done.stdout.splitlines()[-1] == "1"
    assert "nf_conntrack_tcp_timeout_established to 86400 (it is 432000)" in done.stderr
    assert "Permission denied; it needs root" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.kernel
def test_the_command_sets_what_the_file_says_whatever_its_mode(tmp_path: Path, namespace: NetworkNamespace) -> None:
    config = tmp_path / "config.conf"
    lines = ["apiVersion: kubeproxy.config.k8s.io/v1alpha1", "kind: KubeProxyConfiguration", "mode: ipvs"]
    config.write_text("\n".join([*lines, "conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, udpTimeout: 7s}"]))
    with namespace.entered():
        done = subprocess.run([RULEGEN, "sysctls", "--config", config], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "nf_conntrack_tcp_timeout_close_wait: 60 -> 3600",
        "nf_conntrack_udp_timeout: 30 -> 7",
    ]
