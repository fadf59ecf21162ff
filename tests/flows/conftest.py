"""Scenes: a node whose cluster changes in steps, in both ways that a state can follow another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flows.node import Way
from tests.flows.scene import Scene
from tests.lab import Lab
from tests.lab.fixtures import lab_or_skip


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[Lab]:
    """One lab for all Scenes; each leaves it without rules, connections and additional addresses."""
    with lab_or_skip() as lab:
        for address in Scene.SECOND_ADDRESSES:
            lab.add_address(address)
        yield lab


@pytest.fixture(params=Way, ids=lambda way: way.value)
def scene(request: pytest.FixtureRequest, shared_lab: Lab) -> Iterator[Scene]:
    """A Scene for each way in which states follow one another."""
    with Scene(shared_lab, request.param) as scene:
        yield scene


@pytest.fixture
def running(shared_lab: Lab) -> Iterator[Scene]:
    """A Scene where it makes no difference in which way states follow one another."""
    with Scene(shared_lab, Way.RUNNING) as scene:
        yield scene
