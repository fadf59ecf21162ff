"""While rules change as fast as they can, no new connection to a balanced Service leaves untranslated.

A packet's lookups may see two generations of the maps (there is no lock around them), so chains fall back to what is
always there. Packets go in from one thread while another commits; a counter right after DNAT sees what leaked.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from rulegen import ruleset
from rulegen.nftables.compiler import Compiler
from rulegen.nftables.transaction import plan
from rulegen.routing.cluster import Cluster
from tests.builders import CONFIGURATION, Item, endpoint, endpoint_slice, node, service
from tests.lab import UPLINK, Lab, Packet
from tests.lab.fixtures import MakeLab
from tests.lab.packets import build
from tests.nftables.host import Host, host_in, lines_of

pytestmark = pytest.mark.kernel

SECONDS = 4.0
WATCH = """
table ip watch {
  counter seen { }
  counter leaked { }
  chain seen { type filter hook prerouting priority -150; ip daddr { 10.96.0.10, 198.51.100.1 } counter name seen; }
  chain leaked { type filter hook prerouting priority -98; ip daddr { 10.96.0.10, 198.51.100.1 } counter name leaked; }
}
"""


class _Injector:
    """Sends first packets of connections, each from another port, until it is stopped."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="injector")
        self.sent = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def _run(self) -> None:
        packets = [
            build(Packet(source, destination, 80, source_port=port), 1)
            for port in range(2000, 4000)
            for source in ("203.0.113.9", "10.244.0.9")
            for destination in ("10.96.0.10", "198.51.100.1")
        ]
        wire = self._lab._wires[UPLINK]
        while not self._stop.is_set():
            for packet in packets:
                wire.send(packet)
            self.sent += len(packets)
            self._lab.forget_connections()


def _slice(count: int, first: int = 0) -> Item:
    endpoints = [endpoint(f"10.244.{number // 250 + 1}.{number % 250 + 1}") for number in range(first, first + count)]
    return endpoint_slice(endpoints)


def _service(affinity: int | None = None) -> Item:
    return service(external_ips=["198.51.100.1"], affinity=affinity)


ONE_AND_TWO = [[_slice(1)], [_slice(2)], [_slice(1, 1)], [_slice(2, 1)]]
SHRINKING = [
    [_slice(count, first)] for count, first in ((8, 0), (1, 7), (5, 3), (2, 0), (7, 1), (3, 5), (1, 0), (6, 6))
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


@pytest.mark.parametrize(
    ("states", "least_commits"),
    [
        pytest.param(ONE_AND_TWO, 100, id="one-and-two"),
        pytest.param(SHRINKING, 100, id="shrinking"),
        pytest.param(ACROSS_THE_MAPS, 6, id="across-the-maps"),
        pytest.param(AFFINITY, 50, id="affinity"),
    ],
)
def test_no_new_connection_leaves_untranslated(
    make_lab: MakeLab, states: Sequence[Sequence[Item]], least_commits: int
) -> None:
    lab = make_lab()
    lab.nft(WATCH)
    with host_in(lab.namespace) as host, lab.entered():
        churn = _Churn(host, states)
        injector = _Injector(lab)
        with injector.running():
            commits = churn.run(SECONDS)
        seen, leaked = (_count(host, name) for name in ("seen", "leaked"))
        churn.check()
    assert leaked == 0, f"{leaked} of {seen} packets in {commits} commits"
    assert seen > 2_000
    assert commits >= least_commits


class _Churn:
    """One Service that goes from state to state over netlink."""

    def __init__(self, host: Host, states: Sequence[Sequence[Item]]) -> None:
        self._host = host
        self._states = itertools.cycle(states)
        self._cluster = Cluster(CONFIGURATION)
        self._cluster.set_objects([node(), _service(), *states[0]])
        self._compiler = Compiler(CONFIGURATION.families, CONFIGURATION.masquerade_bit)
        self._compiler.update(*self._cluster.take_changes())
        self._live = host.read()
        entries = self._compiler.entries()
        host.kernel.commit(plan(ruleset.diff({}, entries), self._live, self._compiler.programs, entries), self._live)

    def run(self, seconds: float) -> int:
        """Commits for a while; how often."""
        end = time.monotonic() + seconds
        commits = 0
        while time.monotonic() < end:
            self._cluster.set_objects(next(self._states))
            delta, _ = self._compiler.update(*self._cluster.take_changes())
            self._host.kernel.commit(plan(delta, self._live, self._compiler.programs), self._live)
            commits += 1
        return commits

    def check(self) -> None:
        """The kernel holds what was compiled last."""
        assert lines_of(ruleset.diff(self._host.read().entries, self._compiler.entries())) == []


def _count(host: Host, name: str) -> int:
    listing = host.run("nft", "list", "counter", "ip", "watch", name).stdout
    return int(listing.partition("packets ")[2].split()[0])
