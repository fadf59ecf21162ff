"""The pytest fixtures of this folder; a test is skipped, with the reason, where namespaces are not allowed."""

from __future__ import annotations

import pytest

from rulegen.errors import HostError
from tests.policies.lab import Lab


def lab_or_skip() -> Lab:
    """The two nodes, without rules."""
    try:
        return Lab()
    except (HostError, PermissionError, FileNotFoundError) as error:
        pytest.skip(f"no lab here: {error}")
