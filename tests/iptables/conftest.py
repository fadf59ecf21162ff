"""The tests of flows, with iptables rules in place of nftables ones: once for each variant."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.flows.conftest import shared_lab
from tests.flows.node import Way
from tests.flows.scene import Scene
from tests.iptables.node import NODES
from tests.lab import Lab
from tests.wrapped_programs import wrap

__all__ = ["shared_lab", "wrap"]

WAYS = {"nft": Way.RUNNING, "legacy": Way.RESTARTED, "python-iptables": Way.RUNNING}


@pytest.fixture(params=NODES)
def loaded(request: pytest.FixtureRequest) -> str:
    """How the rules of a node get into the kernel."""
    found: str = request.param
    if found == "python-iptables" and find_spec("iptc") is None:
        pytest.skip("python-iptables is not installed; in a guest of `make kernels` it never is")
    return found


@pytest.fixture
def _on_iptables(loaded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes that tests make have iptables rules."""
    for module in ("node", "scene", "test_random"):
        monkeypatch.setattr(f"tests.flows.{module}.ProxyNode", NODES[loaded])


@pytest.fixture
def scene(loaded: str, _on_iptables: None, shared_lab: Lab) -> Iterator[Scene]:
    """A Scene, with each in another way in which states follow one another; the rules are the same."""
    with Scene(shared_lab, WAYS[loaded]) as scene:
        yield scene


@pytest.fixture
def running(_on_iptables: None, shared_lab: Lab) -> Iterator[Scene]:
    """A Scene where it makes no difference in which way states follow one another."""
    with Scene(shared_lab, Way.RUNNING) as scene:
        yield scene
