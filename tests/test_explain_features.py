"""rulegen explain follows packets through the rules of all features, those that were compiled and the kernel's."""

from __future__ import annotations

import json
import subprocess
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


def explain(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["explain", *OPTIONS, *arguments, "-o", "json"], catch_exceptions=False)
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
