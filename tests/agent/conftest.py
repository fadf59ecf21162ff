"""The fixtures of the agent's tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rulegen.agent.http.server import HttpServer
from rulegen.demo.namespaces import NetworkNamespace
from rulegen.errors import HostError
from tests.agent.running import Playground
from tests.apiserver import ApiServer
from tests.nftables.host import host_or_skip
from tests.wrapped_programs import wrap

__all__ = ["wrap"]


@pytest.fixture
def playground(tmp_path: Path) -> Iterator[Playground]:
    with host_or_skip() as host:
        yield Playground(host, tmp_path)


@pytest.fixture
def api_server(playground: Playground) -> Iterator[ApiServer]:
    """In the playground's namespace."""
    with playground.namespace.entered():
        made = ApiServer()
        made.start()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def kubeconfig(api_server: ApiServer, tmp_path: Path) -> str:
    """How it is reached."""
    return api_server.kubeconfig(tmp_path / "kubeconfig")


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    try:
        made = NetworkNamespace()
    except HostError as error:
        pytest.skip(f"no network namespace here: {error}")
    with made:
        yield made


@pytest.fixture
def server(namespace: NetworkNamespace) -> Iterator[HttpServer]:
    with namespace.entered(), closing(HttpServer()) as made:
        yield made
