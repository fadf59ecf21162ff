"""Host ports of pods that cannot be read: at a start, what the kernel has of them stays, on both targets."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rulegen.config import NodeConfiguration, Target
from rulegen.drivers import make_driver
from rulegen.features import make
from rulegen.iptables.binaries import Variant
from rulegen.kube.objects import Pod
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.reconciler import Reconciler
from rulegen.reference import ObjectReference
from tests.builders import node
from tests.nftables.host import Host, host_or_skip
from tests.services.test_host_ports import host_port, pod

pytestmark = pytest.mark.kernel

BROKEN = ObjectReference("Pod", "default", "broken")
TARGETS = [(Target.NFTABLES, Variant.NFT), (Target.IPTABLES, Variant.NFT), (Target.IPTABLES, Variant.LEGACY)]


@pytest.fixture
def host() -> Iterator[Host]:
    with host_or_skip() as made:
        yield made


@contextmanager
def reconciled(target: Target, variant: Variant) -> Iterator[Reconciler]:
    configuration = NodeConfiguration(node_name="node-1", cluster_cidrs=("10.244.0.0/16",))
    features = make(["host-ports"], configuration)
    driver = make_driver(target, variant)
    with driver.open() as opened:
        made = Reconciler(features, opened.rules(CompilerSet.of(features, driver.name, configuration)))
        made.put(node())
        yield made


def pods_in_force(target: Target, variant: Variant) -> set[str]:
    command = ["nft", "list", "ruleset"] if target is Target.NFTABLES else [f"iptables-{variant.value}-save"]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {name for name in ("broken", "gone", "good") if f"Pod default/{name}:" in listing}


@pytest.mark.parametrize(("target", "variant"), TARGETS)
def test_at_a_start(target: Target, variant: Variant, host: Host) -> None:
    with host.namespace.entered():
        with reconciled(target, variant) as before:
            for number, name in enumerate(("broken", "gone", "good"), 1):
                before.put(pod(name, host_port(8000 + number), addresses=(f"10.244.0.{number}",)))
            before.sync()
            assert pods_in_force(target, variant) == {"broken", "gone", "good"}
        with reconciled(target, variant) as reconciler:
            reconciler.put(pod("good", host_port(8003), addresses=("10.244.0.3",)))
            reconciler.put_unreadable(Pod, BROKEN, "metadata.labels: expected an object")
            reconciler.sync()
            assert pods_in_force(target, variant) == {"broken", "good"}
            reconciler.distrust()
            assert not reconciler.sync().delta
            reconciler.put(pod("broken", addresses=("10.244.0.1",)))
            reconciler.sync()
            assert pods_in_force(target, variant) == {"good"}
            # One that becomes so keeps what it meant.
            reconciler.put_unreadable(Pod, ObjectReference("Pod", "default", "good"), "spec: expected an object")
            reconciler.sync()
            assert pods_in_force(target, variant) == {"good"}
