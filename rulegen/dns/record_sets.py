"""What a record set is to those who want some: plain values, text as in a zone file. No library, no server.

An entry is `RecordKey -> RecordSet`: an owner name and a type, and all records that there should be.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

# The name below a zone's origin where it is written down which of its records are ours.
REGISTRY = "_rulegen"


class RecordKey(NamedTuple):
    """A record set's place. `zone` and `owner`: absolute, in lower case, with the dot at the end; `type`: as `AAAA`."""

    zone: str
    owner: str
    type: str


class RecordSet(NamedTuple):
    """The records of one owner and type.

    `ttl`: seconds. `records`: their data in dnspython's own text, sorted, names absolute. `holder`: where in the
    registry of the zone it stands that the set is ours, relative to that; None: its records themselves say it.
    """

    ttl: int
    records: tuple[str, ...]
    holder: str | None


Entries: TypeAlias = dict[RecordKey, RecordSet]


class Zones(NamedTuple):
    """The zones that records are put into, absolute names. `reverse`: those for addresses."""

    forward: str
    reverse: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """The forward one first."""
        return (self.forward, *self.reverse)
