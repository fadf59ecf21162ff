"""What others commit is noticed, whoever loads what for us meanwhile; what is ours is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rulegen.errors import ApplyError
from rulegen.nftables import kernel
from rulegen.nftables.monitor import ForeignCommit, Monitor
from tests.agent.running import web
from tests.nftables.host import Host, host_or_skip, lines_of

pytestmark = pytest.mark.kernel

# What is empty already is not committed again.
DAMAGE, MORE_DAMAGE = "flush map ip rulegen endpoints", "flush map ip rulegen balancers"


@pytest.fixture
def host() -> Iterator[Host]:
    """One of its own, since a monitor listens as long as the Host is there."""
    with host_or_skip() as made:
        yield made


@pytest.fixture
def monitor(host: Host) -> Iterator[Monitor]:
    with host.namespace.entered():
        yield host.kernel.monitor(["rulegen"])


def by(monitor: Monitor) -> list[str]:
    return [intrusion.by for intrusion in monitor.read()]


def test_what_is_ours_is_not_told(host: Host, monitor: Monitor) -> None:
    # nft loads the table, netlink carries the changes.
    host.apply(*web(1, 1))
    host.apply(*web(1, 2), *web(2, 1, 3))
    assert by(monitor) == []


def test_what_others_do_is_told_and_by_whom(host: Host, monitor: Monitor) -> None:
    host.apply(*web(1, 1))
    host.nft("add table ip other")
    assert by(monitor) == []
    host.nft(DAMAGE)
    (who,) = by(monitor)
    assert who.startswith("nft (process ")


def test_one_commit_of_nft_for_us_is_ours(host: Host, monitor: Monitor) -> None:
    host.apply(*web(1, 1))
    with monitor.own_commit():
        host.nft(DAMAGE)
    assert by(monitor) == []
    with monitor.own_commit():
        host.nft(MORE_DAMAGE)
        host.nft("add table ip other")
    # Which of them was ours cannot be said.
    assert len(by(monitor)) == 1


def test_what_others_do_during_a_large_load_is_not_missed(host: Host, monitor: Monitor) -> None:
    host.apply(*web(1, 1))
    with monitor.own_load() as load:
        host.nft(DAMAGE)
        load.commits += 1
    assert not monitor.has_missed
    assert by(monitor) == []
    with monitor.own_load() as load:
        host.nft(MORE_DAMAGE)
        load.commits += 1
        host.nft("add table ip other")
    assert monitor.has_missed
    assert by(monitor) == ["another program, while rules were loaded"]
    assert not monitor.has_missed
    host.nft("delete table ip rulegen")
    assert len(by(monitor)) == 1


def test_a_large_change_of_ours_fills_no_socket_and_hides_nobody(
    host: Host, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notifications of a large change over netlink are not waited for, wherever it comes from."""
    host.apply(*web(1, 1))
    monkeypatch.setattr(kernel, "_LARGE", 0)
    heard: list[bytes] = []

    def hear(data: bytes) -> list[ForeignCommit]:
        heard.append(data)
        return []

    monkeypatch.setattr(monitor, "_intrusions", hear)
    host.apply(*web(1, 3), *web(2, 1))
    assert by(monitor) == []
    assert heard == []
    assert lines_of(host.delta(*web(1, 3), *web(2, 1))) == []


def fail_after(host: Host, damage: str) -> None:
    host.nft(damage)
    raise ApplyError("refused")


def test_what_fails_commits_nothing_of_ours(host: Host, monitor: Monitor) -> None:
    host.apply(*web(1, 1))
    with pytest.raises(ApplyError), monitor.own_commit():
        fail_after(host, DAMAGE)
    assert len(by(monitor)) == 1
    with pytest.raises(ApplyError), monitor.own_load():
        fail_after(host, MORE_DAMAGE)
    assert monitor.has_missed
