"""Pods and ports as a person writes them come in; what policies say of a packet goes out, as values and as lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address

from msgspec import Struct

from rulegen.errors import InputError, printable, shown
from rulegen.policies.model import Address, PolicyName, Rule
from rulegen.policies.pods import PodRecord, packed
from rulegen.policies.simulate import Decision, Packet, peers_text, ports_text, simulate
from rulegen.policies.store import Store

_POD = re.compile(r"(?P<namespace>[a-z0-9-]+)/(?P<name>[a-z0-9.-]+)")
_POD_PORT = re.compile(rf"{_POD.pattern}:(?P<port>\d+)(?:/(?P<protocol>tcp|udp|sctp))?")


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


def pod_address(store: Store, text: str, like: Address | None = None) -> str | None:
    """The address of a pod, given as `default/web-1`; None for what is no pod's name. `like`: of the same family.

    Raises:
        InputError: there is no such pod, or it has no such address.
    """
    match = _POD.fullmatch(text)
    return None if match is None else _address_text(_pod(store, match, text), text, like)


def pod_destination(store: Store, text: str, like: Address | None = None) -> str | None:
    """`10.128.0.5:80/tcp` for `default/web-1:80`; None for what is none. Raises InputError, too."""
    match = _POD_PORT.fullmatch(text)
    if match is None:
        return None
    address = _address_text(_pod(store, match, text), text, like)
    where = f"[{address}]" if ":" in address else address
    return f"{where}:{match['port']}/{match['protocol'] or 'tcp'}"


def _pod(store: Store, match: re.Match[str], text: str) -> PodRecord:
    record = store.pod(match["namespace"], match["name"])
    if record is None:
        raise InputError(f"expected a pod with an address of its own, got {shown(text)}: there is none of this name")
    return record


def _address_text(record: PodRecord, text: str, like: Address | None) -> str:
    for address in record.addresses:
        if like is None or len(address) == len(like):
            return str(ip_address(address))
    raise InputError(f"the pod {shown(text)} has no address of the family that the other end has")


def explain(store: Store, source: str, destination: str, protocol: str, port: int) -> PolicyExplanation | None:
    """What policies say; addresses are canonical. None for what is no address."""
    start, end = packed(source), packed(destination)
    if start is None or end is None:
        return None
    verdict = simulate(store, Packet(start, end, protocol, port))
    where = f"[{destination}]" if ":" in destination else destination
    return PolicyExplanation(
        _named(store, source, start),
        f"{_named(store, where, end)} port {port}/{protocol.lower()}" if port else f"{where} {protocol.lower()}",
        verdict.is_allowed,
        tuple(_direction(decision) for decision in verdict),
    )


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


def lines(explanation: PolicyExplanation) -> Iterator[tuple[str, bool | None]]:
    """For people: each line, and whether it says that something passes; None for neither."""
    word = "allowed" if explanation.allowed else "denied"
    title = f"  network policies: {explanation.source} to {explanation.destination}: {word}"
    yield title, explanation.allowed
    for part in explanation.directions:
        subject = f" of pod {part.pod}" if part.pod else ""
        yield f"    {part.direction.lower()}{subject}: {part.reason}", None
        if part.policy:
            yield f"      {printable(part.policy)}, {part.rule}", None
        elif part.policies:
            yield f"      selected by {', '.join(part.policies)}", None
        yield from ((f"      {words}", None) for words in part.near)
        if part.remedy:
            yield f"      would pass with {part.remedy}", None
