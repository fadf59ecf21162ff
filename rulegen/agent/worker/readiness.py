"""Whether enough of the cluster is known to program the node (SVC-89, SVC-95).

Events and times come in; waits for nothing itself. Times are seconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping

from rulegen.errors import HostError
from rulegen.kube.api import ApiError
from rulegen.kube.follow import FollowEvent, Interrupted, Synced, Upsert
from rulegen.kube.kinds import WatchedKind
from rulegen.kube.objects import Node
from rulegen.reconcile.feature import Need
from rulegen.services.node import host_addresses

NODE_SECONDS = 30.0
POD_CIDR_SECONDS = 300.0

_DENIED = 403


class Readiness:
    """Nothing is programmed before all objects of the kinds are known that are needed first (Services and slices).

    Those that are needed soon (the own Node's addresses and zone, the ServiceCIDRs) decide about packets too, so the
    first sync waits for them as well, but at most `NODE_SECONDS`, and not for what the API server denies. `needs_node`:
    the Node `node_name` is expected; manifests may hold none. `needs_pod_cidrs`: pods are told by its podCIDRs (mode
    NodeCIDR), without which there is no start.
    """

    def __init__(
        self, now: float, needs: Mapping[type, Need], node_name: str, *, needs_node: bool, needs_pod_cidrs: bool
    ) -> None:
        self._start = now
        self._node_name = node_name
        self._missing: set[WatchedKind] = {kind for kind, need in needs.items() if need is Need.FIRST}
        # In their order.
        self._wanted: dict[WatchedKind, None] = dict.fromkeys(kind for kind in needs if kind not in self._missing)
        self._lacks_addresses = needs_node
        self._lacks_pod_cidrs = needs_pod_cidrs

    def take(self, event: FollowEvent) -> None:
        """Looks at an event."""
        match event:
            case Synced(kind):
                self._missing.discard(kind)
                self._wanted.pop(kind, None)
            case Upsert(Node() as node) if node.metadata.name == self._node_name:
                self._lacks_addresses = self._lacks_addresses and not host_addresses(node)
                spec = node.spec
                self._lacks_pod_cidrs = self._lacks_pod_cidrs and not (spec and (spec.pod_cidrs or spec.pod_cidr))
            case Interrupted(kind, ApiError(status=status), _) if status == _DENIED:
                self._wanted.pop(kind, None)
                self._lacks_addresses = self._lacks_addresses and kind is not Node

    def wait(self, now: float) -> float | None:
        """In how many seconds to begin, 0 when nothing is missing; None: not before something arrives.

        Raises HostError when the Node's podCIDRs have not come in time.
        """
        if self._missing:
            return None
        if self._lacks_pod_cidrs:
            left = self._start + POD_CIDR_SECONDS - now
            if left <= 0:
                raise HostError(f"detectLocalMode NodeCIDR: the Node has no podCIDR after {POD_CIDR_SECONDS:.0f} s")
            return left
        if self._wanted or self._lacks_addresses:
            return max(0.0, self._start + NODE_SECONDS - now)
        return 0.0

    def lacks(self) -> list[str]:
        """What is not known, as words."""
        lacking = [kind.__name__ + "s" for kind in self._wanted]
        return lacking + (["addresses of the Node"] if self._lacks_addresses else [])
