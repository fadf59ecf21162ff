"""What comes while the agent looks for what kube-proxy has left is somebody's, and stays."""

from __future__ import annotations

import subprocess
import threading

import pytest

from rulegen.agent.observers import legacy_cleanup
from rulegen.agent.observers.legacy_cleanup import LegacyCleanup
from rulegen.demo.namespaces import NetworkNamespace
from rulegen.kube_proxy.rules import Found, find
from rulegen.nftables.messages import Connection
from rulegen.reconcile.delta import Delta
from rulegen.reconcile.reconciler import Sync
from tests.agent.running import wait_until

pytestmark = pytest.mark.kernel

_RULES = """\
*nat
:KUBE-SERVICES - [0:0]
-A OUTPUT -j KUBE-SERVICES
COMMIT
"""


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_rules_that_come_after_the_look_stay(monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    def find_before_they_come(connection: Connection) -> Found:
        found = find(connection)
        subprocess.run([f"iptables-{variant}-restore", "--noflush"], input=_RULES, text=True, check=True)
        return found

    monkeypatch.setattr(legacy_cleanup, "find", find_before_they_come)
    with NetworkNamespace() as namespace, namespace.entered():
        made = LegacyCleanup((), lambda: None)
        made.synced(Sync(True, Delta(), Delta(), {}, {}, {}))
        wait_until(lambda: "legacy cleanup" not in {thread.name for thread in threading.enumerate()}, 15.0)
        saved = subprocess.run([f"iptables-{variant}-save"], capture_output=True, text=True, check=True).stdout
    assert "-A OUTPUT -j KUBE-SERVICES" in saved
