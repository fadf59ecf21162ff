"""Services with the label `example.org/blocked` come in, the addresses that are not forwarded to go out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from rulegen.config import NodeConfiguration
from rulegen.errors import TargetError
from rulegen.kube.objects import Service
from rulegen.reconcile.feature import AnyCompiler, Need
from rulegen.reconcile.tracked import Tracked
from rulegen.reference import Finding, ObjectReference

LABEL = "example.org/blocked"


class TakenAddresses(NamedTuple):
    """Addresses by Service; None: none any more."""

    items: Mapping[ObjectReference, tuple[str, ...] | None]
    context: None = None

    def followed_by(self, later: Self) -> TakenAddresses:
        return TakenAddresses({**self.items, **later.items})


class BlockingFeature:
    """See `reconcile.feature.Feature`."""

    name = "blocking"
    kinds: Mapping[type, Need] = {Service: Need.FIRST}

    def __init__(self, configuration: NodeConfiguration) -> None:
        del configuration
        self.findings: Tracked[ObjectReference, tuple[Finding, ...]] = Tracked()
        self._addresses: Tracked[ObjectReference, tuple[str, ...]] = Tracked()

    def put(self, item: Any) -> None:
        is_blocked = LABEL in (item.metadata.labels or {})
        addresses = tuple(item.spec.cluster_ips or ()) if is_blocked else ()
        reference = ObjectReference.of(item)
        self._addresses.set(reference.without_uid, addresses or None)
        is_open = is_blocked and bool(item.spec.external_ips)
        found = Finding(reference.without_uid, "StillReachable", "its externalIPs are not blocked")
        self.findings.set(reference, (found,) if is_open else None)

    def remove(self, reference: ObjectReference) -> None:
        self._addresses.set(reference, None)
        for told in [told for told in self.findings if told.without_uid == reference]:
            self.findings.set(told, None)

    def put_unreadable(self, reference: ObjectReference, error: str) -> bool:
        del reference, error
        return False

    def take(self) -> TakenAddresses:
        return TakenAddresses({key: change.after for key, change in self._addresses.take().items()})

    def reference(self, item_id: ObjectReference) -> ObjectReference:
        return item_id

    def title(self, item_id: ObjectReference) -> str:
        return f"{item_id}, blocked"

    def compiler(self, driver: str, node: NodeConfiguration) -> AnyCompiler:
        if driver == "nftables":
            from tests.second_feature.on_nftables import BlockingTables

            return BlockingTables(node.families)
        if driver == "iptables":
            from tests.second_feature.on_iptables import BlockingChains

            return BlockingChains(node.families)
        raise TargetError(f"blocking does not exist on {driver}")
