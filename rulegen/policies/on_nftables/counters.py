"""What the rules of nftables have denied, asked of the kernel: rules with their counters, no set. Changes nothing."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

from rulegen.config import Family
from rulegen.errors import HostError
from rulegen.netlink.messages import attributes, text_of
from rulegen.netlink.nf_tables import EXPRESSION_DATA, EXPRESSION_NAME
from rulegen.nftables.messages import InterruptedDumpError, KernelError, open_connection
from rulegen.policies.denials import Denied
from rulegen.policies.model import Direction
from rulegen.policies.on_nftables.layout import LAYOUTS

# NFTA_COUNTER_PACKETS of linux/netfilter/nf_tables.h.
_PACKETS = 2
_DENIALS = {f"denied-{direction.word}\0".encode(): direction for direction in Direction}
_CLUSTER = "cluster-"


def read_denials() -> Iterator[Denied]:
    """By rule that leads to a denial. Raises HostError."""
    try:
        with closing(open_connection()) as connection:
            for family, layout in LAYOUTS.items():
                places: Counter[str] = Counter()
                for rule in connection.rules(family, layout.name):
                    yield from _denied(family, rule.chain, rule.expressions, places)
    except (InterruptedDumpError, KernelError, OSError) as error:
        raise HostError(f"cannot read the counters of rules: {error}") from error


def _denied(family: Family, chain: str, expressions: bytes, places: Counter[str]) -> Iterator[Denied]:
    packets, direction = None, None
    for _, expression in attributes(expressions):
        parts = dict(attributes(expression))
        name, data = text_of(parts[EXPRESSION_NAME]), parts.get(EXPRESSION_DATA, b"")
        if name == "counter":
            (packets,) = struct.unpack("!Q", dict(attributes(data))[_PACKETS])
        elif name == "immediate":
            direction = next((found for word, found in _DENIALS.items() if word in data), None)
    if packets is not None and direction is not None:
        places[chain] += 1
        policy = chain.split("/")[1] if chain.startswith(_CLUSTER) else ""
        yield Denied(family, direction, f"{chain} {places[chain]}", policy, packets)
