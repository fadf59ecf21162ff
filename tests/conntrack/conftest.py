"""The fixture of the tests with packets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conntrack.scene import Scene


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A node without rules."""
    with Scene() as made:
        yield made
