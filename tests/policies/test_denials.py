"""What policies deny is counted, on both targets, for each policy, and not more of them than can be shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry

from rulegen.config import Family, NodeConfiguration, PolicySettings, Target
from rulegen.drivers import make_driver
from rulegen.errors import HostError
from rulegen.iptables.binaries import Variant
from rulegen.policies.denials import MAX_POLICIES, NAME, OTHERS, DenialCounts, Denied
from rulegen.policies.feature import NetworkPolicies
from rulegen.policies.model import Combination, Direction
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.reconciler import Reconciler
from tests.policies import cluster
from tests.policies import documents as d
from tests.policies.cluster import BY_NAME
from tests.policies.decoding import decode
from tests.policies.documents import Document
from tests.policies.fixtures import lab_or_skip
from tests.policies.lab import NODES, Frame, Lab, interface_of
from tests.policies.test_packets import packet

SOURCE, CLOSED, TIERED = BY_NAME["z/b"], BY_NAME["x/a"], BY_NAME["x/b"]


def _named(namespace: str) -> Document:
    return d.selector({"kubernetes.io/metadata.name": namespace})


POLICIES = [
    d.policy("x", "closed", d.selector({"pod": "a"}), policyTypes=["Ingress"]),
    d.policy("x", "too", d.selector({"pod": "a"}), ingress=[d.rule(None, [d.port(81)])]),
    d.cluster_policy(
        "tiered",
        "Admin",
        1,
        d.pods(d.selector({"pod": "b"}), _named("x")),
        ingress=[d.cluster_rule("Deny", [d.namespaces(_named("z"))], [d.number("UDP", 80)])],
    ),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_or_skip() as made:
        yield made


class _Agent:
    """A node's rules, and the metrics that it shows."""

    def __init__(self, lab: Lab, opened: ExitStack, variant: Variant | None, settings: PolicySettings) -> None:
        configuration = NodeConfiguration(node_name=NODES[0], policies=settings)
        feature = NetworkPolicies(configuration)
        driver = make_driver(Target.IPTABLES if variant else Target.NFTABLES, variant)
        self._lab = lab
        opened.enter_context(lab.entered(NODES[0]))
        opened.callback(driver.remove, ["network-policies"])
        rules = opened.enter_context(driver.open()).rules(CompilerSet.of([feature], driver.name, configuration))
        self._reconciler = Reconciler([feature], rules)
        self.registry = CollectorRegistry()
        self._observers = feature.observers(self.registry)
        (self._counts,) = (one for one in self._observers if isinstance(one, DenialCounts))

    def apply(self, objects: Sequence[Document]) -> None:
        for item in decode(objects):
            self._reconciler.put(item)
        sync = self._reconciler.sync()
        for observer in self._observers:
            observer.synced(sync)

    def shown(self) -> dict[tuple[str, str], float]:
        self._counts._not_before = 0.0
        return _shown(self.registry)


def _shown(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    samples = [sample for metric in registry.collect() for sample in metric.samples if metric.name == NAME]
    return {(sample.labels["direction"], sample.labels["policy"]): sample.value for sample in samples}


@pytest.mark.kernel
@pytest.mark.parametrize("variant", [None, *Variant], ids=["nftables", "iptables-nft", "iptables-legacy"])
@pytest.mark.parametrize("settings", [PolicySettings(), PolicySettings(strict=True, log_group=9)], ids=["", "options"])
def test_denials_are_counted_by_policy(settings: PolicySettings, variant: Variant | None, lab: Lab) -> None:
    with ExitStack() as opened:
        agent = _Agent(lab, opened, variant, settings)
        objects = [*cluster.objects(), *POLICIES]
        agent.apply(objects)
        assert agent.shown() == {}
        lab.forget_connections()

        def send(destination: cluster.Party, protocol: str, port: int, family: int) -> int:
            send.number += 1  # type: ignore[attr-defined]
            data = packet(SOURCE, destination, port, protocol, family, 6000 + send.number)  # type: ignore[attr-defined]
            return len(lab.exchange([Frame(interface_of(SOURCE), data)]))

        send.number = 0  # type: ignore[attr-defined]
        assert [send(CLOSED, "TCP", 80, 4), send(CLOSED, "TCP", 81, 4), send(CLOSED, "TCP", 80, 6)] == [0, 1, 0]
        assert [send(TIERED, "UDP", 80, 4), send(TIERED, "UDP", 81, 4)] == [0, 1]
        expected = {("ingress", "x/closed"): 2.0, ("ingress", "x/too"): 2.0, ("ingress", "tiered"): 1.0}
        assert agent.shown() == expected
        # Rules that are written anew begin at nothing, what was counted stays.
        agent.apply([*objects, d.policy("x", "too", d.selector({"pod": "a"}), ingress=[d.rule(None, [d.port(82)])])])
        assert agent.shown() == expected
        assert send(CLOSED, "TCP", 81, 4) == 0
        assert agent.shown() == expected | {("ingress", "x/closed"): 3.0, ("ingress", "x/too"): 3.0}


def _counts(read: Callable[[], list[Denied]]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(
        DenialCounts("network-policies", read, Combination.__str__, clock=iter(range(0, 10**6, 10)).__next__)
    )
    return registry


def _denied(number: int, packets: int = 1) -> Denied:
    return Denied(Family.IPV4, Direction.EGRESS, f"chain {number}", f"policy-{number}", packets)


def test_no_more_policies_are_shown_than_can_be() -> None:
    registry = _counts(lambda: [_denied(number) for number in range(MAX_POLICIES + 20)])
    shown = _shown(registry)
    assert len(shown) == MAX_POLICIES + 1
    assert shown["egress", OTHERS] == 20
    assert _shown(registry) == shown


def test_rules_that_cannot_be_read_leave_what_was_counted() -> None:
    answers = iter([[_denied(1, 5)], None, [_denied(1, 7)]])

    def read() -> list[Denied]:
        answer = next(answers)
        if answer is None:
            raise HostError("no")
        return answer

    registry = _counts(read)
    assert [_shown(registry)["egress", "policy-1"] for _ in range(3)] == [5, 5, 7]
