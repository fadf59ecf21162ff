"""The tests of flows, with iptables rules in place of nftables ones: once for each variant."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rulegen.iptables.binaries import Variant
from tests.flows.conftest import shared_lab
from tests.flows.node import Way
from tests.flows.scene import Scene
from tests.iptables.node import NODES
from tests.lab import Lab

__all__ = ["shared_lab"]

WAYS = {Variant.NFT: Way.RUNNING, Variant.LEGACY: Way.RESTARTED}


@pytest.fixture(params=Variant, ids=lambda variant: variant.value)
def variant(request: pytest.FixtureRequest) -> Variant:
    """A variant of iptables."""
    found: Variant = request.param
    return found


@pytest.fixture
def _on_iptables(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes that tests make have iptables rules."""
    for module in ("node", "scene", "test_random"):
        monkeypatch.setattr(f"tests.flows.{module}.ProxyNode", NODES[variant])


@pytest.fixture
def scene(variant: Variant, _on_iptables: None, shared_lab: Lab) -> Iterator[Scene]:
    """A Scene, in each variant in another way in which states follow one another; the rules are the same in both."""
    with Scene(shared_lab, WAYS[variant]) as scene:
        yield scene


@pytest.fixture
def running(_on_iptables: None, shared_lab: Lab) -> Iterator[Scene]:
    """A Scene where it makes no difference in which way states follow one another."""
    with Scene(shared_lab, Way.RUNNING) as scene:
        yield scene
