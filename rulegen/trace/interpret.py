"""A journey comes in, what is told of it goes out: each step in `rulegen explain`'s words, and how it ended.

What a chain means is asked of whose it is: rulegen's and kube-proxy's are told by their Services, others' by table,
chain and rule. Asks the kernel for the rules that the packet has met; decides nothing about packets.
"""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress

from rulegen.egress.model import NAME as EGRESS
from rulegen.egress.on_iptables.chains import PREFIX as EGRESS_PREFIX
from rulegen.errors import RulegenError, legible
from rulegen.iptables.chains import EntryKey
from rulegen.iptables.names import PREFIX as IPTABLES_PREFIX
from rulegen.live.frontends import (
    KUBE_PROXY,
    Frontends,
    frontend_words,
    iptables_kind,
    kube_proxy_chain,
    service_in,
)
from rulegen.nftables.messages import Connection
from rulegen.nftables.tables import table_name
from rulegen.policies.on_nftables.layout import FEATURE as POLICIES
from rulegen.services.on_iptables.annotate import annotate
from rulegen.services.on_nftables.layout import TABLE as SERVICES_TABLE
from rulegen.trace import policies
from rulegen.trace.journey import End, Journey, Met, Passage
from rulegen.trace.messages import Place
from rulegen.trace.model import VERSION, DecisiveRule, Ends, Step, TracedPacket
from rulegen.trace.packet import Packet
from rulegen.trace.rule_book import FAMILY_WORDS, RuleBook, family_of_table, is_iptables
from rulegen.trace.table import ARRIVES, FORWARDED, MARK, SENT, TO_NODE

_POLICIES_TABLE = table_name(POLICIES)
_EGRESS_TABLE = table_name(EGRESS)
_LEAVES_MASQUERADED = "egress masquerade: leaves with the node's address"
_KUBE_PROXY_PREFIX = "KUBE-"

# Why rulegen's rules for Services let a packet go no further, by the chain whose rule said so.
_REFUSALS = {
    "special": "its source is in none of the loadBalancerSourceRanges (SVC-51)",
    "no-endpoints": "no endpoint (SVC-36)",
    "no-endpoints-nodeport": "no endpoint (SVC-36)",
    "no-local-endpoints": "policy Local, and no endpoint on this node (SVC-37)",
    "external-local": "policy Local, and no endpoint on this node (SVC-37)",
}
_VERDICTS = {"drop": "dropped", "reject": "rejected", "queue": "handed to a program (queue)", "accept": "accepted"}
_UNSEEN = {
    ARRIVES: "after it arrived: no route to its destination, or none back to its source (rp_filter)",
    SENT: "after it was sent: no route to its destination",
    FORWARDED: "while it was being forwarded",
    TO_NODE: "on its way to a socket of this node",
}


class Interpreter:
    """Asks through a connection of its own thread. `legacy`: legacy iptables, which tells nothing, has rules."""

    def __init__(self, connection: Connection, *, legacy: bool) -> None:
        self._book = RuleBook(connection)
        self._frontends = Frontends(connection)
        self._legacy = legacy

    def told(self, journey: Journey) -> TracedPacket:
        """Of rules that cannot be read any more, the place is told."""
        self._book.refresh()
        steps, last = self._steps(journey)
        packet = journey.packet
        moved = (last.destination, last.port) != (packet.destination, packet.port)
        sourced = (last.source, last.source_port) != (packet.source, packet.source_port)
        words = [self._frontend(passage) for passage in journey.passages if not passage.is_waypoint]
        stopped = steps[-1] if steps and journey.end is End.STOPPED else None
        return TracedPacket(
            VERSION,
            "packet",
            packet.family.value,
            packet.protocol,
            Ends(packet.source, packet.source_port, packet.destination, packet.port),
            "" if journey.is_own else _interface(journey.incoming),
            _fate(stopped, moved=moved),
            next((word for _, word in words if word), ""),
            last.receiver if moved else "",
            last.sender if sourced else "",
            tuple(steps),
            journey.end.value,
            _interface(journey.outgoing) if journey.end is End.LEFT else "",
            self._reason(journey, stopped),
        )

    def _reason(self, journey: Journey, stopped: Step | None) -> str:
        """Why it did not arrive; "" if it did."""
        if stopped is not None:
            chain = stopped.rule.chain if stopped.rule else stopped.chains[0]
            return f"{_VERDICTS.get(stopped.verdict, stopped.verdict)} in chain {chain} of table {stopped.table}"
        if journey.end is not End.UNSEEN:
            return ""
        waypoint = next(passage.base.chain for passage in reversed(journey.passages) if passage.is_waypoint)
        if waypoint == MARK:
            waypoint = SENT if journey.is_own else ARRIVES
        legacy = "; or legacy iptables, whose rules tell nothing, has dropped it" if self._legacy else ""
        return f"not seen again {_UNSEEN.get(waypoint, 'after this')}{legacy}"

    # -- steps --

    def _steps(self, journey: Journey) -> tuple[list[Step], Packet]:
        """And the packet as it was seen last."""
        passages, before, since = journey.passages, journey.packet, 0
        # By the number of the passage: what it has changed, and what others had changed when it was reached.
        changes: dict[int, list[str]] = defaultdict(list)
        by_others: dict[int, list[str]] = defaultdict(list)
        for number, passage in enumerate(passages):
            for is_source, change in _changes(before, passage.packet):
                blamed = self._translator(passages[since:number], is_source=is_source)
                if blamed is None:
                    by_others[number].append(change)
                else:
                    changes[since + blamed].append(change)
            if passage.packet != before:
                before, since = passage.packet, number
        steps: list[Step] = []
        for number, passage in enumerate(passages):
            steps += map(self._by_others, by_others[number])
            if not passage.is_waypoint:
                steps.append(self._step(passage, changes[number]))
        return steps, before

    def _translator(self, passages: Sequence[Passage], *, is_source: bool) -> int | None:
        """Which of them has changed a packet: the last chain of type nat of which a rule decided."""
        for number in reversed(range(len(passages))):
            passage = passages[number]
            decided = passage.decisive is not None and passage.verdict == "accept"
            if decided and self._book.translates(passage.base) and _may_translate(passage, is_source=is_source):
                return number
        return None

    def _by_others(self, change: str) -> Step:
        who = "conntrack, as its connection is translated"
        return Step("", (), "", "", f"{change}: {who}{', or legacy iptables' if self._legacy else ''}")

    def _step(self, passage: Passage, changes: Sequence[str]) -> Step:
        service, frontend = self._frontend(passage)
        verdict, rule = passage.verdict, None
        if passage.decisive is not None:
            found = self._book.rule(passage.decisive.place, passage.decisive.handle)
            verdict = "reject" if verdict == "drop" and found.rejects else verdict
            words = "" if _is_known(passage.base) else self._book.words(passage.decisive.place, passage.decisive.handle)
            chain, handle = legible(passage.decisive.place.chain), passage.decisive.handle
            rule = DecisiveRule(chain, found.position, handle, legible(found.comment), legible(words))
        is_about_it = bool(changes) or verdict in {"drop", "reject"}
        what = (frontend if is_about_it else "", self._meaning(passage, verdict), *changes)
        meaning = "; ".join(filter(None, what))
        is_quiet = verdict in {"accept", ""} and not meaning and (rule is None or _is_known(passage.base))
        table = f"{FAMILY_WORDS.get(passage.base.family, '?')} {legible(passage.base.table)}"
        return Step(table, tuple(map(legible, passage.chains)), verdict, service, meaning, rule, is_quiet)

    def _frontend(self, passage: Passage) -> tuple[str, str]:
        """The Service, and its frontend in words, where a rule about it has decided."""
        base, asked = passage.base, passage.packet.frontend
        if passage.decisive is None or base.chain.lower().startswith(("postrouting", "input")):
            return "", ""
        if base.table == SERVICES_TABLE:
            return self._frontends.of_rulegen(asked)
        if base.table == KUBE_PROXY:
            service, kind = kube_proxy_chain(passage.chains)
            return (service, frontend_words(kind, asked, service)) if service else self._frontends.of_kube_proxy(asked)
        return self._iptables_frontend(passage) if is_iptables(base) else ("", "")

    def _iptables_frontend(self, passage: Passage) -> tuple[str, str]:
        rules = [rule for rule in passage.rules if _is_for_services(rule)]
        comments = [self._book.rule(rule.place, rule.handle).comment for rule in rules]
        service = next(filter(None, map(service_in, comments)), "")
        if not service:
            return "", ""
        return service, frontend_words(iptables_kind(passage.chains, comments), passage.packet.frontend, service)

    # -- what a step means --

    def _meaning(self, passage: Passage, verdict: str) -> str:
        base, rule = passage.base, passage.decisive
        if base.table == SERVICES_TABLE:
            return _of_services(passage, verdict)
        if base.table == _POLICIES_TABLE:
            said = policies.of_nftables(passage.chains, rule.place.chain if rule else "", verdict)
            return f"{said}: {_VERDICTS[verdict]}" if said and verdict != "accept" else said
        if base.table == _EGRESS_TABLE:
            return _LEAVES_MASQUERADED if rule else ""
        if rule is not None and rule.place.chain.startswith(IPTABLES_PREFIX) and is_iptables(base):
            return self._of_iptables(passage, rule, verdict)
        if verdict in {"accept", ""} and (rule is None or base.table == KUBE_PROXY):
            return ""
        return f"{'by its policy: ' if rule is None else ''}{_VERDICTS.get(verdict, verdict)}"

    def _of_iptables_policies(self, passage: Passage) -> str:
        """Of a packet that they let not through; what they do is no end of a built-in chain."""
        for rule in reversed(passage.rules):
            if policies.is_combination(rule.place.chain):
                comments = self._book.comments(rule.place, rule.handle)
                return policies.of_iptables(rule.place.chain, comments)
        return policies.of_iptables("", ())

    def _of_iptables(self, passage: Passage, rule: Met, verdict: str) -> str:
        """Of rulegen's own chains, whichever feature's they are."""
        if policies.is_of_iptables(rule.place.chain):
            return f"{self._of_iptables_policies(passage)}: {_VERDICTS.get(verdict, verdict)}"
        if rule.place.chain.startswith(EGRESS_PREFIX):
            return _LEAVES_MASQUERADED
        return self._of_iptables_services(rule)

    def _of_iptables_services(self, rule: Met) -> str:
        """What one of rulegen's rules means: `50 % to 10.128.0.5:8080`."""
        with suppress(RulegenError, ValueError):
            words = self._book.neighbours(rule.place, rule.handle)
            key = EntryKey(family_of_table(rule.place), rule.place.table, rule.place.chain)
            position = self._book.rule(rule.place, rule.handle).position
            return next(chain.rules[position - 1].meaning for chain in annotate([(key, tuple(words))]))
        return ""


def _of_services(passage: Passage, verdict: str) -> str:
    """Of rulegen's own chains."""
    packet, rule = passage.packet, passage.decisive
    if verdict in {"drop", "reject"} and rule is not None:
        unused = f"{packet.destination} is a ClusterIP without this port (SVC-67)"
        if verdict == "drop":
            unused = f"{packet.destination} is an address that no Service has (SVC-67)"
        return f"{_REFUSALS.get(rule.place.chain, unused)}: {_VERDICTS[verdict]}"
    return "masqueraded" if "marked" in passage.chains else ""


def _changes(before: Packet, after: Packet) -> Iterator[tuple[bool, str]]:
    """What has been translated between; whether it is the source, and in words."""
    if (before.destination, before.port) != (after.destination, after.port):
        yield False, f"to endpoint {after.receiver}"
    if (before.source, before.source_port) != (after.source, after.source_port):
        yield True, f"source becomes {after.sender}"


def _may_translate(passage: Passage, *, is_source: bool) -> bool:
    """By the name of its chain, where that says something: the source is translated on the way out."""
    name = passage.base.chain.lower()
    if "postrouting" in name or name == "input":
        return is_source
    return not is_source or not name.startswith(("prerouting", "output"))


def _is_known(base: Place) -> bool:
    """Whether its meaning says it better than its rules."""
    return base.table.startswith((SERVICES_TABLE, KUBE_PROXY))


def _is_for_services(rule: Met) -> bool:
    prefixes = (IPTABLES_PREFIX, _KUBE_PROXY_PREFIX)
    return rule.place.chain.startswith(prefixes) or rule.target.startswith(prefixes)


def _fate(stopped: Step | None, *, moved: bool) -> str:
    if stopped is not None:
        return _VERDICTS.get(stopped.verdict, stopped.verdict)
    return "balanced" if moved else "untouched"


def _interface(number: int) -> str:
    """Its name in the network namespace of the calling thread; its number where it is gone."""
    try:
        return legible(socket.if_indextoname(number)) if number else ""
    except OSError:
        return f"interface {number}"
