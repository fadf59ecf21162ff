"""The agent's start, its configuration, and whose place it takes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from rulegen.kube.objects import Node, ServiceCIDR
from tests.agent.running import RULEGEN, Playground, save, wait_until, web
from tests.apiserver import ApiServer
from tests.apiserver.faults import Answer
from tests.builders import Item, node, port, service, service_cidr
from tests.patience import patience

pytestmark = pytest.mark.kernel


def _service_behind_node_port() -> list[Item]:
    slice_ = web(1, 1, 2)[1]
    return [service("web-1", ["10.96.0.2"], [port(node_port=30080)], kind="NodePort"), slice_]


# -- configuration --


def test_a_changed_configuration_takes_effect_at_once(playground: Playground) -> None:
    save(playground.manifests / "all.json", *web(1, 1))
    with playground.agent() as agent:
        playground.wait_for(web(1, 1))
        playground.configure("nftables: {masqueradeBit: 33}")
        agent.wait_for("configuration not used, the one before stays in force: ", 10.0)
        assert "nftables.masqueradeBit: expected 0 to 31, got 33" in agent.log
        assert playground.differences(*web(1, 1)) == []
        playground.configure("nftables: {masqueradeBit: 15}")
        agent.wait_for("the configuration has changed: starting over", 10.0)
        wait_until(lambda: "meta mark set meta mark | 0x00008000" in _ruleset(playground), 10.0)
        # The file is what it was: nothing happens.
        playground.configure("nftables: {masqueradeBit: 15}")
        save(playground.manifests / "all.json", *web(1, 2))
        wait_until(lambda: "10.128.0.2 . 8080" in _ruleset(playground), 10.0)
        assert agent.log.count("starting over") == 1
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(patience(15)) == 0


def test_a_mounted_config_map_that_is_exchanged_takes_effect(playground: Playground, tmp_path: Path) -> None:
    """The kubelet writes another folder, and exchanges the link `..data` that the file's own link goes through."""
    mounted = tmp_path / "mounted"
    base = Path(playground.config).read_text()

    def exchange(number: int, text: str) -> None:
        (mounted / f"..{number}").mkdir(parents=True)
        (mounted / f"..{number}" / "config.conf").write_text(text)
        (mounted / "..new").symlink_to(f"..{number}")
        (mounted / "..new").rename(mounted / "..data")

    exchange(1, base)
    (mounted / "config.conf").symlink_to("..data/config.conf")
    save(playground.manifests / "all.json", *web(1, 1))
    with playground.agent("-f", str(playground.manifests), "--config", str(mounted / "config.conf")) as agent:
        agent.wait_for("sync mode=full", 10.0)
        for bit in (15, 16):
            exchange(bit, f"{base}nftables: {{masqueradeBit: {bit}}}\n")
            mark = f"meta mark set meta mark | {1 << bit:#010x}"
            wait_until(lambda mark=mark: mark in _ruleset(playground), 10.0)  # type: ignore[misc]
        assert agent.log.count("starting over") == 2


def test_a_configuration_that_the_host_cannot_follow_is_not_kept(playground: Playground) -> None:
    file = playground.manifests / "all.json"
    save(file, *web(1, 1))
    with playground.agent() as agent:
        playground.wait_for(web(1, 1))
        with playground.namespace.entered(), socket.create_server(("127.0.0.1", 10299)):
            playground.configure("metricsBindAddress: 127.0.0.1:10299", "bindAddressHardFail: true")
            agent.wait_for("cannot be put to work, the one before is again: metricsBindAddress: cannot listen on", 10.0)
            time.sleep(1.0)
            assert agent.log.count("starting over") == 1, "not again and again"
        save(file, *web(1, 2))
        playground.wait_for(web(1, 2), 10.0)


def test_sighup_reads_the_configuration_and_the_files_anew(playground: Playground) -> None:
    save(playground.manifests / "all.json", *web(1, 1))
    with playground.agent() as agent:
        playground.wait_for(web(1, 1))
        generation = playground.settled_generation()
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_for("are read anew", 10.0)
        wait_until(lambda: len(agent.syncs()) == 2, 10.0)
        assert playground.host.generation() == generation, "nothing has changed"
        Path(playground.config).write_text("nonsense: [")
        agent.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(agent.syncs()) == 3, 10.0)
        assert "configuration not used, the one before stays in force" in agent.log
        save(playground.manifests / "all.json", *web(1, 2))
        playground.wait_for(web(1, 2), 10.0)
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(patience(15)) == 0


def test_a_changed_host_name_counts_at_a_reload(playground: Playground) -> None:
    """In a UTS namespace of its own."""
    save(playground.manifests / "all.json", *web(1, 1))
    script = "hostname before; echo $$; exec rulegen agent -f $0"
    with playground.namespace.entered():
        process = subprocess.Popen(
            ["unshare", "--uts", "sh", "-c", script, str(playground.manifests)],
            env={**os.environ, "PATH": f"{Path(RULEGEN).parent}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    with process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            number = process.stdout.readline().strip()
            said = iter(process.stderr.readline, "")
            assert any("for node before, " in line for line in said)
            assert any("sync mode=full" in line for line in said)
            subprocess.run(["nsenter", "--target", number, "--uts", "hostname", "after"], check=True)
            process.send_signal(signal.SIGHUP)
            assert any("for node after, " in line for line in said)
        finally:
            process.kill()


def test_a_configuration_can_change_the_target(playground: Playground) -> None:
    save(playground.manifests / "all.json", *web(1, 1))
    with playground.agent() as agent:
        playground.wait_for(web(1, 1))
        playground.configure("mode: iptables")
        agent.wait_for("removed ip rulegen", 15.0)
        playground.configure("mode: nftables")
        playground.wait_for(web(1, 1), 15.0)
        agent.wait_for("removed iptables-nft ip nat", 15.0)


def _ruleset(playground: Playground) -> str:
    return playground.host.run("nft", "list", "ruleset").stdout


# -- the start --


def test_from_an_empty_kernel_the_api_server_is_reached_directly(
    playground: Playground, api_server: ApiServer, kubeconfig: str
) -> None:
    api_server.put(*web(1, 1), node(), service_cidr("10.96.0.0/16"))
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        playground.wait_for([*web(1, 1), node(), service_cidr("10.96.0.0/16")], 10.0)
        agent.wait_for("sync mode=full", 10.0)
        assert "programmed by this agent" not in agent.log
        assert len(agent.syncs()) == 1


def test_an_api_server_behind_a_service_that_the_agent_programs_is_named(
    playground: Playground, api_server: ApiServer, kubeconfig: str
) -> None:
    api_server.put(*web(1, 1), service("kubernetes", ["127.0.0.1"]), node(), service_cidr("10.96.0.0/16"))
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        agent.wait_for("the API server is reached through 127.0.0.1, which belongs to Service default/kubernetes", 10.0)


def test_the_first_sync_waits_for_the_node_and_the_service_cidrs(
    playground: Playground, api_server: ApiServer, kubeconfig: str
) -> None:
    """So that a restart applies nothing, whatever arrives first."""
    items = [*_service_behind_node_port(), node(), service_cidr("10.96.0.0/16")]
    playground.host.apply(*items)
    generation = playground.host.generation()
    api_server.put(*items)
    for kind in (Node, ServiceCIDR):
        api_server.inject(kind, "list", Answer(500), Answer(500))
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        agent.wait_for("sync mode=full", 15.0)
        assert "added=0 changed=0 removed=0" in agent.log
        assert "not following Node" in agent.log
        # Its lock, and the note of what was there.
        assert playground.settled_generation() == generation + 2


def test_what_the_api_server_denies_is_not_waited_for(
    playground: Playground, api_server: ApiServer, kubeconfig: str
) -> None:
    api_server.put(*web(1, 1))
    for kind in (Node, ServiceCIDR):
        api_server.inject(kind, "list", *[Answer(403)] * 50)
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        playground.wait_for(web(1, 1), 10.0)
        assert "not following ServiceCIDR" in agent.log


def test_a_nodes_zone_addresses_and_pod_cidrs_take_effect_at_once(
    playground: Playground, api_server: ApiServer, kubeconfig: str
) -> None:
    playground.configure("detectLocalMode: NodeCIDR")
    services = _service_behind_node_port()
    api_server.put(*services, service_cidr("10.96.0.0/16"), node(pod_cidrs=["10.128.0.0/24"]))
    with playground.agent("--kubeconfig", kubeconfig):
        wait_until(lambda: "ip saddr != 10.128.0.0/24" in _ruleset(playground), 10.0)
        api_server.put(node(addresses=["192.168.1.77"], pod_cidrs=["10.128.0.0/24"]))
        wait_until(lambda: "192.168.1.77" in _ruleset(playground), 10.0)
        api_server.put(node(addresses=["192.168.1.77"], pod_cidrs=["10.128.7.0/24"]))
        wait_until(lambda: "ip saddr != 10.128.7.0/24" in _ruleset(playground), 10.0)


# -- whose place it takes --

_KUBE_PROXY = """
table ip kube-proxy {
    chain services { }
    chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
}
"""


def test_what_kube_proxy_left_goes_when_it_has_ended(playground: Playground, tmp_path: Path) -> None:
    playground.host.nft(_KUBE_PROXY)
    playground.host.run("iptables-nft", "-t", "nat", "-N", "KUBE-SERVICES")
    playground.host.run("iptables-nft", "-t", "nat", "-A", "PREROUTING", "-j", "KUBE-SERVICES")
    playground.host.run("iptables-nft", "-t", "nat", "-A", "PREROUTING", "-s", "192.0.2.1", "-j", "ACCEPT")
    save(playground.manifests / "all.json", *web(1, 1))
    program = tmp_path / "kube-proxy"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as elsewhere, playground.namespace.entered():
        running = subprocess.Popen([program, "60"])
        with running:
            try:
                with playground.agent() as agent:
                    agent.wait_for(f"kube-proxy runs on this node (process {running.pid})", 10.0)
                    playground.wait_for(web(1, 1))
                    assert "table ip kube-proxy" in _ruleset(playground)
                    running.kill()
                    agent.wait_for("removed ip kube-proxy", 20.0)
                    agent.wait_for("removed iptables-nft nat", 20.0)
            finally:
                running.kill()
                elsewhere.kill()
    left = _ruleset(playground)
    assert "KUBE-SERVICES" not in left
    assert "kube-proxy" not in left
    assert "192.0.2.1" in left
