"""A node's rules as the agent keeps them: objects come in, the reconciler is told of what differs, and of no more.

A node that starts anew finds the rules of the one before it in the kernel and adopts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from rulegen import features
from rulegen.config import NodeConfiguration, Target
from rulegen.config import PolicySettings as Settings
from rulegen.drivers import make_driver
from rulegen.errors import StaleError
from rulegen.iptables.binaries import Variant
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.reconciler import Reconciler, Sync
from rulegen.reference import ObjectReference
from tests.policies.decoding import decode
from tests.policies.documents import Document
from tests.policies.lab import Lab

POLICIES = "network-policies"
# Others' commits between reading and ours; each is told from ours.
_ATTEMPTS = 5


class Kept:
    """`entered`: enters the node's network namespace. `names`: of the features, besides those that are always on.

    `variant`: of iptables, None for nftables.
    """

    def __init__(
        self,
        entered: Callable[[], AbstractContextManager[None]],
        configuration: NodeConfiguration,
        *names: str,
        variant: Variant | None = None,
    ) -> None:
        self._entered = entered
        self._known: dict[tuple[type, ObjectReference], Any] = {}
        driver = make_driver(Target.IPTABLES if variant else Target.NFTABLES, variant)
        found = features.make(names, configuration)
        with ExitStack() as opened:
            with entered():
                kernel = opened.enter_context(driver.open())
                rules = kernel.rules(CompilerSet.of(found, driver.name, configuration))
            self.reconciler = Reconciler(found, rules)
            self._resources = opened.pop_all()

    def close(self) -> None:
        """The program ends; its rules stay."""
        self._resources.close()

    def keep(self, items: Iterable[Any]) -> Sync:
        """The cluster is exactly these objects now, and the rules say so."""
        wanted = {(type(item), ObjectReference.of(item).without_uid): item for item in items}
        for kind, reference in self._known.keys() - wanted.keys():
            self.reconciler.remove(kind, reference)
        for key, item in wanted.items():
            if self._known.get(key) != item:
                self.reconciler.put(item)
        self._known = wanted
        with self._entered():
            for _ in range(_ATTEMPTS - 1):
                try:
                    return self.reconciler.sync()
                except StaleError:
                    continue
            return self.reconciler.sync()


class KeptPolicies:
    """An Enforcer on one of a lab's two nodes."""

    def __init__(self, lab: Lab, node: str, settings: Settings | None = None, variant: Variant | None = None) -> None:
        configuration = NodeConfiguration(node_name=node, policies=settings or Settings())
        self._kept = Kept(lambda: lab.entered(node), configuration, POLICIES, variant=variant)

    def apply(self, objects: Sequence[Document]) -> None:
        sync = self._kept.keep(decode(objects))
        assert not sync.refused, sync.refused

    def close(self) -> None:
        self._kept.close()


class Restarted:
    """The same, ended and started anew before each state."""

    def __init__(self, lab: Lab, node: str, settings: Settings | None = None) -> None:
        self._arguments = lab, node, settings

    def apply(self, objects: Sequence[Document]) -> None:
        kept = KeptPolicies(*self._arguments)
        try:
            kept.apply(objects)
        finally:
            kept.close()

    def close(self) -> None:
        """Nothing of it runs."""
