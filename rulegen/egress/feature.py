"""Egress masquerading as a feature: objects in one by one, ranges that differ out, and what is probably wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from rulegen.config import NodeConfiguration
from rulegen.egress.model import NAME, Range, TakenRanges
from rulegen.egress.store import Store, pod_cidrs
from rulegen.errors import TargetError, shown
from rulegen.kube.objects import Node, ServiceCIDR
from rulegen.networks import parse_network
from rulegen.reconcile.feature import AnyCompiler, Need
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.tracked import Tracked
from rulegen.reference import Finding, ObjectReference, bounded


class Reason(StrEnum):
    """The stable words of findings."""

    NO_POD_RANGE = "EgressNoPodRange"
    UNUSABLE_FILE = "EgressUnusableFile"
    UNUSABLE_RANGE = "EgressUnusableRange"


_NO_POD_RANGE = (
    "egress-masquerade: no pod range is known: the Node states no spec.podCIDRs, and there is no clusterCIDR in the "
    "configuration"
)


class EgressMasquerade:
    """See `reconcile.feature.Feature`; `store`: what is known of the cluster, for reading."""

    name = NAME
    kinds: Mapping[type, Need] = {Node: Need.SOON, ServiceCIDR: Need.SOON}

    def __init__(self, node: NodeConfiguration) -> None:
        self.store = Store(node)
        self.findings: Tracked[ObjectReference, tuple[Finding, ...]] = Tracked()
        self._unusable_file = node.egress.unusable
        self._own_node = ObjectReference("Node", "", node.node_name)
        self._own_findings: tuple[Finding, ...] = ()
        self._was_ready: bool | None = None

    def put(self, item: Any) -> None:
        """An object as it is now."""
        if isinstance(item, Node):
            self.store.put_node(item)
            self._find_about(ObjectReference.unidentified(item), pod_cidrs(item), "spec.podCIDRs")
        else:
            self.store.put_service_cidr(item)
            self._find_about(ObjectReference.unidentified(item), item.spec.cidrs, "spec.cidrs")

    def remove(self, reference: ObjectReference) -> None:
        """An object is gone."""
        if reference.kind == Node.__name__:
            self.store.remove_node(reference.name)
        else:
            self.store.remove_service_cidr(reference.name)
        self._find_about(reference.without_uid, (), "")

    def put_unreadable(self, reference: ObjectReference, error: str) -> bool:
        """It keeps the ranges that it had."""
        del reference, error
        return False

    @property
    def lacks(self) -> str:
        """See `reconcile.feature.WithConditions`."""
        return self._unusable_file or ("" if self.store.has_pods else _NO_POD_RANGE)

    def take(self) -> TakenRanges:
        """What differs from what was taken last. Until it is known whose traffic is meant, nothing does."""
        is_ready = not self.lacks
        self._find_about_own_node()
        context = None if is_ready is self._was_ready else is_ready
        self._was_ready = is_ready
        return TakenRanges(self.store.take() if is_ready else {}, context)

    def reference(self, item_id: Range) -> ObjectReference | None:
        """None: a range is refused with the table, not alone."""
        del item_id
        return None

    def title(self, item_id: Range) -> str:
        """`egress-masquerade, 10.244.0.0/16`."""
        return f"{NAME}, {item_id.cidr}"

    def observers(self, registry: Any) -> Sequence[Observer]:
        """What counts ranges, and what ends flows that began without them."""
        from rulegen.egress.connections import PodFlows
        from rulegen.egress.observer import FlowObserver, RangeMetrics

        return [RangeMetrics(registry), FlowObserver(PodFlows(self.store))]

    def compiler(self, driver: str, node: NodeConfiguration) -> AnyCompiler:
        """A compiler for a driver. Raises TargetError."""
        if driver == "nftables":
            from rulegen.egress.on_nftables.compiler import EgressTables

            return EgressTables(node.families)
        if driver == "iptables":
            from rulegen.egress.on_iptables.chains import EgressChains

            return EgressChains(node.families)
        raise TargetError(f"{self.name} does not exist on {driver}")

    # ---- findings ----

    def _find_about(self, reference: ObjectReference, cidrs: Sequence[str], field: str) -> None:
        found = bounded(
            Finding(reference, Reason.UNUSABLE_RANGE.value, f"{field}: expected a CIDR, got {shown(cidr)}; skipped")
            for cidr in cidrs
            if parse_network(cidr) is None
        )
        if reference == self._own_node:
            self._own_findings = found
        else:
            self.findings.set(reference, found or None)

    def _find_about_own_node(self) -> None:
        found = self._own_findings
        if self.lacks:
            reason = Reason.UNUSABLE_FILE if self._unusable_file else Reason.NO_POD_RANGE
            message = f"{self.lacks}; its rules stay as they are"
            found = (*found, Finding(self._own_node, reason.value, message, is_for_owner=True))
        self.findings.set(self._own_node, found or None)
