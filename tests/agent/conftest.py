"""The fixtures of the agent's kernel tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.running import Playground
from tests.apiserver import ApiServer
from tests.nftables.host import host_or_skip


@pytest.fixture
def playground(tmp_path: Path) -> Iterator[Playground]:
    with host_or_skip() as host:
        yield Playground(host, tmp_path)


@pytest.fixture
def server(playground: Playground) -> Iterator[ApiServer]:
    """An API server in the playground's namespace."""
    with playground.namespace.entered():
        made = ApiServer()
        made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def kubeconfig(server: ApiServer, tmp_path: Path) -> str:
    """How it is reached."""
    return server.kubeconfig(tmp_path / "kubeconfig")
