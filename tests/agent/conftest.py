"""The fixture of the agent's kernel tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.running import Playground
from tests.nftables.host import host_or_skip


@pytest.fixture
def playground(tmp_path: Path) -> Iterator[Playground]:
    with host_or_skip() as host:
        yield Playground(host, tmp_path)
