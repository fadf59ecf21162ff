"""What comes while the agent looks for what kube-proxy has left is somebody's, and stays."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable

import pytest

from rulegen.agent.observers import legacy_cleanup
from rulegen.agent.observers.legacy_cleanup import LegacyCleanup
from rulegen.agent.status.document import Takeover
from rulegen.demo.namespaces import NetworkNamespace
from rulegen.errors import ApplyError, HostError, RulegenError, UnseenError
from rulegen.kube_proxy.presence import Presence
from rulegen.kube_proxy.removal import remove_iptables_rules
from rulegen.kube_proxy.rules import Found, find
from rulegen.nftables.messages import Connection
from rulegen.reconcile.delta import Delta
from rulegen.reconcile.driver import Removal
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
        _clean((), lambda: None)
        saved = subprocess.run([f"iptables-{variant}-save"], capture_output=True, text=True, check=True).stdout
    assert "-A OUTPUT -j KUBE-SERVICES" in saved


@pytest.mark.parametrize("error", [UnseenError("iptables-save hangs"), HostError("cut off"), ApplyError("refused")])
def test_what_fails_is_said_once_and_tried_again(caplog: pytest.LogCaptureFixture, error: RulegenError) -> None:
    answers: list[RulegenError | None] = [error, error, None]
    failures: list[None] = []

    def remove() -> list[str]:
        if answer := answers.pop(0):
            raise answer
        return ["iptables-nft nat"]

    with caplog.at_level("INFO"), NetworkNamespace() as namespace, namespace.entered():
        _clean((remove,), lambda: failures.append(None))
    assert not answers
    assert len(failures) == 1
    assert caplog.messages == [f"rules of an earlier program may be left: {error}", "removed iptables-nft nat"]


def test_rules_of_kube_proxy_that_could_not_be_removed_at_once_go_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only some of them were: what is left has changed, and by our own hand."""
    calls: list[None] = []

    def some_only() -> list[str]:
        calls.append(None)
        if len(calls) == 1:
            subprocess.run(["iptables-nft", "-t", "nat", "-D", "OUTPUT", "-j", "KUBE-SERVICES"], check=True)
            subprocess.run(["iptables-nft", "-t", "nat", "-N", "KUBE-MARK-MASQ"], check=True)
            raise UnseenError("one table cannot be looked at")
        return remove_iptables_rules()

    monkeypatch.setattr(legacy_cleanup, "remove_iptables_rules", some_only)
    # Whatever else runs on the machine of the test.
    monkeypatch.setattr(legacy_cleanup, "look", lambda: Presence("", ""))
    with NetworkNamespace() as namespace, namespace.entered():
        subprocess.run(["iptables-nft-restore", "--noflush"], input=_RULES, text=True, check=True)
        _clean((), lambda: None)
        saved = subprocess.run(["iptables-nft-save"], capture_output=True, text=True, check=True).stdout
    assert "KUBE-" not in saved


def _clean(own: tuple[Removal, ...], count_failure: Callable[[], None]) -> None:
    """A whole clean-up in the namespace of this thread, until there is nothing more to do."""
    made = LegacyCleanup(own, count_failure)
    assert made.takeover().state == "waiting"
    made.synced(Sync(True, Delta(), Delta(), {}, {}, {}))
    wait_until(lambda: "legacy cleanup" not in {thread.name for thread in threading.enumerate()}, 15.0)
    assert made.takeover() == Takeover(state="done", message="")
