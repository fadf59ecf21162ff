"""One agent in a network namespace: who can take the lock, who cannot, and when it is free again."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from rulegen.agent.run import lock
from rulegen.demo.namespaces import NetworkNamespace
from tests.agent.running import wait_until
from tests.patience import patience

pytestmark = pytest.mark.kernel

_HOLD = """
import time
from rulegen.agent.run.lock import acquire
held = acquire()
print(bool(held), flush=True)
time.sleep(60)
"""


@contextmanager
def _holder(namespace: NetworkNamespace, *prefix: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock."""
    with namespace.entered():
        process = subprocess.Popen([*prefix, sys.executable, "-c", _HOLD], stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
            yield process
        finally:
            process.kill()


def test_only_one_has_it_and_a_crash_gives_it_up(namespace: NetworkNamespace) -> None:
    with _holder(namespace) as other, namespace.entered():
        assert lock.acquire() is None
        assert lock.holder() == f"process {other.pid}"
        other.send_signal(signal.SIGKILL)
        other.wait()
        wait_until(lambda: lock.holder() is None)
        taken = lock.acquire()
        assert taken is not None
        with closing(taken):
            assert lock.holder() == f"process {os.getpid()}"
            assert lock.acquire() is None
        assert lock.holder() is None


def test_nobody_else_can_remove_it(namespace: NetworkNamespace) -> None:
    with namespace.entered():
        taken = lock.acquire()
        assert taken is not None
        with closing(taken):
            assert subprocess.run(["nft", "flush", "ruleset"], check=False).returncode == 0
            refused = subprocess.run(
                ["nft", "delete", "table", "ip", "rulegen-agent"], capture_output=True, text=True, check=False
            )
            assert refused.returncode != 0
            assert lock.acquire() is None
            # Others' listings and rules are not in its way.
            subprocess.run(["iptables-nft", "-A", "INPUT", "-j", "ACCEPT"], check=True)
            listed = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
            assert f'comment "process {os.getpid()} of ' in listed


def test_each_network_namespace_has_its_own(namespace: NetworkNamespace) -> None:
    with _holder(namespace), NetworkNamespace() as other, other.entered():
        taken = lock.acquire()
        assert taken is not None
        taken.close()


def test_another_mount_and_process_namespace_is_no_way_around_it(namespace: NetworkNamespace) -> None:
    """As in a container on the host's network."""
    # In a chroot whose root is no mount, its propagation cannot be changed.
    container = ("unshare", "--mount", "--propagation", "unchanged", "--pid", "--fork", "--mount-proc")
    with _holder(namespace, *container), namespace.entered():
        assert lock.acquire() is None
        assert lock.holder() == "process in another container"


def test_users_without_privileges_can_neither_take_nor_pretend_it(namespace: NetworkNamespace) -> None:
    pretends = """
import os, socket, time
from rulegen.agent.run.lock import acquire
from rulegen.errors import HostError
os.setresuid(65534, 65534, 65534)
taken = socket.socket(socket.AF_UNIX)
taken.bind("\\0rulegen-agent")
taken.listen(1)
try:
    print("taken" if acquire() else "not taken", flush=True)
except HostError as error:
    print(error, flush=True)
time.sleep(60)
"""
    with namespace.entered():
        process = subprocess.Popen([sys.executable, "-c", pretends], stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said == "reading and changing nftables needs root, or the capability CAP_NET_ADMIN\n"
            with namespace.entered():
                assert lock.holder() is None
                begun = time.monotonic()
                taken = lock.acquire()
                assert taken is not None
                taken.close()
                assert time.monotonic() - begun < patience(5.0)
        finally:
            process.kill()


def test_without_such_tables_a_name_is_the_lock(namespace: NetworkNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on kernels before 5.12, which this cannot be tried on."""
    monkeypatch.setattr(lock, "_make_table", lambda _: errno.EOPNOTSUPP)
    with namespace.entered():
        taken = lock.acquire()
        assert isinstance(taken, socket.socket)
        assert taken.family is socket.AF_UNIX
        with closing(taken):
            assert lock.acquire() is None
            assert lock.holder() == f"process {os.getpid()}"
        again = lock.acquire()
        assert again is not None
        again.close()
