"""The spec of a policy comes in as plain values; a `Policy` goes out, with what is wrong in it beside it.

A policy that cannot be read must never open a pod. So nothing is raised: a requirement of the subject that cannot be
read is left out, which selects more pods; a direction with a fault accepts nothing. What is unsupported (the API may
grow) matches nobody in a rule that accepts, and everybody in one that denies or passes on, as the API asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from rulegen.errors import shown
from rulegen.kube.objects import ClusterNetworkPolicy, NetworkPolicy
from rulegen.policies.model import (
    ALL_PORTS,
    DENY_ALL,
    PROTOCOLS,
    Action,
    AddressRange,
    Direction,
    Fault,
    NamedPort,
    Policy,
    PolicyName,
    PortRange,
    Ports,
    Rule,
    Rules,
    Tier,
    closed_rules,
)
from rulegen.policies.ranges import collapse, parse_block, without
from rulegen.policies.selectors import (
    Operator,
    Requirement,
    Requirements,
    Selector,
    Selects,
    all_of,
    in_namespace,
    requirement,
)

T = TypeVar("T")

_MAX_FAULTS = 10
_MAX_PRIORITY = 1000
_RULE_FIELDS = {Direction.INGRESS: ("ingress", "from"), Direction.EGRESS: ("egress", "to")}


class _Faults:
    """Collects what is wrong in one object."""

    def __init__(self) -> None:
        self.found: list[Fault] = []

    def add(self, path: str, expected: str, value: object) -> None:
        """Notes one; a thousand are as good as ten."""
        if len(self.found) < _MAX_FAULTS:
            found = "nothing" if value is None else shown(value)
            self.found.append(Fault(path, f"expected {expected}, got {found}"))
        else:
            self.found[-1] = Fault("spec", "more faults than are shown")

    def mapping(self, value: object, path: str) -> Mapping[str, Any]:
        """`value` where it is an object, nothing where it is absent."""
        if isinstance(value, Mapping):
            return value
        if value is not None:
            self.add(path, "an object", value)
        return {}

    def items(self, value: object, path: str) -> Iterator[tuple[str, Any]]:
        """The items of an array with their paths; none where it is absent."""
        if isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                yield f"{path}[{index}]", item
        elif value is not None:
            self.add(path, "an array", value)

    def integer(self, value: object, path: str, bounds: tuple[int, int], what: str) -> int | None:
        """A whole number within bounds; None where it is none."""
        if isinstance(value, float) and value.is_integer():
            # 80.0 is 80 in the JSON that kubectl sends.
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and bounds[0] <= value <= bounds[1]:
            return value
        self.add(path, f"{what} from {bounds[0]} to {bounds[1]}", value)
        return None

    def one_of(self, value: object, path: str, choices: Sequence[str]) -> str | None:
        """One of some words; None where it is none."""
        if isinstance(value, str) and value in choices:
            return value
        self.add(path, " or ".join((", ".join(choices[:-1]), choices[-1])), value)
        return None


# ---- selectors ----

_OPERATORS = {operator.value: operator for operator in Operator}


def _requirements(value: object, path: str, faults: _Faults) -> Requirements:
    """The requirements of a LabelSelector, less those that cannot be read."""
    selector = faults.mapping(value, path)
    found = []
    labels = faults.mapping(selector.get("matchLabels"), f"{path}.matchLabels")
    for key, wanted in labels.items():
        if isinstance(wanted, str):
            found.append(requirement(key, Operator.IN, (wanted,)))
        else:
            faults.add(f"{path}.matchLabels[{shown(key)}]", "a string", wanted)
    for place, item in faults.items(selector.get("matchExpressions"), f"{path}.matchExpressions"):
        expression = _expression(item, place, faults)
        if expression is not None:
            found.append(expression)
    return all_of(found)


def _expression(value: object, path: str, faults: _Faults) -> Requirement | None:
    item = faults.mapping(value, path)
    key, values = item.get("key"), item.get("values")
    word = faults.one_of(item.get("operator"), f"{path}.operator", list(_OPERATORS))
    if not isinstance(key, str) or not key:
        faults.add(f"{path}.key", "the name of a label", key)
        return None
    if word is None:
        return None
    operator = _OPERATORS[word]
    listed = [item for _, item in faults.items(values, f"{path}.values")]
    if not all(isinstance(item, str) for item in listed):
        faults.add(f"{path}.values", "strings", next(item for item in listed if not isinstance(item, str)))
        return None
    takes_values = operator in {Operator.IN, Operator.NOT_IN}
    if takes_values is not bool(listed):
        faults.add(f"{path}.values", "at least one value" if takes_values else "no value", values)
        return None
    return requirement(key, operator, listed)


def _pods(namespaces: Requirements, labels: Requirements) -> Selector:
    return Selector(Selects.PODS, namespaces, labels)


# ---- ports ----


def _collapsed_ports(ranges: list[PortRange], named: list[NamedPort]) -> Ports:
    result: list[PortRange] = []
    for item in sorted(ranges, key=lambda part: (PROTOCOLS.index(part.protocol), part.first, part.last)):
        last = result[-1] if result else None
        if last is not None and last.protocol == item.protocol and item.first <= last.last + 1:
            result[-1] = last._replace(last=max(last.last, item.last))
        else:
            result.append(item)
    return Ports(tuple(result), tuple(sorted(set(named))))


def _network_policy_ports(value: object, path: str, faults: _Faults) -> Ports | None:
    ranges: list[PortRange] = []
    named: list[NamedPort] = []
    listed = list(faults.items(value, path))
    for place, item in listed:
        entry = faults.mapping(item, place)
        protocol = faults.one_of(entry.get("protocol") or "TCP", f"{place}.protocol", PROTOCOLS)
        if protocol is None:
            continue
        port, end = entry.get("port"), entry.get("endPort")
        if isinstance(port, str) and port and end is None:
            named.append(NamedPort(protocol, port))
        elif port is None and end is None:
            ranges.append(PortRange(protocol, *ALL_PORTS))
        elif (found := _port_range(port, end, place, faults)) is not None:
            ranges.append(PortRange(protocol, *found))
    return _collapsed_ports(ranges, named) if listed else None


def _port_range(port: object, end: object, path: str, faults: _Faults) -> tuple[int, int] | None:
    first = faults.integer(port, f"{path}.port", (1, 65535), "a port")
    if first is None or end is None:
        return None if first is None else (first, first)
    last = faults.integer(end, f"{path}.endPort", (first, 65535), "a port")
    return None if last is None else (first, last)


# ---- NetworkPolicies ----


def read_network_policy(item: NetworkPolicy) -> Policy:
    """A NetworkPolicy as it is enforced."""
    name = PolicyName(item.metadata.namespace, item.metadata.name)
    home = in_namespace(name.namespace)
    faults = _Faults()
    if not isinstance(item.spec, Mapping):
        faults.add("spec", "an object", item.spec)
    spec = item.spec if isinstance(item.spec, Mapping) else {}
    subject = _pods(home, _requirements(spec.get("podSelector"), "spec.podSelector", faults))
    rules: dict[Direction, Rules] = {}
    for direction in _directions(spec, faults):
        field, peers_field = _RULE_FIELDS[direction]
        before = len(faults.found)
        read = [
            _network_policy_rule(rule, (place, peers_field), home, faults)
            for place, rule in faults.items(spec.get(field), f"spec.{field}")
        ]
        rules[direction] = tuple(read) if len(faults.found) == before else ()
    return Policy(name=name, tier=Tier.NETWORK_POLICY, subject=subject, rules=rules, faults=tuple(faults.found))


def unreadable_policy(name: PolicyName, error: str, before: Policy | None) -> Policy:
    """A policy of which nothing can be read: it isolates, both ways, whom it was about before, or may be about."""
    is_namespaced = bool(name.namespace)
    anybody = _pods(in_namespace(name.namespace) if is_namespaced else (), ())
    return Policy(
        name=name,
        tier=Tier.NETWORK_POLICY if is_namespaced else Tier.ADMIN if before is None else before.tier,
        subject=anybody if before is None else before.subject,
        rules=dict.fromkeys(Direction, closed_rules(name)),
        priority=0 if before is None else before.priority,
        faults=(Fault("object", error),),
    )


def _directions(spec: Mapping[str, Any], faults: _Faults) -> list[Direction]:
    """Those of policyTypes; by default ingress, and egress where there is a rule for it. Both where it is unclear."""
    types = spec.get("policyTypes")
    before = len(faults.found)
    listed = {
        faults.one_of(item, place, [direction.value for direction in Direction])
        for place, item in faults.items(types, "spec.policyTypes")
    }
    if len(faults.found) > before or not isinstance(spec.get("egress") or [], list):
        return list(Direction)
    if listed:
        return [direction for direction in Direction if direction.value in listed]
    return [Direction.INGRESS, Direction.EGRESS] if spec.get("egress") else [Direction.INGRESS]


def _network_policy_rule(value: object, where: tuple[str, str], home: Requirements, faults: _Faults) -> Rule:
    path, peers_field = where
    rule = faults.mapping(value, path)
    selectors: list[Selector] = []
    blocks: list[AddressRange] = []
    listed = list(faults.items(rule.get(peers_field), f"{path}.{peers_field}"))
    for place, item in listed:
        peer = faults.mapping(item, place)
        if peer.get("ipBlock") is not None:
            if peer.get("podSelector") is not None or peer.get("namespaceSelector") is not None:
                faults.add(place, "ipBlock or selectors", "both")
            blocks += _ip_block(peer["ipBlock"], f"{place}.ipBlock", faults)
        elif (selector := _network_policy_peer(peer, place, home, faults)) is not None:
            selectors.append(selector)
    return Rule(
        anyone=not listed,
        selectors=tuple(dict.fromkeys(selectors)),
        blocks=collapse(blocks),
        ports=_network_policy_ports(rule.get("ports"), f"{path}.ports", faults),
        place=path.removeprefix("spec."),
    )


def _network_policy_peer(peer: Mapping[str, Any], path: str, home: Requirements, faults: _Faults) -> Selector | None:
    pods, namespaces = peer.get("podSelector"), peer.get("namespaceSelector")
    if pods is None and namespaces is None:
        faults.add(path, "podSelector, namespaceSelector or ipBlock", "none of them")
        return None
    where = home if namespaces is None else _requirements(namespaces, f"{path}.namespaceSelector", faults)
    return _pods(where, _requirements(pods, f"{path}.podSelector", faults))


def _ip_block(value: object, path: str, faults: _Faults) -> list[AddressRange]:
    block = faults.mapping(value, path)
    whole = _cidr(block.get("cidr"), f"{path}.cidr", faults)
    holes = [_cidr(item, place, faults) for place, item in faults.items(block.get("except"), f"{path}.except")]
    return [] if whole is None else without(whole, [hole for hole in holes if hole is not None])


def _cidr(value: object, path: str, faults: _Faults) -> AddressRange | None:
    found = parse_block(value) if isinstance(value, str) else None
    if found is None:
        faults.add(path, "a CIDR as in 10.0.0.0/8", value)
    return found


# ---- ClusterNetworkPolicies ----


def read_cluster_network_policy(item: ClusterNetworkPolicy) -> Policy:
    """A ClusterNetworkPolicy as it is enforced."""
    faults, unsupported = _Faults(), _Faults()
    if not isinstance(item.spec, Mapping):
        faults.add("spec", "an object", item.spec)
    spec = item.spec if isinstance(item.spec, Mapping) else {}
    # Where nobody can read which tier, or how important: the first to be asked.
    tier = faults.one_of(spec.get("tier"), "spec.tier", (Tier.ADMIN.value, Tier.BASELINE.value))
    priority = faults.integer(spec.get("priority"), "spec.priority", (0, _MAX_PRIORITY), "a number")
    is_readable = not faults.found
    subject = _subject(spec.get("subject"), faults)
    rules: dict[Direction, Rules] = {}
    for direction, (field, _) in _RULE_FIELDS.items():
        before = len(faults.found)
        read = [
            _ClusterRule(place, direction, faults, unsupported).read(rule)
            for place, rule in faults.items(spec.get(field), f"spec.{field}")
        ]
        if len(faults.found) > before or not is_readable:
            rules[direction] = (DENY_ALL,)
        elif read:
            rules[direction] = tuple(read)
    return Policy(
        name=PolicyName("", item.metadata.name),
        tier=Tier(tier or Tier.ADMIN.value),
        priority=priority or 0,
        subject=subject,
        rules=rules,
        faults=tuple(faults.found),
        unsupported=tuple(unsupported.found),
    )


def _subject(value: object, faults: _Faults) -> Selector:
    subject = faults.mapping(value, "spec.subject")
    known = {key: subject[key] for key in ("namespaces", "pods") if subject.get(key) is not None}
    if len(known) != 1:
        faults.add("spec.subject", "namespaces or pods", value)
        return _pods((), ())
    if "pods" in known:
        return _namespaced_pods(known["pods"], "spec.subject.pods", faults)
    return _pods(_requirements(known["namespaces"], "spec.subject.namespaces", faults), ())


def _namespaced_pods(value: object, path: str, faults: _Faults) -> Selector:
    pods = faults.mapping(value, path)
    return _pods(
        _requirements(pods.get("namespaceSelector"), f"{path}.namespaceSelector", faults),
        _requirements(pods.get("podSelector"), f"{path}.podSelector", faults),
    )


class _ClusterRule:
    """Reads one rule of a ClusterNetworkPolicy."""

    def __init__(self, path: str, direction: Direction, faults: _Faults, unsupported: _Faults) -> None:
        self._path = path
        self._peers = _RULE_FIELDS[direction][1]
        self._faults = faults
        self._unsupported = unsupported
        self._selectors: list[Selector] = []
        self._blocks: list[AddressRange] = []
        self._is_understood = True
        self._readers: dict[str, Callable[[object, str], None]] = {"namespaces": self._namespaces, "pods": self._pods}
        if direction is Direction.EGRESS:
            self._readers |= {"nodes": self._nodes, "networks": self._networks}

    def read(self, value: object) -> Rule:
        """The rule; one that accepts nobody has no peer."""
        rule = self._faults.mapping(value, self._path)
        word = self._faults.one_of(rule.get("action"), f"{self._path}.action", [action.value for action in Action])
        action = Action(word) if word else Action.DENY
        place = self._place(rule.get("name"))
        listed = list(self._faults.items(rule.get(self._peers), f"{self._path}.{self._peers}"))
        if not listed:
            self._faults.add(f"{self._path}.{self._peers}", "at least one peer", rule.get(self._peers))
        for where, item in listed:
            self._peer(item, where)
        ports = self._ports(rule.get("protocols"))
        if not self._is_understood and action is not Action.ACCEPT:
            return Rule(action=Action.DENY, anyone=True, place=place)
        selectors = tuple(dict.fromkeys(self._selectors))
        return Rule(action=action, selectors=selectors, blocks=collapse(self._blocks), ports=ports, place=place)

    def _place(self, name: object) -> str:
        place = self._path.removeprefix("spec.")
        return f"{place} ({shown(name)})" if isinstance(name, str) and name else place

    def _peer(self, value: object, path: str) -> None:
        peer = self._faults.mapping(value, path)
        fields = [field for field, found in peer.items() if found is not None]
        known = [field for field in fields if field in self._readers]
        for field in known:
            self._readers[field](peer[field], f"{path}.{field}")
        strange = [field for field in fields if field not in self._readers]
        for field in strange:
            self._unsupported.found.append(Fault(f"{path}.{shown(field)[1:-1]}", "is not supported"))
        if not fields:
            self._unsupported.found.append(Fault(path, "says no kind of peer that is known"))
        elif len(known) > 1:
            self._faults.add(path, "one kind of peer", " and ".join(known))
        if strange or not fields:
            self._is_understood = False

    def _namespaces(self, value: object, path: str) -> None:
        self._selectors.append(_pods(_requirements(value, path, self._faults), ()))

    def _pods(self, value: object, path: str) -> None:
        self._selectors.append(_namespaced_pods(value, path, self._faults))

    def _nodes(self, value: object, path: str) -> None:
        self._selectors.append(Selector(Selects.NODES, (), _requirements(value, path, self._faults)))

    def _networks(self, value: object, path: str) -> None:
        for place, item in self._faults.items(value, path):
            block = _cidr(item, place, self._faults)
            if block is not None:
                self._blocks.append(block)

    def _ports(self, value: object) -> Ports | None:
        ranges: list[PortRange] = []
        named: list[NamedPort] = []
        listed = list(self._faults.items(value, f"{self._path}.protocols"))
        for place, item in listed:
            entry = self._faults.mapping(item, place)
            name = entry.get("destinationNamedPort")
            known = [protocol for protocol in PROTOCOLS if entry.get(protocol.lower()) is not None]
            if isinstance(name, str) and name and not known:
                named.append(NamedPort("", name))
            elif len(known) == 1 and name is None:
                ranges += self._protocol(entry[known[0].lower()], place, known[0])
            else:
                self._unsupported.found.append(Fault(place, "says none of the protocols that are known, or several"))
                self._is_understood = False
        return _collapsed_ports(ranges, named) if listed else None

    def _protocol(self, value: object, path: str, protocol: str) -> list[PortRange]:
        path = f"{path}.{protocol.lower()}"
        entry = self._faults.mapping(value, path)
        if entry.get("destinationPort") is None:
            return [PortRange(protocol, *ALL_PORTS)]
        path = f"{path}.destinationPort"
        port = self._faults.mapping(entry["destinationPort"], path)
        if port.get("number") is not None:
            number = self._faults.integer(port["number"], f"{path}.number", (1, 65535), "a port")
            return [] if number is None else [PortRange(protocol, number, number)]
        between = self._faults.mapping(port.get("range"), f"{path}.range")
        first = self._faults.integer(between.get("start"), f"{path}.range.start", (1, 65535), "a port")
        last = self._faults.integer(between.get("end"), f"{path}.range.end", (first or 1, 65535), "a port")
        return [] if first is None or last is None else [PortRange(protocol, first, last)]
