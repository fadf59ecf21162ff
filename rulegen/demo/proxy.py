"""The sample cluster, and the rules of the playground's node: objects in, Deltas out, applied to the node's kernel."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from rulegen.config import Family, NodeConfiguration
from rulegen.demo.namespaces import NetworkNamespace
from rulegen.demo.servers import Servers
from rulegen.kube.manifests import load
from rulegen.kube.objects import Endpoint
from rulegen.nftables.diff_text import diff_text
from rulegen.nftables.elements import EntryKey, Value
from rulegen.nftables.kernel import Kernel
from rulegen.nftables.transaction import Transaction, plan
from rulegen.reconcile.delta import Delta, diff
from rulegen.services.on_nftables.compiler import compile_ruleset
from rulegen.services.on_nftables.layout import LAYOUTS
from rulegen.services.on_nftables.names import names_in, owner_among
from rulegen.services.store import Store

_CLUSTER = Path(__file__).with_name("cluster.yaml")
_CONFIGURATION = NodeConfiguration(node_name="node-a", families=(Family.IPV4,), cluster_cidrs=("10.128.0.0/14",))


class Sample:
    """The sample cluster. `pods`: the names of the Pods by address."""

    def __init__(self) -> None:
        manifests = load([str(_CLUSTER)], None)
        self.store = Store(_CONFIGURATION)
        self.store.set_objects(manifests.objects())
        self._slices = {slice_.metadata.name: slice_ for slice_ in manifests.endpoint_slices}
        self.pods = {
            endpoint.addresses[0]: _pod_name(endpoint)
            for slice_ in manifests.endpoint_slices
            for endpoint in slice_.endpoints or ()
        }

    def serve(self, servers: Servers, pods: Mapping[str, NetworkNamespace]) -> None:
        """Starts a server for each endpoint, which says the Pod's name; `pods`: namespaces by address."""
        for service_port in self.store.service_ports():
            for backend in service_port.cluster_endpoints:
                address = backend.address
                servers.add(pods[address], self.pods[address], service_port.name.protocol, backend.port)

    def remove_pod(self, slice_name: str, pod: str) -> None:
        """A Pod leaves its slice."""
        slice_ = self._slices[slice_name]
        left = [endpoint for endpoint in slice_.endpoints or () if _pod_name(endpoint) != pod]
        self.store.set_slice(replace(slice_, endpoints=left))


@dataclass(frozen=True)
class Change:
    """What is to be changed in the kernel; `lines` say it, an entry each."""

    delta: Delta[EntryKey, Value]
    lines: tuple[str, ...]
    transaction: Transaction


class Proxy:
    """The rules of the node in a namespace. Raises HostError without the privilege or the kernel for them."""

    def __init__(self, store: Store, node: NetworkNamespace) -> None:
        self._store = store
        self._node = node
        with node.entered():
            self._kernel = Kernel()
            self._live = self._kernel.read(tuple(LAYOUTS.values()))
        changes = store.take_changes()
        self._compiler = compile_ruleset(
            store.service_ports(), changes.node, _CONFIGURATION.masquerade_bit, self._live.entries
        )

    def close(self) -> None:
        """Closes what leads to the kernel; the rules stay."""
        self._kernel.close()

    def plan_install(self) -> Change:
        """What the first apply changes."""
        desired = self._compiler.entries()
        return self._change(diff(self._live.entries, desired), desired)

    def plan_changes(self) -> Change:
        """What has changed in the cluster since the last plan."""
        changes = self._store.take_changes()
        delta, _ = self._compiler.update(changes.service_ports, changes.node)
        return self._change(delta)

    def apply(self, change: Change) -> float:
        """Commits a change; returns the seconds that it took. Raises ApplyError."""
        # Never outside: what a commit starts or opens belongs to the namespace where that happens.
        with self._node.entered():
            started = time.perf_counter()
            self._kernel.commit(change.transaction, self._live)
            return time.perf_counter() - started

    def _change(self, delta: Delta[EntryKey, Value], desired: Mapping[EntryKey, Value] | None = None) -> Change:
        lines = tuple(map(str, diff_text(delta, owner_among(names_in(self._compiler.entries())))))
        return Change(delta, lines, plan(delta, self._live, self._compiler.base_chains, desired))


def _pod_name(endpoint: Endpoint) -> str:
    return endpoint.target_ref.name if endpoint.target_ref else ""
