"""Every test of flows again, with iptables rules: the same packets, the same ends (D1).

In the part that is tried by default, each test has one of the variants of iptables, as the seed chooses.
"""

from __future__ import annotations

import pytest

from tests.flows import (
    test_affinity,
    test_balance,
    test_decisions,
    test_random,
    test_source_ranges,
    test_table,
    test_traps,
)

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("_on_iptables"), pytest.mark.part(2)]

# It is about the size of a map that nftables has.
_OF_NFTABLES = {"test_a_full_map_costs_the_affinity_and_never_the_service"}

for _module in (
    test_affinity,
    test_balance,
    test_decisions,
    test_random,
    test_source_ranges,
    test_table,
    test_traps,
):
    _tests = {name: value for name, value in vars(_module).items() if name.startswith("test_")}
    globals().update({name: test for name, test in _tests.items() if callable(test) and name not in _OF_NFTABLES})
