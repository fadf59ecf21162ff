"""The fixture of the nftables target's kernel tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rulegen.errors import HostError
from tests.nftables.host import Host, new_host


@pytest.fixture(scope="module")
def _module_host() -> Iterator[Host]:
    try:
        with new_host() as host:
            yield host
    except HostError as error:
        pytest.skip(f"no namespace with rules here: {error}")


@pytest.fixture
def host(_module_host: Host) -> Host:
    """A kernel without rules."""
    _module_host.clear()
    return _module_host
