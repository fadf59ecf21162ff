"""The nodes of the tests of traces."""

from __future__ import annotations

from tests.trace.conftest import iptables_node, nftables_node

__all__ = ["iptables_node", "nftables_node"]
