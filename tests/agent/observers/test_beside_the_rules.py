"""What the running agent does beside the rules: health, metrics, Events, connections of UDP, sysctls."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from rulegen.demo.namespaces import NetworkNamespace
from rulegen.demo.network import Network
from rulegen.demo.servers import Servers
from rulegen.kube.objects import EndpointSlice, Node, NodeSpec, Service, Taint
from tests.agent.asking import ask
from tests.agent.running import RULEGEN, Agent, Ground, Playground, save, wait_until, web
from tests.apiserver import ApiServer
from tests.builders import Item, endpoint, endpoint_port, endpoint_slice, node, port, service, service_cidr
from tests.nftables.host import host_in
from tests.patience import patience

pytestmark = pytest.mark.kernel

HEALTHZ, METRICS, HEALTH_CHECK = 10256, 10249, 32001
NODE: list[Item] = [node(), service_cidr("10.96.0.0/16")]
BALANCED = service("balanced", ["10.96.7.7"], kind="LoadBalancer", external="Local", health_check_port=HEALTH_CHECK)


def status(ground: Ground, number: int, path: str = "/") -> int:
    """0: nobody listens."""
    with ground.namespace.entered():
        try:
            return ask(number, path).status
        except OSError:
            return 0


def text(ground: Ground, number: int, path: str) -> str:
    with ground.namespace.entered():
        return ask(number, path).body.decode()


def metric(ground: Ground, sample: str) -> float:
    """The value of a sample, given with its labels as it is written."""
    found = re.search(rf"^{re.escape(sample)} (\S+)$", text(ground, METRICS, "/metrics"), re.MULTILINE)
    return float(found[1]) if found else 0.0


@contextmanager
def owned_by_another(namespace: NetworkNamespace) -> Iterator[subprocess.Popen[str]]:
    """Another program owns a table of our name: the kernel lets nobody else change it."""
    command = "add table ip rulegen { flags owner; }\nlist tables\n"
    with namespace.entered():
        other = subprocess.Popen(["nft", "--interactive"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write(command)
        other.stdin.flush()
        while "table ip rulegen" not in other.stdout.readline():
            pass
        try:
            yield other
        finally:
            other.kill()


# -- health --


def test_the_pages_of_an_agent_that_is_well(playground: Playground, api_server: ApiServer, kubeconfig: str) -> None:
    api_server.put(*NODE, *web(1, 1), *web(2, 2))
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        agent.wait_for("sync mode=full", 10.0)
        wait_until(lambda: status(playground, HEALTHZ, "/healthz") == 200, 10.0)
        assert json.loads(text(playground, HEALTHZ, "/livez"))["healthy"] is True
        assert text(playground, METRICS, "/proxyMode") == "nftables"
        shown = json.loads(text(playground, METRICS, "/configz"))["kubeproxy.config.k8s.io"]
        assert shown["nftables"]["minSyncPeriod"] == "0.02s"
        assert metric(playground, 'rulegen_service_ports{ip_family="IPv4"}') == 2
        assert metric(playground, 'kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv4"}') == 1
        api_server.put(*web(1, 1, 2))
        partial = 'kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family="IPv4"}'
        wait_until(lambda: metric(playground, partial) >= 1, 10.0)
        playground.host.nft("flush map ip rulegen endpoints")
        wait_until(lambda: metric(playground, "rulegen_repaired_entries_total") >= 3, 10.0)
        assert metric(playground, "rulegen_drift_total") == 1
        # Load balancers are told when the node is to go, and when it is deleted.
        here = node()
        tainted = replace(here, spec=NodeSpec(taints=[Taint(key="ToBeDeletedByClusterAutoscaler")]))
        api_server.put(tainted)
        wait_until(lambda: status(playground, HEALTHZ, "/healthz") == 503, 10.0)
        assert status(playground, HEALTHZ, "/livez") == 200
        api_server.put(node())
        wait_until(lambda: status(playground, HEALTHZ, "/healthz") == 200, 10.0)
        api_server.delete(Node, "node-1")
        wait_until(lambda: status(playground, HEALTHZ, "/healthz") == 503, 10.0)


def test_a_health_check_follows_the_endpoints_on_this_node(
    playground: Playground, api_server: ApiServer, kubeconfig: str
) -> None:
    playground.configure("nodePortAddresses: ['0.0.0.0/0']")

    def endpoints(*nodes: str) -> EndpointSlice:
        found = [endpoint(f"10.128.0.{number}", name) for number, name in enumerate(nodes, start=1)]
        return endpoint_slice(found, service_name="balanced", name="balanced-a")

    api_server.put(*NODE, BALANCED, endpoints("node-1", "node-1", "node-2"))
    with playground.agent("--kubeconfig", kubeconfig):
        wait_until(lambda: status(playground, HEALTH_CHECK) == 200, 10.0)
        assert json.loads(text(playground, HEALTH_CHECK, "/")) == {
            "service": {"namespace": "default", "name": "balanced"},
            "localEndpoints": 2,
            "serviceProxyHealthy": True,
        }
        api_server.put(endpoints("node-2"))
        wait_until(lambda: status(playground, HEALTH_CHECK) == 503, 10.0)
        api_server.delete(Service, "balanced", "default")
        wait_until(lambda: status(playground, HEALTH_CHECK) == 0, 10.0)


def test_an_agent_whose_changes_do_not_reach_the_kernel_is_unwell(playground: Playground) -> None:
    playground.configure("nftables: {syncPeriod: 1s}")
    save(playground.manifests / "all.json", *web(1, 1))
    with owned_by_another(playground.namespace) as other, playground.agent() as agent:
        agent.wait_for("sync failed, next attempt in", 10.0)
        assert status(playground, HEALTHZ, "/livez") == 200
        wait_until(lambda: status(playground, HEALTHZ, "/livez") == 503, 15.0)
        failures = 'kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv4"}'
        assert metric(playground, failures) >= 1
        save(playground.manifests / "more.json", *web(2, 2))
        agent.wait_for("Operation not permitted", 10.0)
        other.kill()
        wait_until(lambda: status(playground, HEALTHZ, "/livez") == 200, 15.0)
        # What came meanwhile is not lost.
        playground.wait_for([*web(1, 1), *web(2, 2)], 10.0)


# -- Events --


def test_the_owner_of_a_service_is_told_what_is_wrong(
    playground: Playground, api_server: ApiServer, kubeconfig: str
) -> None:
    first = service("first", ["10.96.1.1"], external_ips=["198.51.100.7"], created="2024-01-01T00:00:00Z")
    second = service("second", ["10.96.1.2"], external_ips=["198.51.100.7"], created="2025-01-01T00:00:00Z")
    second = replace(second, metadata=replace(second.metadata, uid="uid-of-second"))
    with playground.namespace.entered(), socket.create_server(("0.0.0.0", HEALTH_CHECK)):  # noqa: S104
        playground.configure("nodePortAddresses: ['0.0.0.0/0']")
        api_server.put(*NODE, first, second, BALANCED)
        with playground.agent("--kubeconfig", kubeconfig) as agent:
            wait_until(lambda: len(api_server.events) == 2, 30.0)
    told = {made["reason"]: made for made in api_server.events}
    duplicate, taken = told["DuplicateFrontend"], told["FailedToStartServiceHealthcheck"]
    assert duplicate["regarding"]["uid"] == "uid-of-second"
    assert "198.51.100.7 port 80/TCP belongs to default/first" in duplicate["note"]
    assert "cannot listen on 0.0.0.0 port 32001: Address already in use" in taken["note"]
    assert "Service default/second: externalIP 198.51.100.7" in agent.log


# -- connections --


def _dns(*pods: str) -> list[Item]:
    return [
        service("dns", ["10.96.0.53"], [port(53, "dns", "UDP")]),
        endpoint_slice(pods, service_name="dns", name="dns-a", ports=[endpoint_port(5353, "dns", "UDP")]),
    ]


def test_udp_clients_move_at_once_when_their_endpoint_goes(tmp_path: Path) -> None:
    pods = ["10.128.0.11", "10.128.0.12"]
    with ExitStack() as opened:
        network = opened.enter_context(Network(pods))
        servers = opened.enter_context(Servers())
        for pod in pods:
            servers.add(network.pods[pod], pod, "UDP", 5353)
        ground = Playground(opened.enter_context(host_in(network.node)), tmp_path)
        file = ground.manifests / "all.json"
        save(file, *web(1, 1))
        agent = opened.enter_context(ground.agent())
        agent.wait_for("sync mode=full", 10.0)
        with network.client.entered():
            client = opened.enter_context(closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        client.settimeout(0.3)
        client.connect(("10.96.0.53", 53))

        def answer() -> str:
            try:
                client.send(b"who\n")
                return client.recv(100).decode().strip()
            except OSError:
                return ""

        def answers() -> set[str]:
            """Of five datagrams that are answered; a busy server may be late."""
            found: list[str] = []
            while len(found) < 5:
                wait_until(lambda: bool(said := answer()) and not found.append(said), 10.0)  # type: ignore[func-returns-value]
            return set(found)

        # What was sent before there was a Service holds nobody up when there is one.
        assert answer() == ""
        save(file, *web(1, 1), *_dns(*pods))
        wait_until(lambda: answer() in pods, 10.0)
        for _ in range(3):
            (gone,) = answers()
            (left,) = set(pods) - {gone}
            save(file, *web(1, 1), *_dns(left))
            wait_until(lambda left=left: answer() == left, 10.0)  # type: ignore[misc]
            save(file, *web(1, 1), *_dns(*pods))
            ground.wait_for([*web(1, 1), *_dns(*pods)], 10.0)
        wait_until(lambda: agent.log.count("conntrack removed=1") >= 4)
        deleted = 'kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv4"}'
        assert metric(ground, deleted) >= 4


SYSCTLS = (
    *("nf_conntrack_tcp_timeout_established", "nf_conntrack_tcp_timeout_close_wait"),
    *("nf_conntrack_tcp_be_liberal", "nf_conntrack_udp_timeout"),
)


def sysctl_values(playground: Playground) -> list[str]:
    with playground.namespace.entered():
        return [Path(f"/proc/sys/net/netfilter/{name}").read_text().strip() for name in SYSCTLS]


def test_svc_71_what_is_configured_is_set_and_what_is_not_is_kube_proxys(playground: Playground) -> None:
    save(playground.manifests / "all.json", *web(1, 1))
    before = sysctl_values(playground)
    with playground.agent() as agent:
        agent.wait_for("sync mode=full", 10.0)
        assert sysctl_values(playground) == before
        playground.configure("conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 2h, tcpBeLiberal: true}")
        wait_until(lambda: sysctl_values(playground) == ["7200", "3600", "1", before[3]], 10.0)
        agent.wait_for("nf_conntrack_tcp_timeout_established", 10.0)


def test_without_a_configuration_file_no_sysctl_is_touched(playground: Playground) -> None:
    """D11."""
    save(playground.manifests / "all.json", *web(1, 1))
    before = sysctl_values(playground)
    playground.config = ""
    with playground.agent() as agent:
        agent.wait_for("sync mode=full", 10.0)
        assert "sysctl" not in agent.log
    assert sysctl_values(playground) == before


def test_d11_a_sysctl_that_is_refused_is_said_and_nothing_waits_for_it(
    playground: Playground, api_server: ApiServer, kubeconfig: str
) -> None:
    playground.configure("conntrack: {maxPerCore: 1, min: 777, udpTimeout: 7s}")
    api_server.put(*NODE, *web(1, 1))
    said = "cannot set nf_conntrack_max to 777 (it is "
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        agent.wait_for("sync mode=full", 10.0)
        assert agent.log.count(said) == 1
        assert sysctl_values(playground)[3] == "7"
        assert metric(playground, 'rulegen_findings{reason="SysctlNotSet"}') == 1
        wait_until(lambda: bool(api_server.events), 30.0)
    (event,) = api_server.events
    assert (event["reason"], event["type"], event["action"]) == ("SysctlNotSet", "Warning", "Start")
    assert event["regarding"]["kind"] == "Node"
    assert event["regarding"]["name"] == "node-1"
    assert event["metadata"]["namespace"] == "default"
    assert event["note"].startswith(said)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_d11_nor_does_a_read_only_file_system_end_the_agent(playground: Playground, tmp_path: Path) -> None:
    """What a pod without rights sees, with kube-proxy's own file."""
    playground.configure("conntrack: {}")
    save(playground.manifests / "all.json", *web(1, 1))
    script = (
        "mount --make-rprivate /proc && mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && "
        f"exec {RULEGEN} agent --node node-1 --config {playground.config} -f {playground.manifests}"
    )
    with (tmp_path / "log").open("wb") as log, playground.namespace.entered():
        process = subprocess.Popen(["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script], stderr=log)
    with process:
        try:
            agent = Agent(process, tmp_path)
            agent.wait_for("sync mode=full", 10.0)
            assert agent.log.count("Read-only file system; a container must be privileged") == 1
            save(playground.manifests / "all.json", *web(1, 1, 2))
            playground.wait_for(web(1, 1, 2), 10.0)
            process.send_signal(signal.SIGTERM)
            assert process.wait(patience(15)) == 0
        finally:
            process.kill()
