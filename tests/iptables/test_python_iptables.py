"""python-iptables as the way into legacy iptables: it leaves what iptables-restore would, or fails in a line."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from rulegen.config import Family, IptablesLoader
from rulegen.demo.namespaces import NetworkNamespace
from rulegen.errors import ApplyError, HostError
from rulegen.iptables import python_iptables
from rulegen.iptables.binaries import LOCK, LockedError, Variant
from rulegen.iptables.chains import NAT
from rulegen.iptables.python_iptables import PythonLoader
from rulegen.iptables.transaction import Step
from tests.builders import Item
from tests.iptables.host import Host, compiled
from tests.iptables.test_kernel import CLUSTER, load_foreign
from tests.nftables.clusters import clusters

pytestmark = pytest.mark.kernel

# What a rule object says in a version that does not find an extension's options.
_LOST = "def create_match(self, name):\n        raise XTablesError('addrtype: no such parameter dst-type\\x1b[31m')"
_MODULE = """
class IPTCError(Exception): pass
class XTablesError(Exception): pass
class Table: pass
Table6 = Table
class Rule:
    {}
Rule6 = Rule
"""
STAND_INS = {
    "is not there": (
        "raise ModuleNotFoundError(\"No module named 'iptc'\", name='iptc')",
        r"^python-iptables is not installed: .pip install rulegen.legacy.., or use --iptables-driver iptables-r.store$",
    ),
    "understands nothing": (
        _MODULE.format(_LOST),
        r"^python-iptables does not understand the iptables of this host: -m addrtype --dst-type LOCAL: addrtype: no "
        r"such parameter dst-type\\x1b\[31m; use --iptables-driver iptables-restore$",
    ),
    "crashes": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"\(IPv4\) crashed \(SIGSEGV\)$"),
    "ends": ("import os; os._exit(3)", r"\(IPv4\) ended with status 3$"),
    "hangs": ("import time; time.sleep(600)", r"\(IPv4\) has not answered for 1 s$"),
}


# All kinds that features write; for each family its own.
RULES: dict[Family | None, list[str]] = {
    None: [
        "-i veth0 -j RETURN",
        "-i veth+ -j RETURN",
        "! -i cni0 -p udp -j RETURN",
        "-p tcp -m tcp --dport 80:95 -j RETURN",
        "-p sctp -m sctp --dport 80 -j RULEGEN-Y",
        "-p tcp -g RULEGEN-Y",
        "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j RULEGEN-Y",
        "-p tcp -m multiport --dports 80,443:445 -j RETURN",
        "-m mark ! --mark 0x4000/0x4000 -m comment --comment RULEGEN-X -j RETURN",
        "! -o veth+ -j RETURN",
        "-m addrtype --src-type LOCAL -j MARK --set-xmark 0x4000/0x4000",
        "-m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully",
        '-m conntrack --ctstate DNAT -m bpf --bytecode "4,32 0 0 12,21 0 1 1,6 0 0 1,6 0 0 0" -j RETURN',
        '-p udp -m statistic --mode random --probability 0.33333333349 -m comment --comment "a b" -j RETURN',
    ],
    Family.IPV4: [
        "-p icmp -m icmp --icmp-type 8 -j RETURN",
        "! -s 10.128.0.0/9 -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j RETURN",
        "-p tcp -m recent --update --seconds 60 --reap --name X --mask 255.255.255.255 --rsource -j RETURN",
        "-p tcp -m recent --set --name X --mask 255.255.255.255 --rsource -j DNAT --to-destination 10.128.0.5:8080",
    ],
    Family.IPV6: [
        "-p ipv6-icmp -m icmp6 --icmpv6-type 133 -j RETURN",
        "! -s fd00:10:128::/47 -d fd00:10:96::10/128 -p tcp -m tcp --dport 80 -j RETURN",
        "-p tcp -m recent --update --seconds 60 --reap --name X --mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
        "--rsource -j DNAT --to-destination [fd00:10:128::5]:8080",
    ],
}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host(Variant.LEGACY, IptablesLoader.PYTHON) as host:
        yield host


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a module in place of python-iptables'."""

    def put(text: str) -> None:
        (tmp_path / "iptc.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return put


def blob(host: Host, family: Family) -> bytes:
    """The nat table as the kernel holds it, without counters: IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES."""
    ipv4 = family is Family.IPV4
    with (
        host.namespace.entered(),
        socket.socket(socket.AF_INET if ipv4 else socket.AF_INET6, socket.SOCK_RAW, 255) as raw,
    ):

        def ask(option: int, size: int, known: bytes = b"") -> bytes:
            buffer = ctypes.create_string_buffer(NAT.encode().ljust(32, b"\0") + known, size)
            length = ctypes.c_uint32(size)
            level = 0 if ipv4 else socket.IPPROTO_IPV6
            assert not ctypes.CDLL(None).getsockopt(raw.fileno(), level, option, buffer, ctypes.byref(length))
            return buffer.raw

        size = struct.unpack_from("=I", ask(64, 84), 80)[0]
        entries = bytearray(ask(65, 40 + size, struct.pack("=I", size))[40:])
    # Behind struct ipt_ip come nfcache, both offsets, comefrom, and the counters.
    head, start = 84 if ipv4 else 136, 0
    while start < len(entries):
        entries[start + head + 8 : start + head + 28] = bytes(20)
        start += struct.unpack_from("=H", entries, start + head + 6)[0]
    return bytes(entries)


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.parametrize("how", STAND_INS)
def test_one_that_cannot_work_is_refused_in_one_line_and_nothing_is_left_of_it(
    stand_in: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    text, message = STAND_INS[how]
    stand_in(text)
    monkeypatch.setattr(python_iptables, "_SECONDS", 1.0 if how == "hangs" else 30.0)
    before = children()
    with NetworkNamespace() as namespace, namespace.entered(), pytest.raises(HostError, match=message):
        PythonLoader(Variant.LEGACY, 5)
    assert children() == before


def test_the_variant_nft_is_refused() -> None:
    with pytest.raises(
        HostError, match=r"^python-iptables writes legacy iptables only, and this host's is the var.*nft"
    ):
        PythonLoader(Variant.NFT, 5)


@given(before=clusters(), after=clusters())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_it_leaves_the_same_rules(host: Host, before: list[Item], after: list[Item]) -> None:
    host.clear()
    foreign = load_foreign(host)
    host.apply(*before)
    host.apply(*after)
    assert host.read() == compiled(after).entries()
    host.run("-t nat -D PREROUTING -j RULEGEN-SERVICES")
    host.apply(*after)
    assert host.read() == compiled(after).entries()
    assert host.foreign() == foreign


@pytest.mark.parametrize("family", Family)
def test_the_kernel_gets_the_same_bytes(host: Host, family: Family) -> None:
    """What iptables-save does not show counts as well."""
    lines = ["*nat", ":RULEGEN-X - [0:0]", ":RULEGEN-Y - [0:0]"]
    for lists in RULES[None], RULES[family]:
        lines += [f"-A RULEGEN-X {rule}" for rule in lists]
    lines += ["-I OUTPUT 1 -j RULEGEN-Y", "-I OUTPUT 1 -m conntrack --ctstate NEW -j RULEGEN-Y", "COMMIT"]
    host.clear()
    host.commit([Step(family, NAT, tuple(lines))], {})
    ours = blob(host, family)
    host.clear()
    with Host(Variant.LEGACY) as other:
        other.run("restore --noflush", "\n".join([*lines, ""]), family)
        assert blob(other, family) == ours


def test_a_refused_line_is_shown_and_nothing_of_its_table_is_in_force(host: Host) -> None:
    host.clear()
    bad = Step(Family.IPV4, NAT, ("*nat", ":RULEGEN-X - [0:0]", "-A RULEGEN-X -m nosuch -j ACCEPT", "COMMIT"))
    with pytest.raises(ApplyError, match=r"nosuch: line 3: -A RULEGEN-X -m nosuch -j ACCEPT; nothing was changed"):
        host.commit([bad], {})
    assert not host.read()


def test_a_dry_run_changes_nothing(host: Host) -> None:
    host.clear()
    step = Step(Family.IPV4, NAT, ("*nat", ":RULEGEN-X - [0:0]", "COMMIT"))
    with host.namespace.entered():
        host.kernel.check([step])
    assert not host.read()


def test_the_lock_is_respected(host: Host) -> None:
    with host.namespace.entered():
        loader = PythonLoader(Variant.LEGACY, 0)
        with LOCK.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(LockedError, match=rf"the lock {LOCK} is held by \S+ \(process {os.getpid()}\)"):
                loader.take(Step(Family.IPV4, NAT, ("*nat", "COMMIT")), test=False)
        loader.close()


def test_both_families_are_served(host: Host) -> None:
    host.clear()
    host.apply(*CLUSTER)
    assert host.read() == compiled(CLUSTER).entries()
    assert {key.family for key in host.read()} == set(Family)


def test_a_process_that_died_is_one_line_and_there_is_another_for_the_next_change(host: Host) -> None:
    host.clear()
    before = children()
    with host.namespace.entered():
        loader = PythonLoader(Variant.LEGACY, 5)
        for child in children() - before:
            os.kill(int(child), 9)
        step = Step(Family.IPV4, NAT, ("*nat", ":RULEGEN-X - [0:0]", "COMMIT"))
        with pytest.raises(HostError, match=r"^python-iptables \(IPv4\) crashed \(SIGKILL\)$"):
            loader.take(step, test=False)
        assert not host.read()
        loader.take(step, test=False)
        assert [key.chain for key in host.read()] == ["RULEGEN-X"]
        loader.close()
    assert children() == before
