"""Where a packet may go comes in; what egress masquerading makes of it goes out, as values and as lines for people."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from msgspec import Struct

from rulegen.egress.simulate import decide
from rulegen.egress.store import Store


class EgressExplanation(Struct, frozen=True, rename="camel"):
    """What becomes of the source of the first packet of a connection, behind DNAT."""

    source: str
    destination: str
    masqueraded: bool
    reason: str


def explain(
    store: Store, source: str, destinations: Iterable[str], node_addresses: Collection[str]
) -> Iterator[EgressExplanation]:
    """For each destination that nobody has translated the source for; addresses are canonical."""
    for destination in dict.fromkeys(destinations):
        decision = decide(store, source, destination, node_addresses)
        yield EgressExplanation(source, destination, decision.is_masqueraded, decision.reason)


def line(explanation: EgressExplanation) -> str:
    """For people."""
    word = "leaves with the node's address" if explanation.masqueraded else "source kept"
    return f"  egress masquerade to {explanation.destination}: {word}: {explanation.reason}"
