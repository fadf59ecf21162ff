"""rulegen at work on a lab's node: objects as they are now come in, its rules follow, as a proxy on a node would do.

Two ways, which must do the same: a proxy that keeps running and applies what changed, and one that starts anew for
each state and adopts what it finds in the kernel (`rulegen apply`).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from enum import Enum

from rulegen.config import NodeConfiguration
from rulegen.kube.objects import EndpointSlice, Node, Service, ServiceCIDR
from rulegen.nftables.kernel import Kernel
from rulegen.nftables.transaction import plan
from rulegen.reconcile.delta import diff
from rulegen.services.on_nftables.compiler import Compiler
from rulegen.services.on_nftables.layout import SPECS
from rulegen.services.store import Store
from tests.builders import Item
from tests.flows.world import World
from tests.lab import Lab
from tests.lab.fixtures import MakeLab


class Way(Enum):
    """How a state follows another."""

    RUNNING = "running"
    RESTARTED = "restarted"


class ProxyNode:
    """A lab with rulegen's rules. A context manager."""

    def __init__(self, lab: Lab, configuration: NodeConfiguration, way: Way = Way.RUNNING) -> None:
        self.lab = lab
        self._configuration = configuration
        self._way = way
        self._known: set[tuple[str, str, str]] = set()
        self._resources = ExitStack()
        with lab.entered():
            self._kernel = self._resources.enter_context(Kernel())
        self.restart()

    def __enter__(self) -> ProxyNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """The proxy ends; its rules stay."""
        self._resources.close()

    def cleanup(self) -> None:
        """Removes the rules."""
        with self.lab.entered():
            self._kernel.delete_tables(["rulegen"])

    def apply(self, items: Iterable[Item]) -> int:
        """The cluster is exactly these objects now. Returns how many entries changed."""
        items = list(items)
        if self._way is Way.RESTARTED:
            self.restart()
        for gone in self._known - {_key(item) for item in items}:
            self._remove(gone)
        self._store.set_objects(items)
        self._known = {_key(item) for item in items}
        return self._commit()

    def restart(self) -> None:
        """Forgets all but what is in the kernel."""
        self._store = Store(self._configuration)
        self._known = set()
        with self.lab.entered():
            self._live = self._kernel.read(SPECS)
        self._compiler = Compiler(self._configuration.families, self._configuration.masquerade_bit, self._live.entries)
        self._started = False

    def _commit(self) -> int:
        changes = self._store.take_changes()
        delta, errors = self._compiler.update(changes.service_ports, changes.node)
        assert not errors
        desired = None
        if not self._started:
            # What is live was another's work, so all of it is compared.
            desired = self._compiler.entries()
            delta = diff(self._live.entries, desired)
            self._started = True
        if delta:
            retimed = self._kernel.retimed(delta, SPECS)
            transaction = plan(delta, self._live, self._compiler.base_chains, desired, retimed)
            with self.lab.entered():
                self._kernel.commit(transaction, self._live)
        return len(delta)

    def _remove(self, key: tuple[str, str, str]) -> None:
        kind, namespace, name = key
        if kind == "Service":
            self._store.remove_service(namespace, name)
        elif kind == "EndpointSlice":
            self._store.remove_slice(namespace, name)
        elif kind == "ServiceCIDR":
            self._store.remove_service_cidr(name)


def _key(item: Item) -> tuple[str, str, str]:
    match item:
        case Service() | EndpointSlice():
            return type(item).__name__, item.metadata.namespace, item.metadata.name
        case Node() | ServiceCIDR():
            return type(item).__name__, "", item.metadata.name


def make_node(make_lab: MakeLab, world: World, way: Way = Way.RUNNING) -> ProxyNode:
    """A node as the world describes it, with its rules applied; it ends with the test's labs."""
    lab = make_lab(dict(world.interfaces), world.addresses, ipv6=world.ipv6_enabled)
    node = ProxyNode(lab, world.configuration(), way)
    node.apply(world.objects())
    return node
