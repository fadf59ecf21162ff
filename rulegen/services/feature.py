"""Services as a feature: Services, EndpointSlices, the Node and ServiceCIDRs come in, ServicePorts go out.

What the objects mean is the store's work; how ServicePorts become rules is that of `on_nftables` and `on_iptables`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rulegen.config import NodeConfiguration
from rulegen.errors import TargetError
from rulegen.kube.objects import EndpointSlice, Node, Pod, Service, ServiceCIDR
from rulegen.reconcile.delta import Change
from rulegen.reconcile.feature import AnyCompiler, Need
from rulegen.reconcile.reconciler import Sync
from rulegen.reconcile.tracked import Tracked
from rulegen.reference import Finding, ObjectReference
from rulegen.services.host_ports import HostPorts, asks_for_host_port
from rulegen.services.model import Changes, ServicePort, ServicePortKey
from rulegen.services.store import Store

NAME = "services"


class PodHostPorts(HostPorts):
    """Host ports, and what they are read from."""

    kinds: Mapping[type, Need] = {Pod: Need.OWN_NODE}

    @staticmethod
    def is_asked_for(item: Any) -> str:
        """The field by which an object asks for this feature; "" for none."""
        return "hostPort" if isinstance(item, Pod) and asks_for_host_port(item) else ""


class ServicesFeature:
    """See `reconcile.feature.Feature`; `store`: what is known of the cluster, for reading."""

    name = NAME
    kinds: Mapping[type, Need] = {
        Service: Need.FIRST,
        EndpointSlice: Need.FIRST,
        ServiceCIDR: Need.SOON,
        Node: Need.OWN_NODE,
    }

    def __init__(self, configuration: NodeConfiguration) -> None:
        self._host_ports: HostPorts | None = None
        self.node_name = configuration.node_name
        self.store = Store(configuration)
        self.findings: Tracked[ObjectReference, tuple[Finding, ...]] = self.store.findings_of

    def extend(self, host_ports: PodHostPorts) -> None:
        """Pods' host ports are service-ports as well; to be called before the first object comes."""
        self._host_ports = self.store.host_ports = host_ports
        self.kinds = {**self.kinds, **host_ports.kinds}

    def put(self, item: Any) -> None:
        """See `Feature`."""
        if self._host_ports is not None and isinstance(item, Pod):
            self._host_ports.put(item)
        else:
            self.store.set_object(item)

    def remove(self, reference: ObjectReference) -> None:
        """See `Feature`; that a Node is gone changes nothing (SVC-35)."""
        if reference.kind == Service.__name__:
            self.store.remove_service(reference.namespace, reference.name)
        elif reference.kind == EndpointSlice.__name__:
            self.store.remove_slice(reference.namespace, reference.name)
        elif reference.kind == ServiceCIDR.__name__:
            self.store.remove_service_cidr(reference.name)
        elif self._host_ports is not None and reference.kind == Pod.__name__:
            self._host_ports.remove(reference.namespace, reference.name)

    def put_unreadable(self, reference: ObjectReference, error: str) -> bool:
        """See `Feature`; without a Service its slices mean nothing, so that these keep nothing."""
        del error
        return reference.kind not in {Service.__name__, Pod.__name__}

    def take(self) -> Changes:
        """See `Feature`."""
        return self.store.take_changes()

    def reference(self, item_id: ServicePortKey) -> ObjectReference:
        """The Service, or what else the service-port comes from."""
        name = item_id[0]
        if name.kind == Service.__name__:
            return self.store.reference((name.namespace, name.name))
        return ObjectReference(name.kind, name.namespace, name.name)

    def title(self, item_id: ServicePortKey) -> str:
        """`Service default/web:http (IPv4)`."""
        return f"{item_id[0].title} ({item_id[1].value})"

    def compiler(self, driver: str, node: NodeConfiguration) -> AnyCompiler:
        """See `Feature`."""
        if driver == "nftables":
            from rulegen.services.on_nftables.tables import ServiceTables

            return ServiceTables(node)
        if driver == "iptables":
            from rulegen.services.on_iptables.chains import ServiceChains

            return ServiceChains(node)
        raise TargetError(f"Services have no rules for {driver}")


def service_ports_of(sync: Sync) -> dict[ServicePortKey, Change[ServicePort | None]]:
    """The ServicePorts that are in force since a sync, and were not, or not so, before."""
    return sync.features[NAME].items


def changes_of(sync: Sync) -> Changes:
    """All that the store has handed on since the sync before."""
    changes: Changes = sync.features[NAME].taken
    return changes
