"""How many packets network policies have denied, for Prometheus: asked of the rules when somebody reads the metrics.

The rules count. What they have counted is added up here, since a rule that is written anew begins at nothing. No sync
asks for it; who is isolated by what is followed as it changes. A thread of its own may read while another one syncs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from rulegen.config import Family
from rulegen.errors import RulegenError
from rulegen.policies.model import Combination, Direction, PolicyName
from rulegen.policies.store import LocalPod
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.reconciler import Sync

if TYPE_CHECKING:
    from prometheus_client.metrics_core import CounterMetricFamily

_LOG = logging.getLogger("rulegen.agent")

NAME = "rulegen_policy_denied_packets"
# So many policies have series of their own, those that deny first; what all others deny is one.
MAX_POLICIES = 100
OTHERS = "(others)"
# Rules are not asked more often, however many read.
_REST_SECONDS = 5.0


class Denied(NamedTuple):
    """What one rule has denied. `policy`: whose rule it is, "" for the end of all policies that isolate together.

    `chain`: where it stands, and which one there it is, whatever the driver calls that.
    """

    family: Family
    direction: Direction
    chain: str
    policy: str
    packets: int


class DenialCounts(Observer):
    """`feature`: the name of the one whose facts these are. `read`: asks the rules; raises RulegenError.

    `chain_of`: the chain of a combination, at whose end those are denied that none of its NetworkPolicies accepts.
    """

    def __init__(
        self,
        feature: str,
        read: Callable[[], Iterable[Denied]],
        chain_of: Callable[[Combination], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feature = feature
        self._read = read
        self._chain_of = chain_of
        self._clock = clock
        self._lock = threading.Lock()
        self._combinations: Counter[Combination] = Counter()
        # By rule what it said last; by direction and policy all that was counted.
        self._last: dict[tuple[Family, str], int] = {}
        self._totals: Counter[tuple[Direction, str]] = Counter()
        self._not_before = 0.0
        self._is_failing = False

    def synced(self, sync: Sync) -> None:
        """Notes by what this node's pods are isolated now."""
        done = sync.features.get(self._feature)
        if done is None:
            return
        with self._lock:
            for item_id, (before, after) in done.items.items():
                if isinstance(item_id, LocalPod):
                    self._note(before, -1)
                    self._note(after, 1)

    def _note(self, isolation: Any, number: int) -> None:
        for direction in Direction if isolation is not None else ():
            combination = isolation.of(direction)
            if combination is not None:
                self._combinations[combination] += number
                if not self._combinations[combination]:
                    del self._combinations[combination]

    def describe(self) -> Iterable[CounterMetricFamily]:
        """Without a look at the rules."""
        yield _family()

    def collect(self) -> Iterator[CounterMetricFamily]:
        """See prometheus_client's Collector."""
        with self._lock:
            self._count()
            found = _family()
            for (direction, policy), packets in self._totals.items():
                found.add_metric([direction.word, policy], packets)
        yield found

    def _count(self) -> None:
        now = self._clock()
        if now < self._not_before:
            return
        try:
            denied = list(self._read())
        except RulegenError as error:
            if not self._is_failing:
                _LOG.warning("what network policies deny cannot be counted for now: %s", error)
            self._is_failing = True
            return
        self._is_failing = False
        self._not_before = self._clock() + _REST_SECONDS
        self._add(denied)

    def _add(self, denied: Iterable[Denied]) -> None:
        parts = (part for one in self._combinations for part in (one, one._replace(admin=())))
        ends = {self._chain_of(part): part.network for part in parts}
        last, self._last = self._last, {}
        for one in denied:
            rule = one.family, one.chain
            before = last.get(rule, 0)
            self._last[rule] = one.packets
            packets = one.packets - before if one.packets >= before else one.packets
            chain = one.chain.partition(" ")[0]
            policies = [one.policy] if one.policy else [_text(name) for name in ends.get(chain, ())]
            for policy in policies:
                self._add_to(one.direction, policy, packets)

    def _add_to(self, direction: Direction, policy: str, packets: int) -> None:
        if not packets:
            return
        known = {name for _, name in self._totals}
        self._totals[direction, policy if policy in known or len(known) < MAX_POLICIES else OTHERS] += packets


def _family() -> CounterMetricFamily:
    from prometheus_client.metrics_core import CounterMetricFamily

    words = "Packets denied at this node's pods, by the policies that isolate them"
    return CounterMetricFamily(NAME, words, labels=["direction", "policy"])


def _text(name: PolicyName) -> str:
    return f"{name.namespace}/{name.name}" if name.namespace else name.name
