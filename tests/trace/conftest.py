"""Nodes with rulegen's rules, one for each target; and one whose rules are the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import Lab
from tests.lab.fixtures import lab_or_skip
from tests.trace.scene import apply


@pytest.fixture(scope="session")
def nftables_node() -> Iterator[Lab]:
    with lab_or_skip() as lab:
        apply(lab, "--target", "nftables")
        yield lab


@pytest.fixture(scope="session")
def iptables_node() -> Iterator[Lab]:
    with lab_or_skip() as lab:
        apply(lab, "--target", "iptables", "--iptables-variant", "nft")
        yield lab
