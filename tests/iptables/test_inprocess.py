"""python-iptables as the way into legacy iptables: it leaves what iptables-restore would leave."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from rulegen.config import Family
from rulegen.errors import ApplyError, HostError
from rulegen.iptables import inprocess
from rulegen.iptables.base_chains import NAT
from rulegen.iptables.binaries import LOCK, LockedError, Variant
from rulegen.iptables.inprocess import InProcessDriver
from rulegen.iptables.transaction import Step
from tests.builders import Item
from tests.iptables.host import Host, compiled
from tests.iptables.test_kernel import CLUSTER, load_foreign
from tests.nftables.clusters import clusters

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    try:
        driver = InProcessDriver(Family.IPV4, 5)
    except HostError as error:
        if "does not understand" not in str(error):
            raise
        pytest.xfail(str(error))
    with Host(Variant.LEGACY, {Family.IPV4: driver}) as host:
        yield host


def test_an_iptables_that_it_does_not_understand_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inprocess, "PROBE", "-m addrtype --no-such-option LOCAL")
    with pytest.raises(HostError, match=r"does not understand the iptables of this host: -m addrtype --no-such-option"):
        InProcessDriver(Family.IPV4, 5)


@given(before=clusters(), after=clusters())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_it_leaves_the_same_rules(host: Host, before: list[Item], after: list[Item]) -> None:
    host.clear()
    foreign = load_foreign(host)
    host.apply(*before)
    host.apply(*after)
    assert host.read() == compiled(after).entries()
    host.run("-t nat -D PREROUTING -j RULEGEN-SERVICES")
    host.apply(*after)
    assert host.read() == compiled(after).entries()
    assert host.foreign() == foreign


def test_a_refused_line_is_shown_and_nothing_of_its_table_is_in_force(host: Host) -> None:
    host.clear()
    bad = Step(Family.IPV4, NAT, ("*nat", ":RULEGEN-X - [0:0]", "-A RULEGEN-X -m nosuch -j ACCEPT", "COMMIT"))
    with pytest.raises(ApplyError, match=r"nosuch: line 3: -A RULEGEN-X -m nosuch -j ACCEPT; nothing was changed"):
        host.commit([bad], {})
    assert not host.read()


def test_a_dry_run_changes_nothing(host: Host) -> None:
    host.clear()
    step = Step(Family.IPV4, NAT, ("*nat", ":RULEGEN-X - [0:0]", "COMMIT"))
    with host.namespace.entered():
        host.kernel.check([step])
    assert not host.read()


def test_the_lock_is_respected(host: Host) -> None:
    driver = InProcessDriver(Family.IPV4, 0)
    with LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with host.namespace.entered(), pytest.raises(LockedError, match="is held by"):
            driver.take(Step(Family.IPV4, NAT, ("*nat", "COMMIT")), test=False)


def test_a_second_family_is_refused(host: Host) -> None:
    with pytest.raises(HostError, match="one IP family in a process"):
        InProcessDriver(Family.IPV6, 5)


def test_a_node_is_served(host: Host) -> None:
    host.clear()
    host.apply(*CLUSTER)
    assert host.read() == compiled(CLUSTER).entries()
