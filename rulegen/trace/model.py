"""What is told of a packet, as `-o json` writes it. Only values."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

# Of the documents; grows when a field changes its meaning or goes.
VERSION = 1


class Traced(Struct, frozen=True, rename="camel"):
    """Base of all parts."""


class Ends(Traced, frozen=True):
    """A packet's addresses and ports; ports are 0 where the protocol has none."""

    source: str
    source_port: int
    destination: str
    port: int


class DecisiveRule(Traced, frozen=True):
    """The rule that ended a chain. `position`: in it, from 1, 0 if it is gone; `words`: as its program writes it."""

    chain: str
    position: int
    handle: int
    comment: str
    words: str


class Step(Traced, frozen=True):
    """A chain with a hook, and those that it led to.

    `table` "": what conntrack or legacy iptables did, of which no rule tells.
    `verdict`: accept, drop, reject, queue or stolen; "" where nothing was told of it. `service`: whose rules these are,
    as `namespace/name:port`, where that is known. `rule`: None where a policy decided. `is_quiet`: no rule matched and
    the policy let it through.
    """

    table: str
    chains: tuple[str, ...]
    verdict: str
    service: str
    meaning: str
    rule: DecisiveRule | None = None
    is_quiet: bool = False


class TracedPacket(Traced, frozen=True):
    """A packet and its way. `fate`: balanced, rejected, dropped or untouched, as `rulegen explain` has it.

    `came_by` "": this node has sent it. `endpoint`, `new_source`: what destination and source have become, "" where
    they stayed. `end`: left, delivered, stopped or not seen again.
    """

    version: int
    type: Literal["packet"]
    family: str
    protocol: str
    packet: Ends
    came_by: str
    fate: str
    frontend: str
    endpoint: str
    new_source: str
    steps: tuple[Step, ...]
    end: str
    left_by: str
    reason: str


class TracedConnection(Traced, frozen=True):
    """What conntrack says of a connection that packets were followed of. `server`: who answers it.

    `is_answered`: a packet has come back; `is_tracked` False: conntrack has no such entry.
    """

    source: str
    destination: str
    protocol: str
    packets: int
    is_tracked: bool
    server: str
    is_answered: bool


class Summary(Traced, frozen=True):
    """The last document. `packets`: those that were followed; `not_followed`: those beyond the limit for a second.

    `lost`: how often the kernel had more to tell than there was room for.
    """

    version: int
    type: Literal["end"]
    packets: int
    not_followed: int
    lost: int
    connections: tuple[TracedConnection, ...]
    notes: tuple[str, ...]
