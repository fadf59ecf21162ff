"""Proofs come in, lines for people and a document for programs go out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from rulegen.errors import one_line
from rulegen.netfilter.machine import Ending, Fate, Outcome
from rulegen.netfilter.model import Family, Rule
from rulegen.netfilter.state import Path
from rulegen.verify.prove import Difference, Proof, address_text

_SHOWN_KINDS = 20
_SHOWN_ENDPOINTS = 4
_SHOWN_RULES = 12
_WORDS = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}


class FamilyProof(NamedTuple):
    """What was found of one family."""

    family: Family
    proof: Proof


class Report(NamedTuple):
    """`left`, `right`: who was compared, in words. `missing`: families that only one side has rules for.

    `uncovered`: what nothing is proved about.
    """

    left: str
    right: str
    proofs: Sequence[FamilyProof]
    missing: Sequence[str] = ()
    uncovered: Sequence[str] = ()

    @property
    def status(self) -> int:
        """0 equal, 1 different, 2 cannot be told."""
        if any(one.proof.different for one in self.proofs) or self.missing:
            return 1
        is_told = self.proofs and not any(one.proof.unknown or one.proof.undecided for one in self.proofs)
        return 0 if is_told and not self.uncovered else 2


def lines(report: Report) -> Iterator[str]:
    """For a person: of each family the numbers, then each kind of difference with its simplest packet."""
    yield f"{report.left}, compared with {report.right}"
    yield from report.missing
    yield from report.uncovered
    if not (report.proofs or report.missing or report.uncovered):
        yield "there are no rules to compare"
    for family, proof in report.proofs:
        equal = proof.classes - proof.different - proof.unsaid - proof.unknown.total() - proof.undecided
        parts = [f"{equal:,} of {proof.classes:,} classes of packets are equal", f"{proof.different:,} differ"]
        if proof.unsaid:
            parts.append(f"about {proof.unsaid:,} nothing is said")
        if proof.undecided:
            parts.append(f"of {proof.undecided:,} it cannot be told whether there is such a packet")
        yield f"{_WORDS[family]}: {', '.join(parts)}"
        for why, count in proof.unknown.most_common():
            yield f"  not understood, for {count:,} classes: {one_line(why)}"
        yield from _kinds(report, proof)


def _kinds(report: Report, proof: Proof) -> Iterator[str]:
    """What is not explained comes first."""
    groups: dict[tuple[object, ...], list[Difference]] = {}
    for difference in proof.differences:
        explanation = difference.explanation
        key = (difference.connection, *(_kind(side) for side in (difference.left, difference.right)))
        groups.setdefault((explanation,) if explanation else key, []).append(difference)
    ordered = sorted(groups.values(), key=lambda group: (bool(group[0].explanation), -len(group)))
    for number, group in enumerate(ordered):
        if number == _SHOWN_KINDS:
            yield f"  and {len(groups) - _SHOWN_KINDS} kinds more"
            return
        difference = group[0]
        count = proof.explained[difference.explanation] if difference.explanation else len(group)
        more = f"{count:,} classes, such as " if count > 1 else ""
        yield f"  {more}{_sentence(difference)}"
        if difference.explanation:
            yield f"    explained by {difference.explanation}"
        for name, endings in ((report.left, difference.left), (report.right, difference.right)):
            yield from _way(difference.family, name, endings)


def _kind(endings: Iterable[Ending]) -> frozenset[Outcome]:
    return frozenset(ending.outcome for ending in endings)


def _sentence(difference: Difference) -> str:
    sent = "sent by the node" if difference.is_sent else "arriving"
    return f"{difference.packet}, {sent}, {difference.connection.value}{_client(difference)}"


def _client(difference: Difference) -> str:
    memory = difference.memory
    if memory is None:
        return ""
    if isinstance(memory, tuple):
        return f", from a client remembered by {endpoint_text(difference.family, memory)}"
    return f", from a client remembered by {memory.value}"


def _way(family: Family, name: str, endings: Iterable[Ending]) -> Iterator[str]:
    told = set()
    for ending in endings:
        text = f"    {name}: {_in_words(family, ending)}"
        if text not in told:
            told.add(text)
            yield text
            rules = _rules(ending.path)
            yield from (f"      {one_line(rule)}" for rule in rules[-_SHOWN_RULES:])
            if not rules and ending.why:
                yield f"      {one_line(ending.why)}"


def _in_words(family: Family, ending: Ending) -> str:
    """Where packets go, and what becomes of them there."""
    return ", ".join([_place(family, ending), *_properties(ending)])


def _place(family: Family, ending: Ending) -> str:
    if ending.outcome.fate is not Fate.TRANSLATED:
        return str(ending.outcome.fate.value)
    shown = list(ending.endpoints.items())[:_SHOWN_ENDPOINTS]
    named = [
        f"{endpoint_text(family, endpoint)} ({float(share):.4g})" for endpoint, share in shown if endpoint is not None
    ]
    rest = len(ending.endpoints.endpoints) - len(shown)
    return "to " + ", ".join(named) + (f" and {rest} more" if rest else "")


def _properties(ending: Ending) -> Iterator[str]:
    outcome = ending.outcome
    if outcome.masqueraded:
        yield "masqueraded"
    if outcome.accepted:
        yield f"accepted at {' and '.join(outcome.accepted)}"
    if outcome.remembered is not None:
        yield f"remembered for {outcome.remembered} s"
    if outcome.touched:
        yield f"bits {outcome.touched:#x} of the mark changed"
    if outcome.is_priority_left:
        yield "a number left in the priority"
    if ending.relation is not None:
        yield "if the client is the endpoint" if ending.relation else "if the client is not the endpoint"
    if ending.is_local is not None:
        yield "an address of the node" if ending.is_local else "not an address of the node"


def endpoint_text(family: Family, endpoint: tuple[int, int]) -> str:
    """`address:port`, with brackets around an IPv6 address."""
    address = address_text(family, endpoint[0])
    return f"[{address}]:{endpoint[1]}" if family is Family.IPV6 else f"{address}:{endpoint[1]}"


def _rules(path: Path) -> list[str]:
    found = []
    while path is not None:
        step, path = path
        if isinstance(step, Rule):
            found.append(str(step))
    found.reverse()
    return found


def document(report: Report) -> dict[str, Any]:
    """For programs."""
    return {
        "left": report.left,
        "right": report.right,
        "result": ("equal", "different", "unknown")[report.status],
        "missing": list(report.missing),
        "uncovered": list(report.uncovered),
        "families": [_family_document(one) for one in report.proofs],
    }


def _family_document(one: FamilyProof) -> dict[str, Any]:
    proof = one.proof
    return {
        "family": _WORDS[one.family],
        "classes": proof.classes,
        "different": proof.different,
        "unsaid": proof.unsaid,
        "undecided": proof.undecided,
        "notUnderstood": dict(proof.unknown),
        "unexplained": proof.explained[""],
        "explained": {explanation: count for explanation, count in sorted(proof.explained.items()) if explanation},
        "differences": [_difference_document(difference) for difference in proof.differences],
    }


def _difference_document(difference: Difference) -> dict[str, Any]:
    packet, family = difference.packet, difference.family
    memory = difference.memory
    return {
        "packet": str(packet),
        "source": address_text(family, packet.source),
        "destination": address_text(family, packet.destination),
        "protocol": packet.protocol,
        "port": packet.port,
        "mark": packet.mark,
        "sentByNode": difference.is_sent,
        "connection": difference.connection.value,
        "rememberedBy": endpoint_text(family, memory) if isinstance(memory, tuple) else memory and memory.value,
        "explanation": difference.explanation,
        "left": [_ending_document(family, ending) for ending in difference.left],
        "right": [_ending_document(family, ending) for ending in difference.right],
    }


def _ending_document(family: Family, ending: Ending) -> dict[str, Any]:
    outcome = ending.outcome
    return {
        "fate": outcome.fate.value,
        "masqueraded": outcome.masqueraded,
        "accepted": list(outcome.accepted),
        "remembered": outcome.remembered,
        "markBitsTouched": outcome.touched,
        "priorityLeft": outcome.is_priority_left,
        "clientIsEndpoint": ending.relation,
        "endpointIsLocal": ending.is_local,
        "shares": {
            endpoint_text(family, endpoint): str(share)
            for endpoint, share in ending.endpoints.items()
            if endpoint is not None
        },
        "rules": _rules(ending.path),
        "reason": ending.why,
    }
