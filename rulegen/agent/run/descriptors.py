"""How many files and sockets this process may have open, and who may have how many of them.

Health checks of Services want one for each port, family and address: as many as somebody makes Services. What the rules
and the agent's own pages need is kept for them.
"""

from __future__ import annotations

import resource
from typing import NamedTuple

# More than anybody needs; some hosts allow a thousand times as many.
_MOST = 1 << 20
# For the kernel, the API server, nft and iptables, the agent's own pages and files.
_RESERVE = 128
_CONNECTIONS = 512


class Shares(NamedTuple):
    """Connections of all HTTP clients together, and listeners of health checks."""

    connections: int
    listeners: int


def raise_limit() -> None:
    """The process may have as many as the host allows it, and not only as many as are usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def shares() -> Shares:
    """What the limit leaves when the rest has its reserve."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MOST if soft == resource.RLIM_INFINITY else soft
    connections = min(_CONNECTIONS, limit // 4)
    return Shares(connections, max(0, limit - _RESERVE - connections))
