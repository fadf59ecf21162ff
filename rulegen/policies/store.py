"""The memory of the feature: objects in, and out what became different of what targets compile (`take`).

Whatever changes, only what it concerns is looked at. A pod belongs to a class of pods that no selector tells apart, and
a class finds its selectors through an index. Facts, not rules, come out: who is a member of which selector, which
policies isolate a pod of this node, what a policy's rules are. Decides nothing about packets and knows no target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from sys import intern
from typing import Any, NamedTuple, TypeAlias

from msgspec import Struct

from rulegen.config import Family
from rulegen.kube.objects import ClusterNetworkPolicy, Namespace, NetworkPolicy, Node, Pod
from rulegen.policies.model import (
    Address,
    AddressRange,
    Combination,
    Combinations,
    Direction,
    Isolation,
    PodPort,
    Policy,
    PolicyName,
    Rules,
    Tier,
    family_of,
)
from rulegen.policies.pods import (
    Claims,
    PodClass,
    PodRecord,
    addresses_of,
    named_ports,
    pack_labels,
    packed,
    rank_of,
    unpack_labels,
)
from rulegen.policies.ranges import collapse, parse_block, text_of
from rulegen.policies.reading import read_cluster_network_policy, read_network_policy, unreadable_policy
from rulegen.policies.selected import Selected, SelectorIndex
from rulegen.policies.selectors import (
    NAMESPACE_NAME,
    Labels,
    Operator,
    Selector,
    Selects,
    fulfils,
    index_keys,
)

# ---- what is handed on ----


class PeerSet(NamedTuple):
    """There are rules that name a selector. Its fact is the Selector."""

    id: str


class PortSet(NamedTuple):
    """There are rules that name a port by this name. Its fact is True."""

    name: str


class Members(NamedTuple):
    """Who came into sets and who left them: a `Membership`. Each is told once, and is nothing (None) the next time."""

    number: int


# A port at an address: the address, the protocol, the port.
PortPlace: TypeAlias = tuple[Address, str, int]


class Membership(Struct):
    """Members of selectors, by the selector's id, and places of ports, by the port's name.

    Of each, whether it came (or left). There are very many, so that nothing else is kept of them.
    """

    selected: dict[str, dict[Address, bool]] = {}
    ports: dict[str, dict[PortPlace, bool]] = {}

    def toggle(self, set_id: str, addresses: Iterable[Address], *, is_there: bool) -> None:
        """Addresses come into a set or leave it; what came and left again did nothing."""
        changes = self.selected.setdefault(set_id, {})
        for address in addresses:
            if changes.pop(address, None) is None:
                changes[address] = is_there
        if not changes:
            del self.selected[set_id]

    def toggle_port(self, name: str, place: PortPlace, *, is_there: bool) -> None:
        """The same of a port."""
        changes = self.ports.setdefault(name, {})
        if changes.pop(place, None) is None:
            changes[place] = is_there
        if not changes:
            del self.ports[name]


class PolicyRules(NamedTuple):
    """The rules of a policy in a direction. Its fact is a `Program`."""

    policy: PolicyName
    direction: Direction


class LocalPod(NamedTuple):
    """An address of one of this node's pods. Its fact is an `Isolation`."""

    address: Address


Id: TypeAlias = PeerSet | PortSet | Members | PolicyRules | LocalPod


PolicyObject: TypeAlias = Pod | Namespace | Node | NetworkPolicy | ClusterNetworkPolicy


class _Changes:
    """What became different since it was taken last: a fact that comes and goes in between is none."""

    def __init__(self) -> None:
        self._facts: dict[Id, Any] = {}
        self._before: dict[Id, Any] = {}
        self._number = 0
        self.membership = Membership()

    def note(self, id_: Id, before: object, after: object) -> None:
        """A fact has another value; None where it is not there."""
        before = self._before.setdefault(id_, before)
        if before == after:
            del self._before[id_]
            self._facts.pop(id_, None)
        else:
            self._facts[id_] = after

    def take(self) -> dict[Id, Any]:
        """What the facts are now, None for those that are no more."""
        taken, self._facts, self._before = self._facts, {}, {}
        if self.membership.selected or self.membership.ports:
            if self._number:
                taken[Members(self._number)] = None
            self._number += 1
            taken[Members(self._number)], self.membership = self.membership, Membership()
        return taken


class _PortGroup:
    """The pods that name the same ports."""

    __slots__ = ("addresses", "ports")

    def __init__(self, ports: tuple[PodPort, ...]) -> None:
        self.ports = ports
        self.addresses: set[Address] = set()


class _NamespaceState:
    """A namespace's labels, and its pods by class."""

    __slots__ = ("classes", "is_declared", "labels", "pods", "visible")

    def __init__(self, name: str, visible: set[str]) -> None:
        self.is_declared = False
        self.labels: dict[str, str] = {NAMESPACE_NAME: name}
        self.visible = visible
        self.pods: dict[str, PodRecord] = {}
        self.classes: dict[tuple[tuple[str, str], ...], PodClass] = {}


class _NodeState(Struct):
    labels: dict[str, str]
    addresses: tuple[Address, ...]


class Store:
    """Pods, namespaces, nodes and policies as one node sees them."""

    def __init__(self, node_name: str) -> None:
        self.node_name = node_name
        self.policies: dict[PolicyName, Policy] = {}
        self._namespaces: dict[str, _NamespaceState] = {}
        self._nodes: dict[str, _NodeState] = {}
        self._pod_ranges: tuple[AddressRange, ...] = ()
        self._claims = Claims()
        self._selected: dict[Selector, Selected] = {}
        # Few of them, usually none: a Node that says again how it is must not cost a look at all selectors.
        self._of_nodes: dict[Selected, None] = {}
        self._index = SelectorIndex()
        self._classes_with: dict[tuple[str, str], set[PodClass]] = {}
        # Labels that a selector has asked for at any time, by namespace where it was about only some; others tell no
        # pods apart.
        self._visible: set[str] = set()
        self._visible_in: dict[str, set[str]] = {}
        self._port_groups: dict[tuple[PodPort, ...], _PortGroup] = {}
        self._port_users: Counter[str] = Counter()
        self._changes = _Changes()
        self._local: set[Address] = set()
        self._lost: dict[Address, None] = {}
        self._disputed: set[Address] = set()

    def take(self) -> dict[Id, Any]:
        """What became different since the last call: the facts as they are now, None for those that are no more."""
        return self._changes.take()

    def take_lost(self) -> list[Address]:
        """Addresses that a pod has lost since the last call: connections of theirs are not the next owner's."""
        lost, self._lost = list(self._lost), {}
        return lost

    def put(self, item: PolicyObject) -> None:
        """An object of any kind came, or changed."""
        match item:
            case Pod():
                self.put_pod(item)
            case Namespace():
                self.put_namespace(item)
            case Node():
                self.put_node(item)
            case NetworkPolicy():
                self.put_policy(read_network_policy(item))
            case ClusterNetworkPolicy():
                self.put_policy(read_cluster_network_policy(item))

    # ---- questions ----

    def pod_ranges(self, family: Family) -> tuple[str, ...]:
        """The canonical CIDRs of which this node's pods have their addresses, as its Node says."""
        return tuple(text_of(block) for block in self._pod_ranges if family_of(block[0]) is family)

    def holder(self, address: Address) -> PodRecord | None:
        """The pod that an address is."""
        return self._claims.first(address)

    def pod(self, namespace: str, name: str) -> PodRecord | None:
        """A pod with an address, by its name."""
        state = self._namespaces.get(namespace)
        return None if state is None else state.pods.get(name)

    def is_member(self, selector: Selector, address: Address) -> bool:
        """Whether a selector that is in use selects an address."""
        selected = self._selected.get(selector)
        if selected is None:
            return False
        if selector.of is Selects.NODES:
            return address in selected.nodes
        record = self._claims.first(address)
        return record is not None and selected in record.pod_class.selected

    def isolation(self, address: Address) -> Isolation | None:
        """By what an address is isolated; None where it is no pod's."""
        record = self._claims.first(address)
        return None if record is None else self._isolation(record)

    def is_local(self, address: Address) -> bool:
        """Whether an address is one of this node's pods."""
        return address in self._local

    def local_pods(self) -> Iterator[tuple[Address, Isolation]]:
        """The addresses of this node's pods, with what isolates them."""
        for address in self._local:
            record = self._claims.first(address)
            if record is not None:
                yield address, self._isolation(record)

    def members(self, selector: Selector) -> list[Address]:
        """All that a selector selects that is in use."""
        selected = self._selected.get(selector)
        return [] if selected is None else selected.addresses()

    def port_places(self, name: str) -> Iterator[PortPlace]:
        """Where a port has this name."""
        for ports, group in self._port_groups.items():
            for port in ports:
                if port.name == name:
                    yield from ((address, port.protocol, port.port) for address in group.addresses)

    def isolated(self) -> Iterator[Address]:
        """The addresses of this node's pods that some policy isolates."""
        for address in self._local:
            record = self._claims.first(address)
            if record is not None and self._combinations(record.pod_class) != (None, None):
                yield address

    def claims(self, address: Address) -> tuple[PodRecord, ...]:
        """The pods that claim an address, the one that counts first."""
        return self._claims.of(address)

    def take_disputed(self) -> set[Address]:
        """The addresses that several pods claim, or claimed, about which something changed since the last call."""
        disputed, self._disputed = self._disputed, set()
        return disputed

    # ---- pods ----

    def put_pod(self, pod: Pod) -> None:
        """A pod came, or changed; one that has finished, or has no address of its own, is none."""
        metadata = pod.metadata
        addresses = addresses_of(pod)
        if not addresses:
            self.remove_pod(metadata.namespace, metadata.name)
            return
        labels = metadata.labels or {}
        ports = named_ports(pod)
        group = self._port_groups.get(ports)
        record = PodRecord(
            namespace=intern(metadata.namespace),
            name=metadata.name,
            uid=metadata.uid,
            addresses=addresses,
            labels=pack_labels(labels),
            ports=ports if group is None else group.ports,
            is_local=pod.spec is not None and pod.spec.node_name == self.node_name != "",
            rank=rank_of(pod),
            pod_class=self._class_of(metadata.namespace, labels),
        )
        pods = self._namespaces[record.namespace].pods
        old = pods.get(record.name)
        pods[record.name] = record
        self._replace(old, record)

    def remove_pod(self, namespace: str, name: str) -> None:
        """A pod went."""
        state = self._namespaces.get(namespace)
        if state is not None:
            self._replace(state.pods.pop(name, None), None)

    def _replace(self, old: PodRecord | None, new: PodRecord | None) -> None:
        before, after = old.addresses if old else (), new.addresses if new else ()
        touched = {address: self._claims.of(address) for address in (*before, *after)}
        if old is not None:
            for address in before:
                self._claims.remove(address, old)
        if new is not None:
            for address in after:
                self._claims.add(address, new)
        for address, claims in touched.items():
            self._settle(address, claims)
        if old is not None:
            self._forget(old)

    def _settle(self, address: Address, before: tuple[PodRecord, ...]) -> None:
        """An address belongs to the first of those that claim it; `before`: those that did."""
        claims = self._claims.of(address)
        if len(claims) > 1 or len(before) > 1:
            self._disputed.add(address)
        old, new = before[0] if before else None, claims[0] if claims else None
        if new is old:
            return
        if old is not None:
            self._leave(address, old)
        if new is not None:
            self._enter(address, new)
        if old is not None and (new is None or (old.uid, str(old)) != (new.uid, str(new))):
            self._lost[address] = None
        self._note_holder(address, old, new)

    def _leave(self, address: Address, record: PodRecord) -> None:
        record.pod_class.addresses.discard(address)
        record.pod_class.local.discard(address)
        self._local.discard(address)
        group = self._port_groups[record.ports]
        group.addresses.discard(address)
        if not group.addresses:
            del self._port_groups[record.ports]

    def _enter(self, address: Address, record: PodRecord) -> None:
        record.pod_class.addresses.add(address)
        if record.is_local:
            record.pod_class.local.add(address)
            self._local.add(address)
        self._port_groups.setdefault(record.ports, _PortGroup(record.ports)).addresses.add(address)

    def _note_holder(self, address: Address, old: PodRecord | None, new: PodRecord | None) -> None:
        before = old.pod_class.selected if old is not None else set()
        after = new.pod_class.selected if new is not None else set()
        if before is not after:
            self._note_members(before - after, [address], is_member=False)
            self._note_members(after - before, [address], is_member=True)
        ports_before = set(old.ports) if old is not None else set()
        ports_after = set(new.ports) if new is not None else set()
        for port in ports_before ^ ports_after:
            if port.name in self._port_users:
                self._note_port(port, address, is_there=port in ports_after)
        was = self._isolation(old) if old is not None and old.is_local else None
        now = self._isolation(new) if new is not None and new.is_local else None
        if was is not now:
            self._changes.note(LocalPod(address), was, now)

    def _note_members(self, selectors: Iterable[Selected], addresses: Iterable[Address], *, is_member: bool) -> None:
        for selected in selectors:
            if selected.peers:
                self._changes.membership.toggle(selected.id, addresses, is_there=is_member)

    def _note_port(self, port: PodPort, address: Address, *, is_there: bool) -> None:
        self._changes.membership.toggle_port(port.name, (address, port.protocol, port.port), is_there=is_there)

    def _forget(self, record: PodRecord) -> None:
        """A class without a pod costs nothing."""
        pod_class = record.pod_class
        pod_class.pods -= 1
        if pod_class.pods:
            return
        namespace = self._namespaces[pod_class.namespace]
        key = _class_key(pod_class.labels)
        del namespace.classes[key]
        for selected in pod_class.selected:
            selected.classes.discard(pod_class)
        for label in key:
            self._classes_with[label].discard(pod_class)
            if not self._classes_with[label]:
                del self._classes_with[label]
        self._forget_namespace(pod_class.namespace)

    # ---- classes of pods ----

    def _class_of(self, namespace: str, labels: Labels) -> PodClass:
        """The class of pods with these labels, with one pod more."""
        state = self._namespace(namespace)
        visible = {key: value for key, value in labels.items() if key in self._visible or key in state.visible}
        key = _class_key(visible)
        pod_class = state.classes.get(key)
        if pod_class is None:
            pod_class = state.classes[key] = PodClass(namespace, visible)
            pod_class.selected = self._index.matching(state.labels, visible)
            for selected in pod_class.selected:
                selected.classes.add(pod_class)
            for label in key:
                self._classes_with.setdefault(label, set()).add(pod_class)
        pod_class.pods += 1
        return pod_class

    def _see(self, selector: Selector) -> None:
        """Pods are told apart by the labels that a selector asks for, too.

        That changes no fact, since no selector has asked for them before.
        """
        asked = {item.key for item in selector.labels} - self._visible
        names = _names_of(selector)
        if names is None:
            self._visible |= asked
            for state in self._namespaces.values():
                self._tell_apart(state, asked - state.visible)
            return
        for name in names:
            visible = self._visible_in.setdefault(name, set())
            new = asked - visible
            visible |= new
            if name in self._namespaces:
                self._tell_apart(self._namespaces[name], new)

    def _tell_apart(self, state: _NamespaceState, keys: Iterable[str]) -> None:
        """The pods of a namespace by labels that nobody has asked for there before."""
        for key in keys:
            encoded = key.encode()
            for record in state.pods.values():
                if encoded in record.labels:
                    self._classify_anew(record)

    def _classify_anew(self, record: PodRecord) -> None:
        held = [address for address in record.addresses if self._claims.first(address) is record]
        for address in held:
            self._leave(address, record)
        new_class = self._class_of(record.namespace, unpack_labels(record.labels))
        if new_class.combinations is None:
            # What was told of its pods before; should a policy be on its way, it looks at them afterwards.
            new_class.combinations = record.pod_class.combinations
        self._forget(record)
        record.pod_class = new_class
        for address in held:
            self._enter(address, record)

    def _isolation(self, record: PodRecord) -> Isolation:
        return Isolation(str(record), *self._combinations(record.pod_class))

    def _combinations(self, pod_class: PodClass) -> Combinations:
        if pod_class.combinations is None:
            names = {name for selected in pod_class.selected for name in selected.subjects}
            policies = sorted((self.policies[name] for name in names), key=lambda policy: policy.order)
            ingress, egress = (_combination(direction, policies) for direction in Direction)
            pod_class.combinations = ingress, egress
        return pod_class.combinations

    def _refresh(self, pod_class: PodClass) -> None:
        """The policies that select a class may be others now."""
        before, pod_class.combinations = pod_class.combinations, None
        if not pod_class.local or before is None:
            return
        after = self._combinations(pod_class)
        if before != after:
            for address in pod_class.local:
                pod = str(self._claims.first(address))
                self._changes.note(LocalPod(address), Isolation(pod, *before), Isolation(pod, *after))

    # ---- namespaces ----

    def put_namespace(self, item: Namespace) -> None:
        """A namespace came, or its labels changed."""
        name = item.metadata.name
        state = self._namespace(name)
        state.is_declared = True
        self._relabel(state, {**(item.metadata.labels or {}), NAMESPACE_NAME: name})

    def remove_namespace(self, name: str) -> None:
        """A namespace went; pods that are still there are in it until they go, too."""
        state = self._namespaces.get(name)
        if state is not None:
            state.is_declared = False
            self._relabel(state, {NAMESPACE_NAME: name})
            self._forget_namespace(name)

    def _namespace(self, name: str) -> _NamespaceState:
        state = self._namespaces.get(name)
        if state is None:
            visible = self._visible_in.setdefault(name, set())
            state = self._namespaces[name] = _NamespaceState(name, visible)
        return state

    def _forget_namespace(self, name: str) -> None:
        state = self._namespaces[name]
        if not state.classes and not state.is_declared:
            del self._namespaces[name]

    def _relabel(self, state: _NamespaceState, labels: dict[str, str]) -> None:
        if labels == state.labels:
            return
        state.labels = labels
        for pod_class in state.classes.values():
            before, after = pod_class.selected, self._index.matching(labels, pod_class.labels)
            pod_class.selected = after
            for selected in before - after:
                selected.classes.discard(pod_class)
            for selected in after - before:
                selected.classes.add(pod_class)
            self._note_members(before - after, pod_class.addresses, is_member=False)
            self._note_members(after - before, pod_class.addresses, is_member=True)
            self._refresh(pod_class)

    # ---- nodes ----

    def put_node(self, node: Node) -> None:
        """A node came, or changed."""
        status = node.status
        found = (packed(item.address) for item in (status.addresses if status else None) or ())
        addresses = tuple(dict.fromkeys(address for address in found if address is not None))
        if node.metadata.name == self.node_name and node.spec is not None:
            cidrs = node.spec.pod_cidrs or [node.spec.pod_cidr]
            stated = collapse(block for block in map(parse_block, cidrs) if block is not None)
            # A Node that was made anew states none for a moment, in which failClosed must not open anything.
            self._pod_ranges = stated or self._pod_ranges
        self._replace_node(node.metadata.name, _NodeState(node.metadata.labels or {}, addresses))

    def remove_node(self, name: str) -> None:
        """A node went."""
        self._replace_node(name, None)

    def _replace_node(self, name: str, new: _NodeState | None) -> None:
        old = self._nodes.pop(name, None)
        if new is not None:
            self._nodes[name] = new
        for selected in self._of_nodes:
            before = _selected_addresses(selected.selector, old)
            after = _selected_addresses(selected.selector, new)
            self._move_node(selected, before, after)

    def _move_node(self, selected: Selected, before: Iterable[Address], after: Iterable[Address]) -> None:
        nodes = selected.nodes
        was = {address for address in (*before, *after) if nodes[address]}
        nodes.subtract(before)
        nodes.update(after)
        for address in dict.fromkeys((*before, *after)):
            is_there = nodes[address] > 0
            if not is_there:
                del nodes[address]
            if is_there is not (address in was):
                self._note_members([selected], [address], is_member=is_there)

    # ---- policies ----

    def put_policy(self, policy: Policy) -> None:
        """A policy came, or changed."""
        self._replace_policy(policy.name, policy)

    def put_unreadable_policy(self, name: PolicyName, error: str) -> None:
        """A policy cannot be read: it accepts nothing for those that it was about, or may be about."""
        before = self.policies.get(name)
        self._replace_policy(name, unreadable_policy(name, error, before))

    def remove_policy(self, name: PolicyName) -> None:
        """A policy went."""
        self._replace_policy(name, None)

    def _replace_policy(self, name: PolicyName, new: Policy | None) -> None:
        old = self.policies.get(name)
        # What the new one needs is taken first: what both need stays as it is.
        concerned = self._take_in(new) if new is not None else set()
        if new is not None:
            self.policies[name] = new
        elif old is not None:
            del self.policies[name]
        if old is not None:
            concerned |= self._let_go(old, new)
        for direction in Direction:
            before = old.rules.get(direction) if old is not None else None
            after = new.rules.get(direction) if new is not None else None
            self._changes.note(PolicyRules(name, direction), before, after)
        for pod_class in concerned:
            self._refresh(pod_class)

    def _take_in(self, policy: Policy) -> set[PodClass]:
        """What a policy needs from now on; the classes that it is about."""
        subject = self._acquire(policy.subject)
        subject.subjects.add(policy.name)
        for direction, rules in policy.rules.items():
            for selector in _selectors_of(rules):
                selected = self._acquire(selector)
                is_first = not selected.peers
                selected.peers.add((policy.name, direction))
                if is_first:
                    self._changes.note(PeerSet(selected.id), None, selector)
                    self._note_members([selected], selected.addresses(), is_member=True)
            for name in _port_names_of(rules):
                self._port_users[name] += 1
                if self._port_users[name] == 1:
                    self._note_port_name(name, is_used=True)
        return set(subject.classes)

    def _let_go(self, policy: Policy, new: Policy | None) -> set[PodClass]:
        """What a policy does not need any more in its former form; the classes that it was about."""
        subject = self._selected[policy.subject]
        concerned = set(subject.classes)
        if new is None or new.subject != policy.subject:
            subject.subjects.discard(policy.name)
            self._release(subject)
        for direction, rules in policy.rules.items():
            kept = set(_selectors_of(new.rules.get(direction, ()))) if new is not None else set()
            for selector in _selectors_of(rules):
                if selector not in kept:
                    self._drop_peer(self._selected[selector], (policy.name, direction))
            for name in _port_names_of(rules):
                self._port_users[name] -= 1
                if not self._port_users[name]:
                    del self._port_users[name]
                    self._note_port_name(name, is_used=False)
        return concerned

    def _drop_peer(self, selected: Selected, user: tuple[PolicyName, Direction]) -> None:
        if selected.peers == {user}:
            self._note_members([selected], selected.addresses(), is_member=False)
            self._changes.note(PeerSet(selected.id), selected.selector, None)
        selected.peers.discard(user)
        self._release(selected)

    def _note_port_name(self, name: str, *, is_used: bool) -> None:
        self._changes.note(PortSet(name), not is_used or None, is_used or None)
        for group in self._port_groups.values():
            for port in group.ports:
                if port.name == name:
                    for address in group.addresses:
                        self._note_port(port, address, is_there=is_used)

    # ---- selectors ----

    def _acquire(self, selector: Selector) -> Selected:
        selected = self._selected.get(selector)
        if selected is not None:
            return selected
        selected = self._selected[selector] = Selected(selector)
        if selector.of is Selects.NODES:
            self._of_nodes[selected] = None
            for node in self._nodes.values():
                selected.nodes.update(_selected_addresses(selector, node))
            return selected
        self._see(selector)
        self._index.add(selected)
        for pod_class in self._candidates(selector):
            if fulfils(selector.labels, pod_class.labels):
                selected.classes.add(pod_class)
                pod_class.selected.add(selected)
        return selected

    def _candidates(self, selector: Selector) -> Iterator[PodClass]:
        """The classes that a selector may match, in the namespaces that it matches."""
        labels = [key for key in index_keys(selector.labels) if isinstance(key, tuple)]
        if labels and _names_of(selector) is None:
            for label in labels:
                for pod_class in self._classes_with.get(label, ()):
                    if fulfils(selector.namespaces, self._namespaces[pod_class.namespace].labels):
                        yield pod_class
            return
        for state in self._namespaces_of(selector):
            yield from state.classes.values()

    def _release(self, selected: Selected) -> None:
        if selected.is_used:
            return
        del self._selected[selected.selector]
        if selected.selector.of is Selects.NODES:
            del self._of_nodes[selected]
            return
        self._index.discard(selected)
        for pod_class in selected.classes:
            pod_class.selected.discard(selected)

    def _namespaces_of(self, selector: Selector) -> Iterator[_NamespaceState]:
        """The namespaces that a selector is about; one that names them looks at no other."""
        candidates = self._named(_names_of(selector))
        return (state for state in candidates if fulfils(selector.namespaces, state.labels))

    def _named(self, names: tuple[str, ...] | None) -> list[_NamespaceState]:
        """Namespaces by name, all of them without names, as far as there is one."""
        if names is None:
            return list(self._namespaces.values())
        return [self._namespaces[name] for name in names if name in self._namespaces]


def _names_of(selector: Selector) -> tuple[str, ...] | None:
    """The only namespaces that a selector can be about; None where it does not name them."""
    for item in selector.namespaces:
        if item.key == NAMESPACE_NAME and item.operator is Operator.IN:
            return item.values
    return None


def _class_key(labels: Labels) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def _combination(direction: Direction, policies: Iterable[Policy]) -> Combination | None:
    """The policies of a class, which come in order, as they are asked in one direction."""
    by_tier: dict[Tier, list[PolicyName]] = {tier: [] for tier in Tier}
    for policy in policies:
        if direction in policy.rules:
            by_tier[policy.tier].append(policy.name)
    network = tuple(by_tier[Tier.NETWORK_POLICY])
    baseline = () if network else tuple(by_tier[Tier.BASELINE])
    admin = tuple(by_tier[Tier.ADMIN])
    return Combination(direction, admin, network, baseline) if admin or network or baseline else None


def _selectors_of(rules: Rules) -> dict[Selector, None]:
    return {selector: None for rule in rules for selector in rule.selectors}


def _port_names_of(rules: Rules) -> set[str]:
    return {port.name for rule in rules if rule.ports is not None for port in rule.ports.named}


def _selected_addresses(selector: Selector, node: _NodeState | None) -> tuple[Address, ...]:
    return node.addresses if node is not None and fulfils(selector.labels, node.labels) else ()
