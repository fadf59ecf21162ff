"""Explained packets come in; a graph of where each may go, and why, goes out."""

from __future__ import annotations

from collections.abc import Sequence

from rulegen.pictures.graph import Graph, Kind, Sketch, percent
from rulegen.services.explain.model import PacketExplanation
from rulegen.services.simulate import Fate

_MOST_ENDPOINTS = 30
_MOST_REASONS = 6


def packet_graph(explanations: Sequence[PacketExplanation]) -> Graph:
    """One packet for each family that was asked about."""
    sketch = Sketch()
    for explanation in explanations:
        _draw(sketch, explanation)
    first = explanations[0]
    return sketch.graph(f"{first.source} to {first.destination}")


def _draw(sketch: Sketch, explanation: PacketExplanation) -> None:
    place = (explanation.source, explanation.destination)
    interface = f"by interface {explanation.interface}" if explanation.interface else ""
    start = [name for name in explanation.names if name.startswith("from ")]
    end = [name for name in explanation.names if name.startswith("to ")]
    source = sketch.put((place, "source"), Kind.SOURCE, explanation.source, explanation.origin, *start, interface)
    destination = sketch.put((place, "to"), Kind.FRONTEND, explanation.destination, explanation.frontend, *end)
    sketch.connect(source, destination)
    is_refused = explanation.fate in {Fate.REJECTED.value, Fate.DROPPED.value}
    kind = Kind.REFUSED if is_refused else Kind.DECISION
    fate = sketch.put((place, "fate"), kind, explanation.fate, *explanation.reasons)
    sketch.connect(destination, fate)
    for why in explanation.why[:_MOST_REASONS]:
        remedies = [f"would work: {remedy}" for remedy in why.would_work]
        reason = sketch.put((place, why.cause, why.message), Kind.REASON, why.message, *remedies)
        sketch.connect(fate, reason, is_left_out=True)
    for delivery in explanation.deliveries[:_MOST_ENDPOINTS]:
        kind = Kind.LEFT_OUT if delivery.decision else Kind.ENDPOINT
        endpoint = sketch.put((place, "to", delivery.endpoint), kind, delivery.endpoint)
        masquerade = "masqueraded" if delivery.masquerade else ""
        sketch.connect(fate, endpoint, percent(delivery.probability), masquerade, delivery.decision)
    rest = explanation.deliveries[_MOST_ENDPOINTS:]
    if rest:
        more = sketch.put((place, "more"), Kind.ENDPOINT, f"{len(rest)} more endpoints")
        sketch.connect(fate, more, f"{percent(sum(one.probability for one in rest))} together")
