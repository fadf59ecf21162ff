"""What an administrator can choose about network policies. Plain values."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct


class Denial(Enum):
    """What becomes of a packet that no policy allows; the values are the configuration's."""

    DROP = "Drop"
    REJECT = "Reject"


class Settings(Struct, frozen=True, kw_only=True):
    """How policies are enforced.

    `strict`: connections that a changed policy forbids end, and cannot be picked up again. `fail_closed`: traffic of
    this node's pods that nobody has told of yet is dropped. `node_input`: egress policies hold for the node itself as
    a destination, too. `log_group`: the nflog group to which denials are told, None for none.
    """

    denial: Denial = Denial.DROP
    strict: bool = False
    fail_closed: bool = False
    node_input: bool = False
    log_group: int | None = None
