"""While rules change as fast as they can, no new connection to a balanced Service leaves untranslated.

A packet's lookups may see two generations of the maps (there is no lock around them), so chains fall back to what is
always there. Packets go in from one process while another commits; a counter right after DNAT sees what leaked.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import pytest

from rulegen.nftables.transaction import plan
from rulegen.reconcile.delta import diff
from rulegen.services.on_nftables.compiler import Compiler
from rulegen.services.store import Store
from tests.builders import CONFIGURATION, Item, endpoint, endpoint_slice, node, port, service
from tests.lab import NODE_ADDRESSES
from tests.lab.fixtures import MakeLab
from tests.nftables.host import Host, host_in, lines_of
from tests.nftables.traffic import FRONTENDS, Traffic
from tests.patience import patience

pytestmark = pytest.mark.kernel

SECONDS = 3.0
NODE_ADDRESS = NODE_ADDRESSES[0].partition("/")[0]
LEAST_PACKETS = 10_000
# A slow machine goes on until it has done as much as others do meanwhile.
LONGEST_SECONDS = 30.0


def _slice(count: int, first: int = 0) -> Item:
    endpoints = [endpoint(f"10.244.{number // 250 + 1}.{number % 250 + 1}") for number in range(first, first + count)]
    return endpoint_slice(endpoints)


def _service(affinity: int | None = None) -> Item:
    return service(external_ips=["198.51.100.1"], affinity=affinity, created="2011-01-01T00:00:00Z")


def _other_slice(count: int) -> Item:
    endpoints = [f"10.244.99.{number}" for number in range(1, count + 1)]
    return endpoint_slice(endpoints, name="other-1", service_name="other")


ONE_AND_TWO = [[_slice(1)], [_slice(2)], [_slice(1, 1)], [_slice(2, 1)]]
SHRINKING = [
    _slice(count, first)
    # More than 16 need a chain that is not always there.
    for count, first in ((8, 0), (1, 7), (20, 3), (2, 0), (33, 1), (5, 5), (1, 0), (6, 6))
]
ACROSS_THE_MAPS = [[_slice(count)] for count in (1023, 1024, 1025, 3, 1024, 1023)]
AFFINITY = [
    [_service(600), _slice(3)],
    [_service(), _slice(3)],
    [_service(), _slice(1)],
    [_service(60), _slice(2, 1)],
    [_service(600), _slice(1, 2)],
    [_slice(5)],
]
# The externalIP belongs to the older Service (D2), in turn one and the other.
OWNERS = [
    [service("other", ["10.96.0.11"], external_ips=["198.51.100.1"], created=created), _other_slice(count), _slice(2)]
    for created, count in (("2001-01-01T00:00:00Z", 3), ("2021-01-01T00:00:00Z", 1))
]
# The values of external frontends change, which are not looked up once more when they are missed.
KINDS = [
    [
        service(
            kind="NodePort",
            ports=[port(node_port=30080)],
            external_ips=["198.51.100.1"],
            external=policy,
            affinity=affinity,
            created="2011-01-01T00:00:00Z",
        ),
        endpoint_slice([endpoint("10.244.1.1", "node-1"), endpoint("10.244.1.2", "node-1")]),
    ]
    for policy, affinity in (("Local", None), ("Cluster", None), ("Cluster", 600), ("Local", 600))
]


@pytest.mark.part(0)
@pytest.mark.parametrize(
    ("states", "least_commits"),
    [
        pytest.param(ONE_AND_TWO, 100, id="one-and-two"),
        pytest.param([[slice_] for slice_ in SHRINKING], 100, id="shrinking"),
        pytest.param(ACROSS_THE_MAPS, 6, id="across-the-maps"),
        pytest.param([[_service(600), slice_] for slice_ in SHRINKING], 50, id="shrinking-with-affinity"),
        pytest.param(AFFINITY, 50, id="affinity"),
        pytest.param(OWNERS, 50, id="owners"),
        pytest.param(KINDS, 50, id="kinds"),
    ],
)
def test_no_new_connection_leaves_untranslated(
    make_lab: MakeLab, states: Sequence[Sequence[Item]], least_commits: int
) -> None:
    lab = make_lab()
    traffic = Traffic(lab, [*FRONTENDS, (NODE_ADDRESS, 30080)] if states is KINDS else FRONTENDS)
    with host_in(lab.namespace) as host, lab.entered():
        churn = _Churn(host, states)
        commits = 0
        end = time.monotonic() + patience(LONGEST_SECONDS)
        with traffic.flowing():
            while time.monotonic() < end and (commits < least_commits or traffic.seen <= LEAST_PACKETS):
                commits += churn.run(SECONDS)
        churn.check()
    assert traffic.leaked == 0, f"{traffic.leaked} of {traffic.seen} packets in {commits} commits"
    assert traffic.seen > LEAST_PACKETS
    assert commits >= least_commits


class _Churn:
    """One Service that goes from state to state over netlink."""

    def __init__(self, host: Host, states: Sequence[Sequence[Item]]) -> None:
        self._host = host
        self._states = itertools.cycle(states)
        self._store = Store(CONFIGURATION)
        self._store.set_objects([node(addresses=[NODE_ADDRESS]), _service(), *states[0]])
        self._compiler = Compiler(CONFIGURATION.families, CONFIGURATION.masquerade_bit)
        changes = self._store.take_changes()
        self._compiler.update(changes.service_ports, changes.node)
        self._live = host.read()
        entries = self._compiler.entries()
        host.kernel.commit(plan(diff({}, entries), self._live, self._compiler.base_chains, entries), self._live)

    def run(self, seconds: float) -> int:
        """Commits for a while; how often."""
        end = time.monotonic() + seconds
        commits = 0
        while time.monotonic() < end:
            self._store.set_objects(next(self._states))
            changes = self._store.take_changes()
            delta, _ = self._compiler.update(changes.service_ports, changes.node)
            self._host.kernel.commit(plan(delta, self._live, self._compiler.base_chains), self._live)
            commits += 1
        return commits

    def check(self) -> None:
        """The kernel holds what was compiled last."""
        assert lines_of(diff(self._host.read().entries, self._compiler.entries())) == []
