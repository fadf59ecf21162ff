"""rulegen explain follows packets through the rules of all features, those that were compiled and the kernel's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rulegen.cli import main
from rulegen.demo.namespaces import NetworkNamespace

CLUSTER = Path(__file__).parent.parent / "golden" / "network-policies" / "cluster.yaml"
OPTIONS = ("-f", str(CLUSTER), "--node", "node-a", "--feature", "network-policies")
# A client that no rule lets in, and a pod that one does.
DENIED = ("--from", "10.128.0.7", "--to", "10.128.0.5:8080/tcp")
ALLOWED = ("--from", "shop/web-1", "--to", "shop/db-0:5432")
THROUGH_SERVICE = ("--from", "10.128.0.7", "--to", "10.96.0.20:80/tcp")
TARGETS = pytest.mark.parametrize("target", ["nftables", "iptables"])


# A pod that may send nothing; a Service with an endpoint, one with none, and one without a ClusterIP.
CLOSED = """
{apiVersion: v1, kind: Node, metadata: {name: node-a}, spec: {podCIDRs: [10.128.0.0/24]},
 status: {addresses: [{type: InternalIP, address: 192.168.0.10}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop},
 spec: {type: LoadBalancer, clusterIP: 10.96.0.20, ports: [{name: http, port: 80}]},
 status: {loadBalancer: {ingress: [{ip: 203.0.113.100}]}}}
---
{apiVersion: v1, kind: Service, metadata: {name: api, namespace: shop},
 spec: {clusterIP: 10.96.0.21, ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{port: 8080}],
 metadata: {name: api-4, namespace: shop, labels: {kubernetes.io/service-name: api}},
 endpoints: [{addresses: [10.128.1.8]}]}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: None, ports: [{port: 5432}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{port: 5432}],
 metadata: {name: db-4, namespace: shop, labels: {kubernetes.io/service-name: db}},
 endpoints: [{addresses: [10.128.1.7]}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv6, ports: [{port: 5432}],
 metadata: {name: db-6, namespace: shop, labels: {kubernetes.io/service-name: db}},
 endpoints: [{addresses: ["fd00:10:128:1::7"]}]}
---
{apiVersion: v1, kind: Pod, metadata: {name: client, namespace: shop},
 spec: {nodeName: node-a, containers: [{name: c}]},
 status: {phase: Running, podIP: 10.128.0.5, podIPs: [{ip: 10.128.0.5}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny, namespace: shop},
 spec: {podSelector: {}, policyTypes: [Egress]}}
"""


def explain(*arguments: str, options: Sequence[str] = OPTIONS) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["explain", *options, *arguments, "-o", "json"], catch_exceptions=False)
    assert (done.exit_code, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@TARGETS
def test_a_packet_passes_the_policies_chains(target: str) -> None:
    found = explain(*DENIED, "--target", target)
    denying = {"nftables": "ip rulegen-network-policies denied-ingress", "iptables": "ip filter RULEGEN-NP-DENIED"}
    assert found["elsewhere"] == [f"dropped, by chain {denying[target]}"]
    assert found["chains"][-1] == denying[target]
    assert not found["otherwise"]
    if target == "nftables":
        assert "ip rulegen-network-policies ingress/shop/web" in found["chains"]
        (entry,) = found["entries"]
        assert entry["meaning"] == "what pod shop/web-1 receives is up to the policies of this chain"
    else:
        assert any(one["meaning"] == "network-policies" for one in found["entries"])
    assert [one["allowed"] for one in found["policies"]] == [False]


@TARGETS
def test_a_packet_that_policies_let_pass(target: str) -> None:
    found = explain(*ALLOWED, "--target", target)
    assert [one["allowed"] for one in found["policies"]] == [True]
    assert (found["elsewhere"], found["otherwise"]) == ([], [])
    assert found["chains"]


@TARGETS
def test_an_endpoint_that_policies_deny(target: str) -> None:
    """The Service balances, and of the endpoints on this node the policies have their say."""
    found = explain(*THROUGH_SERVICE, "--target", target)
    assert found["fate"] == "balanced"
    assert [one.partition(", by")[0] for one in found["elsewhere"]] == ["dropped to 10.128.0.5:8080"]
    assert not found["otherwise"]


@pytest.mark.kernel
def test_rules_of_the_kernel_are_followed() -> None:
    options = ("--target", "nftables", "--live")
    with NetworkNamespace() as namespace, namespace.entered():
        applied = CliRunner().invoke(main, ["apply", *OPTIONS], catch_exceptions=False)
        assert not applied.exit_code, applied.stderr
        whole = explain(*DENIED, *options)
        assert whole["live"] == {"agrees": True, "differences": []}
        assert whole["elsewhere"] == ["dropped, by chain ip rulegen-network-policies denied-ingress"]
        _run("nft delete element ip rulegen-network-policies ingress-pods { 10.128.0.5 }")
        _run("nft insert rule ip rulegen frontend tcp dport 80 drop")
        # What is in force lets it pass; that it should not is said besides.
        found = explain(*DENIED, *options)
        assert (found["elsewhere"], found["chains"]) == ([], [])
        assert [one["allowed"] for one in found["policies"]] == [False]
        assert any("network-policies ingress-pods 10.128.0.5" in line for line in found["live"]["differences"])
        found = explain(*THROUGH_SERVICE, *options)
        assert (found["otherwise"], found["chains"]) == (["100 % dropped"], ["prerouting", "frontend"])


@pytest.mark.kernel
def test_chains_of_the_kernel_are_followed() -> None:
    options = ("--target", "iptables", "--iptables-variant", "legacy")
    live = (*options, "--live")
    with NetworkNamespace() as namespace, namespace.entered():
        applied = CliRunner().invoke(main, ["apply", *OPTIONS, *options], catch_exceptions=False)
        assert not applied.exit_code, applied.stderr
        whole = explain(*THROUGH_SERVICE, *live)
        assert whole["live"] == {"agrees": True, "differences": []}
        assert [one.partition(", by")[0] for one in whole["elsewhere"]] == ["dropped to 10.128.0.5:8080"]
        _run("iptables-legacy -F RULEGEN-NP-INGRESS")
        _run("iptables-legacy -t nat -F RULEGEN-VIPS")
        found = explain(*DENIED, *live)
        assert found["elsewhere"] == []
        assert any("RULEGEN-NP-INGRESS" in line for line in found["live"]["differences"])
        found = explain(*THROUGH_SERVICE, *live)
        assert found["otherwise"] == ["100 % rejected"]


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True)


@TARGETS
@pytest.mark.parametrize(
    ("source", "destination", "reason"),
    [
        ("node", "10.128.0.6:80/tcp", "a node's packets to its own pods are not asked about"),
        ("10.128.0.6", "192.168.0.10:22/tcp", "a pod's packets to its own node are not asked about (nodeInput)"),
    ],
    ids=["to its pod", "from its pod"],
)
def test_between_a_node_and_its_pods_policies_are_not_asked(
    source: str, destination: str, reason: str, target: str
) -> None:
    found = explain("--from", source, "--to", destination, "--target", target)
    (said,) = found["policies"]
    assert said["allowed"]
    assert reason in [direction["reason"] for direction in said["directions"]]
    assert not any(why["cause"] == "policy" for why in found["why"])


def offers(found: dict[str, Any]) -> list[str]:
    """The destinations that would work."""
    return [work.partition(", ")[0] for why in found["why"] for work in why.get("wouldWork", ()) if "/tcp, " in work]


@TARGETS
@pytest.mark.parametrize(
    ("source", "destination", "offered"),
    [
        ("203.0.113.9", "10.96.0.21:81", ["10.96.0.21:80/tcp"]),
        ("shop/client", "10.96.0.21:81", []),
        ("203.0.113.9", "10.128.1.8:9999", ["10.128.1.8:8080/tcp"]),
        ("shop/client", "10.128.1.8:9999", []),
    ],
    ids=["Service", "Service, denied", "pod", "pod, denied"],
)
def test_what_policies_deny_is_not_offered(
    source: str, destination: str, offered: list[str], target: str, tmp_path: Path
) -> None:
    options = _closed(tmp_path)
    assert offers(explain("--from", source, "--to", destination, "--target", target, options=options)) == offered


@TARGETS
@pytest.mark.parametrize("destination", ["10.96.0.20:80", "203.0.113.100:80", "10.96.0.20:81"])
def test_what_services_reject_is_no_matter_of_policies(destination: str, target: str, tmp_path: Path) -> None:
    """On iptables policies are asked first. A rule of theirs would not help, and the rules are as they are meant."""
    options = _closed(tmp_path)
    found = explain("--from", "shop/client", "--to", destination, "--target", target, options=options)
    assert (found["fate"], found["otherwise"], found["policies"]) == ("rejected", [], [])
    assert "policy" not in [why["cause"] for why in found["why"]]
    assert [line.partition(",")[0] for line in found["elsewhere"]] == (["dropped"] if target == "iptables" else [])


@pytest.mark.parametrize(
    ("source", "offered"),
    [
        ("shop/client", []),
        ("203.0.113.9", ["10.128.1.7:5432/tcp"]),
        ("fd00:10:128:2::9", ["[fd00:10:128:1::7]:5432/tcp"]),
        ("node", ["10.128.1.7:5432/tcp", "[fd00:10:128:1::7]:5432/tcp"]),
    ],
)
def test_endpoints_of_a_headless_service_are_offered_to_those_who_get_there(
    source: str, offered: list[str], tmp_path: Path
) -> None:
    found = explain("--from", source, "--to", "svc/shop/db", options=_closed(tmp_path))
    assert offers(found) == offered


def _closed(folder: Path) -> list[str]:
    file = folder / "cluster.yaml"
    file.write_text(CLOSED, encoding="utf-8")
    return ["-f", str(file), "--feature", "network-policies"]
