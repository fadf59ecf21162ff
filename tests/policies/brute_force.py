"""An Enforcer that needs no compiler: one set of all packets of the table that the oracle denies on a node.

What it does to packets is right by construction. It shows that the tests of changes pass where they should; in its
careless variants, which leave a gap between old and new rules, that they fail.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from enum import Enum

from tests.policies.cluster import PROBES
from tests.policies.documents import Document
from tests.policies.lab import Lab
from tests.policies.oracle import Oracle


class Care(Enum):
    """How new rules take the place of old ones."""

    ATOMIC = "atomic"
    # For a moment there are no rules.
    OPEN_BETWEEN = "open between"
    # For a moment everything is dropped.
    CLOSED_BETWEEN = "closed between"
    # Connections that are there end with each change.
    FORGETS = "forgets"


_CHAIN = "type filter hook forward priority 0"
_CLOSED = f"table inet brute {{ chain closed {{ {_CHAIN}; ip daddr != 198.51.100.1 drop; }}; }}\n"
_OPEN = "table inet brute\ndelete table inet brute\n"


class BruteForce:
    """On one node of a lab."""

    def __init__(self, lab: Lab, node: str, care: Care = Care.ATOMIC) -> None:
        self._lab = lab
        self._node = node
        self._care = care

    def apply(self, objects: Sequence[Document]) -> None:
        rules = "\n".join(self._rules(Oracle(objects)))
        if self._care is Care.OPEN_BETWEEN:
            self._nft(_OPEN)
        if self._care is Care.CLOSED_BETWEEN:
            self._nft(_CLOSED)
        self._nft(_OPEN + rules)
        if self._care is Care.FORGETS:
            self._lab.forget_connections()

    def close(self) -> None:
        """Nothing of it runs."""

    def _nft(self, text: str) -> None:
        with self._lab.entered(self._node):
            subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)

    def _rules(self, oracle: Oracle) -> Iterator[str]:
        yield "table inet brute {"
        for family, ip in ((4, "ip"), (6, "ip6")):
            denied = ", ".join(
                f"{probe.flow.source} . {probe.flow.destination} . {probe.protocol.lower()} . {probe.port}"
                for probe in PROBES
                if probe.family == family and not oracle.judge(probe.flow, self._node).allowed
            )
            yield f"  set denied-{family} {{ typeof {ip} saddr . {ip} daddr . meta l4proto . th dport"
            yield f"    elements = {{ {denied} }}; }}" if denied else "  }"
        yield f"  chain forward {{ {_CHAIN}"
        yield "    ct state established,related accept"
        yield "    ip saddr . ip daddr . meta l4proto . th dport @denied-4 drop"
        yield "    ip6 saddr . ip6 daddr . meta l4proto . th dport @denied-6 drop"
        yield "  }\n}"
