"""A laboratory for rules: raw packets go through a real kernel in a namespace, and what became of each comes out.

Import `Lab`, `Packet`, `Outcome` and `Fate` from here; the pytest fixture is `make_lab` in `tests/lab/fixtures.py`.
"""

from tests.lab.lab import NODE_ADDRESSES, UPLINK, Lab, count_endpoints
from tests.lab.packets import NODE, Fate, Outcome, Packet

__all__ = ["NODE", "NODE_ADDRESSES", "UPLINK", "Fate", "Lab", "Outcome", "Packet", "count_endpoints"]
