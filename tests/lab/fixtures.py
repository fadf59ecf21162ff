"""The pytest fixtures of the lab; a test is skipped, with the reason, where namespaces are not allowed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Protocol

import pytest

from rulegen.demo.namespaces import NetworkNamespace
from rulegen.errors import HostError
from tests.lab.lab import Lab


def lab_or_skip(*args: Any, **named: Any) -> Lab:
    """A Lab; the arguments are those of Lab."""
    try:
        return Lab(*args, **named)
    except (HostError, PermissionError, FileNotFoundError) as error:
        pytest.skip(f"no lab here: {error}")


def namespace_or_skip() -> NetworkNamespace:
    """A network namespace with nothing in it."""
    try:
        return NetworkNamespace()
    except HostError as error:
        pytest.skip(f"no network namespace here: {error}")


class MakeLab(Protocol):
    """Makes a Lab that ends with the test; the arguments are those of Lab."""

    def __call__(self, *args: Any, **named: Any) -> Lab: ...


@pytest.fixture
def make_lab() -> Iterator[MakeLab]:
    """For tests that need a node of their own kind, or several."""
    with ExitStack() as made:

        def make(*args: Any, **named: Any) -> Lab:
            return made.enter_context(lab_or_skip(*args, **named))

        yield make


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    """A node with the usual interfaces and addresses."""
    return make_lab()
