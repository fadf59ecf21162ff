"""A packet comes in, with what the store knows; out comes whether policies let it pass, by which rule, or what lacks.

Follows the same facts that targets compile, without a kernel. A packet is seen as policies see it: behind DNAT and
before SNAT, the first of its connection.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from enum import Enum
from ipaddress import ip_address, ip_network
from typing import NamedTuple, Self

from msgspec import Struct

from rulegen.config import PolicySettings
from rulegen.policies.model import (
    ALL_PORTS,
    Action,
    Address,
    Combination,
    Direction,
    NamedPort,
    PodPort,
    PolicyName,
    PortRange,
    Rule,
    family_of,
)
from rulegen.policies.pods import packed
from rulegen.policies.ranges import text_of
from rulegen.policies.store import Store


class Packet(NamedTuple):
    """`protocol`: TCP, UDP, SCTP, or another one's name, for which `port` means nothing."""

    source: Address
    destination: Address
    protocol: str
    port: int = 0

    def peer(self, direction: Direction) -> Address:
        """The address at the other end, seen from the pod that is isolated."""
        return self.source if direction is Direction.INGRESS else self.destination

    def subject(self, direction: Direction) -> Address:
        """The address of the pod that is isolated in this direction."""
        return self.destination if direction is Direction.INGRESS else self.source


class Host(NamedTuple):
    """The node itself: `addresses` are its own. `node_input`: what pods send to it is asked about, too.

    `fail_closed`: pods of its ranges that nobody has told of are closed.
    """

    addresses: Collection[Address]
    node_input: bool
    fail_closed: bool

    @classmethod
    def of(cls, addresses: Iterable[str], settings: PolicySettings) -> Self:
        """From canonical addresses, and how policies are enforced there."""
        found = (packed(address) for address in addresses)
        return cls(
            frozenset(address for address in found if address is not None), settings.node_input, settings.fail_closed
        )


# Nobody has said whose node it is.
NO_HOST = Host(frozenset(), node_input=False, fail_closed=False)


class Reason(Enum):
    """Why a packet passes in a direction, or why not."""

    NO_POD = "is no pod that policies are about"
    ITSELF = "is the pod itself"
    FROM_ITS_NODE = "a node's packets to its own pods are not asked about"
    TO_ITS_NODE = "a pod's packets to its own node are not asked about (nodeInput)"
    NOT_ISOLATED = "no policy selects it"
    ACCEPTED = "accepted by a rule"
    NOTHING_DENIES = "no rule denies it, and no NetworkPolicy isolates it"
    UNTOLD = "is in a range of this node's pods, and nobody has told of the pod (failClosed)"
    DENIED = "denied by a rule"
    NO_RULE = "isolated, and no rule accepts it"


_DENYING = frozenset({Reason.UNTOLD, Reason.DENIED, Reason.NO_RULE})


# As a packet meets them; so the fields of a Verdict are.
_IN_ORDER = (Direction.EGRESS, Direction.INGRESS)


class Decision(Struct, frozen=True, kw_only=True):
    """What one direction says.

    `pod`: whom the policies select, "" for none. `policy` and `rule`: which decides, where one does. `policies`: all
    that select the pod. Of a packet that no rule accepts, `near`: the rules that nearly do; `remedy`: what would let it
    pass.
    """

    direction: Direction
    reason: Reason
    pod: str = ""
    policy: PolicyName | None = None
    rule: Rule | None = None
    policies: tuple[PolicyName, ...] = ()
    near: tuple[str, ...] = ()
    remedy: str = ""

    @property
    def is_allowed(self) -> bool:
        """Whether the packet passes."""
        return self.reason not in _DENYING


class Verdict(NamedTuple):
    """What both directions say; a packet needs both."""

    egress: Decision
    ingress: Decision

    @property
    def is_allowed(self) -> bool:
        """Whether the packet passes."""
        return self.egress.is_allowed and self.ingress.is_allowed


def simulate(store: Store, packet: Packet, host: Host = NO_HOST) -> Verdict:
    """What policies make of a packet, whichever node its pods are on; `host`: the node whose Store it is."""
    return Verdict(*(_Judge(store, packet, direction, host).decision() for direction in _IN_ORDER))


class _Judge:
    """Asks the policies of one direction."""

    def __init__(self, store: Store, packet: Packet, direction: Direction, host: Host) -> None:
        self._store = store
        self._packet = packet
        self._direction = direction
        self._host = host

    def decision(self) -> Decision:
        if self._is_closed():
            return Decision(direction=self._direction, reason=Reason.UNTOLD)
        isolation = self._store.isolation(self._packet.subject(self._direction))
        if isolation is None:
            return Decision(direction=self._direction, reason=Reason.NO_POD)
        combination = isolation.of(self._direction)
        if combination is None:
            return Decision(direction=self._direction, reason=Reason.NOT_ISOLATED, pod=isolation.pod)
        reason = self._unasked()
        if reason is not None:
            return self._decided(isolation.pod, combination, reason)
        return self._asked(isolation.pod, combination)

    def _is_closed(self) -> bool:
        """Whether failClosed holds for the subject; of what the node receives and sends as for policies."""
        subject, peer, host = self._packet.subject(self._direction), self._packet.peer(self._direction), self._host
        if not host.fail_closed or subject in host.addresses or self._store.is_local(subject):
            return False
        if peer in host.addresses and not (host.node_input and self._direction is Direction.EGRESS):
            return False
        ranges = map(ip_network, self._store.pod_ranges(family_of(subject)))
        return any(ip_address(subject) in one for one in ranges)

    def _unasked(self) -> Reason | None:
        """Why policies that isolate a pod are not asked."""
        packet, host = self._packet, self._host
        if packet.source == packet.destination:
            return Reason.ITSELF
        if self._store.is_local(packet.subject(self._direction)) and packet.peer(self._direction) in host.addresses:
            if self._direction is Direction.INGRESS:
                return Reason.FROM_ITS_NODE
            return None if host.node_input else Reason.TO_ITS_NODE
        return None

    def _asked(self, pod: str, combination: Combination) -> Decision:
        found = self._first(combination.admin)
        if found is None or found[1].action is Action.PASS:
            if combination.network:
                found = self._first(combination.network)
                if found is None:
                    return self._decided(pod, combination, Reason.NO_RULE)
            else:
                found = self._first(combination.baseline)
        if found is None or found[1].action is Action.PASS:
            return self._decided(pod, combination, Reason.NOTHING_DENIES)
        reason = Reason.ACCEPTED if found[1].action is Action.ACCEPT else Reason.DENIED
        return self._decided(pod, combination, reason, found)

    def _decided(
        self, pod: str, combination: Combination, reason: Reason, by: tuple[PolicyName, Rule] | None = None
    ) -> Decision:
        policy, rule = by or (None, None)
        remedy = ""
        near: tuple[str, ...] = ()
        if reason is Reason.NO_RULE:
            near = tuple(self._near(combination.network))
            remedy = f"{self._rule_wanted()} in {_one_of(combination.network)}"
        elif reason is Reason.DENIED and rule is not None:
            remedy = f"{self._rule_wanted()} that accepts, before {rule.place or 'the first rule'} of {policy}"
        return Decision(
            direction=self._direction,
            reason=reason,
            pod=pod,
            policy=policy,
            rule=rule,
            policies=combination.policies,
            near=near,
            remedy=remedy,
        )

    def _first(self, policies: tuple[PolicyName, ...]) -> tuple[PolicyName, Rule] | None:
        for name, rule in self._rules(policies):
            if self._matches_peer(rule) and self._matches_port(rule):
                return name, rule
        return None

    def _rules(self, policies: tuple[PolicyName, ...]) -> Iterator[tuple[PolicyName, Rule]]:
        for name in policies:
            for rule in self._store.policies[name].rules[self._direction]:
                yield name, rule

    # ---- does a rule match? ----

    def _matches_peer(self, rule: Rule) -> bool:
        peer = self._packet.peer(self._direction)
        return (
            rule.anyone
            or any(self._store.is_member(selector, peer) for selector in rule.selectors)
            or any(len(first) == len(peer) and first <= peer <= last for first, last in rule.blocks)
        )

    def _matches_port(self, rule: Rule) -> bool:
        if rule.ports is None:
            return True
        return any(self._is_in(item) for item in rule.ports.ranges) or any(map(self._is_named, rule.ports.named))

    def _is_in(self, ports: PortRange) -> bool:
        return ports.protocol == self._packet.protocol and ports.first <= self._packet.port <= ports.last

    def _is_named(self, named: NamedPort) -> bool:
        if named.protocol not in {"", self._packet.protocol}:
            return False
        record = self._store.holder(self._packet.destination)
        wanted = PodPort(named.name, self._packet.protocol, self._packet.port)
        return record is not None and wanted in record.ports

    # ---- in words ----

    def _near(self, policies: tuple[PolicyName, ...]) -> Iterator[str]:
        """Rules of which one half matches."""
        for name, rule in self._rules(policies):
            if self._matches_peer(rule):
                yield f"{name}, {rule.place}, accepts this peer, but only for {ports_text(rule)}"
            elif self._matches_port(rule):
                yield f"{name}, {rule.place}, accepts this port, but only with {peers_text(rule)}"

    def _rule_wanted(self) -> str:
        peer = self._packet.peer(self._direction)
        record = self._store.holder(peer)
        who = f"pod {record}" if record is not None else str(ip_address(peer))
        word = "from" if self._direction is Direction.INGRESS else "to"
        what = (
            f" on {self._packet.protocol} {self._packet.port}" if self._packet.port else f" of {self._packet.protocol}"
        )
        return f"an {self._direction.word} rule {word} {who}{what}"


def peers_text(rule: Rule) -> str:
    """The peers of a rule, for people."""
    if rule.anyone:
        return "everybody"
    parts = [*map(str, rule.selectors), *map(text_of, rule.blocks)]
    return " or ".join(parts) if parts else "nobody"


def ports_text(rule: Rule) -> str:
    """The ports of a rule, for people."""
    if rule.ports is None:
        return "every port"
    parts = [_range_text(item) for item in rule.ports.ranges]
    parts += [f"{item.protocol} port {item.name}".strip() for item in rule.ports.named]
    return " or ".join(parts) if parts else "no port"


def _range_text(item: PortRange) -> str:
    if (item.first, item.last) == ALL_PORTS:
        return item.protocol
    return f"{item.protocol} {item.first}" + (f"-{item.last}" if item.last > item.first else "")


def _one_of(policies: tuple[PolicyName, ...]) -> str:
    return str(policies[0]) if len(policies) == 1 else f"one of {', '.join(map(str, policies))}"
