"""When flows that began without rules are looked for: after changed ranges, a repair, and again after a failure."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from rulegen.config import Family, NodeConfiguration
from rulegen.egress.connections import PodFlows
from rulegen.egress.feature import EgressMasquerade
from rulegen.egress.model import NAME, Range, Side
from rulegen.egress.observer import FlowObserver
from rulegen.errors import ConntrackError
from rulegen.reconcile.delta import Change, Delta
from rulegen.reconcile.reconciler import FeatureSync, Sync

PODS = Range(Side.PODS, Family.IPV4, "10.244.1.0/24")


class Flows(PodFlows):
    """Fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__(EgressMasquerade(NodeConfiguration()).store)
        self.failures, self.calls = failures, 0

    def end(self) -> int:
        self.calls += 1
        if self.calls <= self.failures:
            raise ConntrackError("no")
        return 1


def sync(items: dict[Any, Change[Any]], repaired: Delta[Any, Any]) -> Sync:
    return Sync(False, Delta(), repaired, {NAME: FeatureSync(items, {}, None)}, {}, {})


@pytest.mark.parametrize(
    ("done", "is_looked_for"),
    [
        (sync({}, Delta()), False),
        (sync({PODS: Change(None, "Node node-1")}, Delta()), True),
        (sync({}, Delta(added={"key": "value"})), True),
    ],
)
def test_what_it_takes(done: Sync, is_looked_for: bool) -> None:
    flows = Flows()
    observer = FlowObserver(flows)
    observer.synced(done)
    # Once is enough.
    observer.synced(sync({}, Delta()))
    wait = observer.wait(1.0)
    assert (wait is not None and wait <= 0) is is_looked_for
    if is_looked_for:
        observer.act(1.0)
        assert observer.wait(1.0) is None
        assert flows.calls == 1


def test_what_fails_is_tried_again_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    flows = Flows(failures=2)
    observer = FlowObserver(flows)
    observer.synced(sync({PODS: Change(None, "Node node-1")}, Delta()))
    with caplog.at_level(logging.INFO, "rulegen.agent"):
        for _ in range(3):
            assert observer.wait(0.0) is not None
            observer.act(0.0)
    assert observer.wait(0.0) is None
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
