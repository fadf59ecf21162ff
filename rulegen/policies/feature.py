"""Network policies as a feature: objects in one by one, facts that differ out, and what is probably wrong in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from rulegen.config import Family, NodeConfiguration
from rulegen.errors import TargetError
from rulegen.kube.objects import ClusterNetworkPolicy, Namespace, NetworkPolicy, Node, Pod, ServiceCIDR
from rulegen.policies.facts import PodRanges, PolicyFacts
from rulegen.policies.findings import (
    address_finding,
    masquerade_finding,
    pod_range_finding,
    policy_findings,
    policy_reference,
)
from rulegen.policies.model import Address, AddressRange, PolicyName, Rules, Tier, closed_rules
from rulegen.policies.ranges import parse_block
from rulegen.policies.store import PolicyRules, Store
from rulegen.reconcile.feature import AnyCompiler, Need
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.tracked import Tracked
from rulegen.reference import Finding, ObjectReference, bounded

if TYPE_CHECKING:
    from rulegen.policies.denials import DenialCounts

# Where a ClusterNetworkPolicy stands among the others.
Place: TypeAlias = tuple[Tier, int]


class NetworkPolicies:
    """See `reconcile.feature.Feature`."""

    name = "network-policies"
    kinds: Mapping[type, Need] = {
        Namespace: Need.FIRST,
        NetworkPolicy: Need.FIRST,
        Pod: Need.FIRST,
        ClusterNetworkPolicy: Need.FIRST,
        Node: Need.SOON,
        ServiceCIDR: Need.SOON,
    }

    def __init__(self, node: NodeConfiguration) -> None:
        self._node = node
        self.store = Store(node.node_name)
        self.findings: Tracked[ObjectReference, tuple[Finding, ...]] = Tracked()
        self._pod_ranges: PodRanges | None = None
        # Of ClusterNetworkPolicies: who has which priority, and about which of all policies something is to be found.
        self._same_priority: dict[Place, set[PolicyName]] = {}
        self._unseen: set[PolicyName] = set()
        self._unseen_places: set[Place] = set()
        self._services: dict[str, tuple[AddressRange, ...]] = {}
        self._disputed: dict[Address, ObjectReference] = {}
        # The same by the pod that holds them.
        self._disputes: dict[ObjectReference, set[Address]] = {}
        # Whose rules are asked what they have denied.
        self._driver = ""

    def put(self, item: Any) -> None:
        """An object as it is now."""
        match item:
            case NetworkPolicy() | ClusterNetworkPolicy():
                reference = ObjectReference.of(item)
                self._change_policy(PolicyName(reference.namespace, reference.name), lambda: self.store.put(item))
            case ServiceCIDR():
                cidrs = map(parse_block, item.spec.cidrs)
                self._set_services(item.metadata.name, tuple(block for block in cidrs if block is not None))
            case _:
                self.store.put(item)

    def remove(self, reference: ObjectReference) -> None:
        """An object is gone."""
        kind, namespace, name = reference[:3]
        match kind:
            case "Pod":
                self.store.remove_pod(namespace, name)
            case "Namespace":
                self.store.remove_namespace(name)
            case "Node":
                self.store.remove_node(name)
            case "ServiceCIDR":
                self._set_services(name, ())
            case "NetworkPolicy" | "ClusterNetworkPolicy":
                policy = PolicyName(namespace, name)
                self._change_policy(policy, lambda: self.store.remove_policy(policy))

    def put_unreadable(self, reference: ObjectReference, error: str) -> bool:
        """A policy that cannot be read isolates: its pods, or all that it could be about. Others mean what they did."""
        if reference.kind not in {"NetworkPolicy", "ClusterNetworkPolicy"}:
            return False
        policy = PolicyName(reference.namespace, reference.name)
        self._change_policy(policy, lambda: self.store.put_unreadable_policy(policy, error))
        return True

    def take(self) -> PolicyFacts:
        """What differs from what was taken last."""
        self._find_about_policies()
        self._find_disputes(self.store.take_disputed())
        ranges = {family: self.store.pod_ranges(family) for family in Family}
        context = None if ranges == self._pod_ranges else ranges
        if context is not None:
            self._pod_ranges = ranges
            self._find_about_node()
        return PolicyFacts(self.store.take(), context, tuple(self.store.take_lost()))

    def reference(self, item_id: Any) -> ObjectReference | None:
        """The policy, if it is its rules; the rest stands or falls with the table."""
        return policy_reference(item_id.policy) if isinstance(item_id, PolicyRules) else None

    def stand_in(self, item_id: Any) -> Rules | None:
        """Of a policy whose rules the kernel refuses: its pods are isolated in that direction, whatever was before."""
        return closed_rules(item_id.policy) if isinstance(item_id, PolicyRules) else None

    def title(self, item_id: Any) -> str:
        """How a message about a fact begins."""
        if isinstance(item_id, PolicyRules):
            return f"{item_id.policy} ({item_id.direction.value})"
        return "network policies"

    def observers(self, registry: Any) -> Sequence[Observer]:
        """What ends connections that must not live on, and counts denials where somebody asks."""
        from rulegen.policies.conntrack import PolicyConnections
        from rulegen.policies.observer import PolicyConnectionObserver

        connections = PolicyConnections(self.store, self._node.policies)
        counts = self._denial_counts()
        registry.register(counts)
        return [PolicyConnectionObserver(self.name, connections), counts]

    def _denial_counts(self) -> DenialCounts:
        from rulegen.policies.denials import DenialCounts

        if self._driver == "nftables":
            from rulegen.policies.names import combination_chain
            from rulegen.policies.on_nftables.counters import read_denials

            return DenialCounts(self.name, read_denials, combination_chain)
        from rulegen.policies.on_iptables import counters, names

        return DenialCounts(self.name, counters.read_denials, names.combination_chain)

    def compiler(self, driver: str, node: NodeConfiguration) -> AnyCompiler:
        """A compiler for a driver. Raises TargetError."""
        self._driver = driver
        if driver == "nftables":
            from rulegen.policies.on_nftables.compiler import PolicyCompiler

            return PolicyCompiler(node.families, node.policies)
        if driver == "iptables":
            from rulegen.policies.on_iptables.chains import PolicyChains

            return PolicyChains(node.families, node.policies)
        raise TargetError(f"{self.name} does not exist on {driver}")

    # ---- findings ----

    def _change_policy(self, name: PolicyName, change: Callable[[], None]) -> None:
        before = self._place(name)
        change()
        after = self._place(name)
        self._unseen.add(name)
        if before == after:
            return
        if before is not None:
            self._same_priority[before].discard(name)
            self._unseen_places.add(before)
        if after is not None:
            self._same_priority.setdefault(after, set()).add(name)
            self._unseen_places.add(after)

    def _place(self, name: PolicyName) -> Place | None:
        """None where a policy has no priority, or is none."""
        policy = self.store.policies.get(name)
        if policy is None or policy.tier is Tier.NETWORK_POLICY:
            return None
        return policy.tier, policy.priority

    def _find_about_policies(self) -> None:
        """Once for all that changed: a policy more of a priority is something else to say of each that has it."""
        for place in self._unseen_places:
            self._unseen |= self._same_priority[place]
            if not self._same_priority[place]:
                del self._same_priority[place]
        places = set(filter(None, map(self._place, self._unseen)))
        equal = {name: names for place in places for names in [sorted(self._same_priority[place])] for name in names}
        services = [block for blocks in self._services.values() for block in blocks]
        for name in self._unseen:
            policy = self.store.policies.get(name)
            found = policy_findings(policy, equal.get(name, ()), services) if policy is not None else ()
            self.findings.set(policy_reference(name), bounded(found) or None)
        self._unseen, self._unseen_places = set(), set()

    def _set_services(self, name: str, blocks: tuple[AddressRange, ...]) -> None:
        if blocks:
            self._services[name] = blocks
        else:
            self._services.pop(name, None)
        self._unseen.update(self.store.policies)

    def _find_disputes(self, addresses: Iterable[Address]) -> None:
        touched: set[ObjectReference] = set()
        for address in addresses:
            before = self._disputed.pop(address, None)
            if before is not None:
                self._disputes[before].discard(address)
                touched.add(before)
            claims = self.store.claims(address)
            if len(claims) > 1:
                holder = ObjectReference("Pod", claims[0].namespace, claims[0].name)
                self._disputed[address] = holder
                self._disputes.setdefault(holder, set()).add(address)
                touched.add(holder)
        for reference in touched:
            found = tuple(
                address_finding(address, self.store.claims(address)) for address in sorted(self._disputes[reference])
            )
            self.findings.set(reference, found or None)
            if not found:
                del self._disputes[reference]

    def _find_about_node(self) -> None:
        found = []
        if self._node.masquerade_all:
            found.append(masquerade_finding(self._node.node_name))
        if self._node.policies.fail_closed and not any(self._pod_ranges.values() if self._pod_ranges else ()):
            found.append(pod_range_finding(self._node.node_name))
        self.findings.set(ObjectReference("Node", "", self._node.node_name), tuple(found) or None)
