"""The fixture of the nftables target's kernel tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.nftables.host import Host, host_or_skip


@pytest.fixture(scope="module")
def _module_host() -> Iterator[Host]:
    with host_or_skip() as host:
        yield host


@pytest.fixture
def host(_module_host: Host) -> Host:
    """A kernel without rules."""
    _module_host.clear()
    return _module_host
