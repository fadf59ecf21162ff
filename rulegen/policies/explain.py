"""Addresses and ports come in; what policies say of a packet goes out, as values and as lines."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from rulegen.errors import printable
from rulegen.policies.model import Address, Direction, PolicyName, Rule
from rulegen.policies.pods import packed
from rulegen.policies.simulate import NO_HOST, Decision, Host, Packet, peers_text, ports_text, simulate
from rulegen.policies.store import Store
from rulegen.toned import TextLine, Tone


class DirectionExplanation(Struct, frozen=True, rename="camel"):
    """What one direction says. `pod`: whom the policies select, "" for none. `policies`: all that select it.

    `policy`, `rule`: which decide, "" where none does. `near`: rules that nearly accept. `remedy`: what would let it
    pass, "" where it passes.
    """

    direction: str
    pod: str
    allowed: bool
    reason: str
    policies: tuple[str, ...]
    policy: str
    rule: str
    near: tuple[str, ...]
    remedy: str


class PolicyExplanation(Struct, frozen=True, rename="camel"):
    """What policies say of the first packet of a connection, behind DNAT and before SNAT."""

    source: str
    destination: str
    allowed: bool
    directions: tuple[DirectionExplanation, ...]


def explain(
    store: Store, source: str, destination: str, protocol: str, port: int, host: Host = NO_HOST
) -> PolicyExplanation | None:
    """What policies say; addresses are canonical. `host`: the node itself. None for what is no address."""
    start, end = packed(source), packed(destination)
    if start is None or end is None:
        return None
    verdict = simulate(store, Packet(start, end, protocol, port), host)
    where = f"[{destination}]" if ":" in destination else destination
    return PolicyExplanation(
        _named(store, source, start),
        f"{_named(store, where, end)} port {port}/{protocol.lower()}" if port else f"{where} {protocol.lower()}",
        verdict.is_allowed,
        tuple(_direction(decision) for decision in verdict),
    )


def policies_isolating(store: Store, address: str) -> tuple[str, ...]:
    """The policies that say what may reach the pod at an address; none where all may, or where no pod is known."""
    subject = packed(address)
    isolation = None if subject is None else store.isolation(subject)
    combination = None if isolation is None else isolation.of(Direction.INGRESS)
    return () if combination is None else tuple(map(str, combination.policies))


def _named(store: Store, text: str, address: Address) -> str:
    record = store.holder(address)
    return text if record is None else f"{text} (pod {record})"


def _direction(decision: Decision) -> DirectionExplanation:
    return DirectionExplanation(
        decision.direction.value,
        decision.pod,
        decision.is_allowed,
        decision.reason.value,
        tuple(map(str, decision.policies)),
        _text(decision.policy),
        _rule(decision.rule),
        decision.near,
        decision.remedy,
    )


def _text(policy: PolicyName | None) -> str:
    return "" if policy is None else str(policy)


def _rule(rule: Rule | None) -> str:
    if rule is None:
        return ""
    return f"{rule.place or 'the whole policy'}: {peers_text(rule)}, {ports_text(rule)}"


def lines(explanation: PolicyExplanation) -> Iterator[TextLine]:
    """For people."""
    word = "allowed" if explanation.allowed else "denied"
    title = f"  network policies: {explanation.source} to {explanation.destination}: {word}"
    yield TextLine(title, Tone.GOOD if explanation.allowed else Tone.BAD)
    for part in explanation.directions:
        subject = f" of pod {part.pod}" if part.pod else ""
        yield TextLine(f"    {part.direction.lower()}{subject}: {part.reason}")
        if part.policy:
            yield TextLine(f"      {printable(part.policy)}, {part.rule}")
        elif part.policies:
            yield TextLine(f"      selected by {', '.join(part.policies)}")
        yield from (TextLine(f"      {words}") for words in part.near)
        if part.remedy:
            yield TextLine(f"      would pass with {part.remedy}")


def denials(explanation: PolicyExplanation) -> Iterator[tuple[str, str]]:
    """For each direction that denies, a sentence that says why, and what would let it pass."""
    for part in explanation.directions:
        if part.allowed:
            continue
        selected = f"selected by {', '.join(part.policies)}" if part.policies else ""
        by = ": ".join(filter(None, (part.reason, part.policy or selected))) + (f", {part.rule}" if part.rule else "")
        subject = f" of pod {part.pod}" if part.pod else ""
        sentence = (
            f"{explanation.source} to {explanation.destination} is denied, {part.direction.lower()}{subject}: {by}"
        )
        yield printable(sentence) if not sentence.isprintable() else sentence, part.remedy
