"""The agent with rules in iptables, in both variants: it follows, looks from time to time, and starts no war."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rulegen.errors import HostError
from tests.agent.running import Agent, Ground, save, wait_until, web
from tests.builders import Item, endpoint_port, endpoint_slice, node, port, service, service_cidr
from tests.iptables.host import ACCESSES, Host
from tests.patience import patience

pytestmark = pytest.mark.kernel

RICH: list[Item] = [
    node(addresses=["192.168.1.10", "fd00:1::10"]),
    service_cidr("10.96.0.0/16"),
    *web(1, 1, 2, 3),
    service(
        "shop",
        ["10.96.5.5"],
        [port(80, "http", node_port=30080), port(53, "dns", "UDP")],
        kind="LoadBalancer",
        external_ips=["198.51.100.7"],
        vips=["203.0.113.5"],
        ranges=["192.0.2.0/24"],
        affinity=60,
    ),
    endpoint_slice(
        ["10.128.0.7", "10.128.0.8"],
        service_name="shop",
        name="shop-a",
        ports=[endpoint_port(8080, "http"), endpoint_port(53, "dns", "UDP")],
    ),
]


class IptablesGround(Ground):
    """With rules in iptables."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        super().__init__(host.namespace, folder, ["--target", "iptables", *host.options])
        self.configure("iptables: {minSyncPeriod: 20ms, syncPeriod: 1s}")

    def differences(self, *items: Item) -> list[str]:
        delta = self.host.delta(*items)
        return [f"{key.table} {key.chain}" for part in (delta.added, delta.changed, delta.removed) for key in part]


@pytest.fixture(params=ACCESSES.values(), ids=list(ACCESSES))
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IptablesGround]:
    try:
        host = Host(*request.param)
    except HostError as error:
        pytest.skip(str(error))
    with host:
        yield IptablesGround(host, tmp_path)


def _stop(agent: Agent) -> None:
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(patience(15)) == 0


def test_files_are_followed_and_a_restart_applies_nothing(ground: IptablesGround) -> None:
    file = ground.manifests / "all.json"
    save(file, *RICH, *web(2, 4))
    with ground.agent() as agent:
        ground.wait_for([*RICH, *web(2, 4)], 45.0)
        save(file, *RICH, *web(2, 4, 5), *web(3, 6))
        ground.wait_for([*RICH, *web(2, 4, 5), *web(3, 6)], 45.0)
        save(file, *RICH, *web(3, 6))
        ground.wait_for([*RICH, *web(3, 6)], 45.0)
        assert agent.modes(3) == ["full", *["partial"] * 2]
        _stop(agent)
    with ground.agent() as agent:
        agent.wait_for("added=0 changed=0 removed=0", 45.0)


def test_what_others_change_is_repaired_at_the_next_look(ground: IptablesGround) -> None:
    items = [*RICH, *web(2, 4)]
    save(ground.manifests / "all.json", *items)
    with ground.agent() as agent:
        ground.wait_for(items, 45.0)
        for number, command in enumerate(
            ("-t nat -F RULEGEN-VIPS", "-t nat -D OUTPUT -j RULEGEN-SERVICES", "-t filter -F"), start=1
        ):
            ground.host.run(command)
            ground.wait_for(items, 45.0)
            agent.wait_for("repaired ", 45.0)
            wait_until(lambda count=number: agent.log.count(" entries that were changed by") == count, 45.0)  # type: ignore[misc]


def test_a_jump_that_others_shadow_is_moved_once_in_a_period(ground: IptablesGround) -> None:
    ground.configure("iptables: {minSyncPeriod: 20ms, syncPeriod: 5s}")
    items = web(1, 1)
    save(ground.manifests / "all.json", *items)
    first = "-t nat -I PREROUTING -s 192.0.2.0/24 -j ACCEPT"
    with ground.agent() as agent:
        ground.wait_for(items, 45.0)
        ground.host.run(first)
        agent.wait_for("# behind: -s 192.0.2.0/24 -j ACCEPT", 45.0)
        assert ground.differences(*items) == []
        # The other insists.
        ground.host.run(first)
        save(ground.manifests / "all.json", *items, *web(2, 2))
        wait_until(lambda: len(agent.syncs()) >= 3, 45.0)
        assert ground.differences(*items, *web(2, 2)) == ["nat PREROUTING"]
        ground.wait_for([*items, *web(2, 2)], 45.0)
        rules = [line for table, line in ground.host.foreign() if table == "IPv4 nat" and "192.0.2.0" in line]
        assert rules == ["-A PREROUTING -s 192.0.2.0/24 -j ACCEPT"] * 2


def test_a_service_that_cannot_be_read_at_the_start_keeps_what_is_live(ground: IptablesGround) -> None:
    file = ground.manifests / "all.json"
    save(file, *RICH, *web(2, 4))
    ground.host.apply(*RICH, *web(2, 4))
    text = file.read_bytes()
    broken = text.replace(b'"port":53,', b'"port":99999,', 1)
    assert broken != text
    file.write_bytes(broken)
    with ground.agent() as agent:
        agent.wait_for("Service default/shop", 45.0)
        agent.wait_for("added=0 changed=0 removed=0", 45.0)
        assert ground.differences(*RICH, *web(2, 4)) == []
        file.write_bytes(broken.replace(b'"10.128.0.4"', b'"10.128.0.5"'))
        ground.wait_for([*RICH, *web(2, 5)], 45.0)
        save(file, *RICH)
        ground.wait_for(RICH, 45.0)
        # The Node's deletion is never told (SVC-35).
        save(file, *web(1, 1))
        ground.wait_for([RICH[0], *web(1, 1)], 45.0)


def test_killed_in_the_middle_the_next_one_makes_it_right(ground: IptablesGround) -> None:
    file = ground.manifests / "all.json"
    items: list[Item] = []
    for round_ in range(4):
        items = [
            *RICH,
            *(item for number in range(10, 70) for item in web(number, *range(1, 3 + (number + round_) % 5))),
        ]
        save(file, *items)
        with ground.agent() as agent:
            agent.wait_for("following", 45.0)
            with pytest.raises(subprocess.TimeoutExpired):
                agent.process.wait(0.15 * round_)
            agent.process.kill()
    with ground.agent():
        ground.wait_for(items, 20.0)


def test_the_other_target_goes_when_these_rules_are_in_force(ground: IptablesGround) -> None:
    items = web(1, 1)
    file = ground.manifests / "all.json"
    save(file, *items)
    assert ground.run("apply", "-f", str(file), "--node", "node-1").returncode == 0
    with ground.agent() as agent:
        agent.wait_for("removed ip rulegen", 45.0)
        ground.wait_for(items, 45.0)
        _stop(agent)
    assert ground.run("cleanup").returncode == 0
