"""Services, pods and nodes by their names, and whose rules are asked about: `--from`, `--to`, `--address`, `--node`."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from textwrap import dedent

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from rulegen.cli import main
from rulegen.config import Configuration, Family, NodeConfiguration
from rulegen.configuration_file import known_node_configuration
from rulegen.errors import InputError
from rulegen.kube.objects import Pod
from rulegen.services.explain.model import Cause, View
from tests.builders import CONFIGURATION, Item, endpoint, endpoint_port, endpoint_slice, node, pod, port, service
from tests.explaining import answers, views

FOLDER = Path(__file__).parent.parent / "golden"
WEB_PORTS = [endpoint_port(8443, "https"), endpoint_port(5353, "dns", "UDP")]
ITEMS: list[Item | Pod] = [
    node(addresses=["192.168.1.10", "fd00::a"]),
    node("node-2", ["192.168.1.11"]),
    service("web", ["10.96.0.10"], [port(443, "https"), port(53, "dns", "UDP"), port(54, "dns-tcp")], namespace="shop"),
    endpoint_slice(
        [endpoint("10.244.1.1", "node-1", target="web-7d9"), endpoint("10.244.2.1", "node-2", target="web-7d8")],
        namespace="shop", ports=WEB_PORTS,
    ),
    endpoint_slice(
        [endpoint("fd00:1::1", "node-1", target="web-7d9")], namespace="shop", name="web-6", family="IPv6",
        ports=WEB_PORTS
    ),
    service("both", ["10.96.0.11", "fd00::11"], namespace="shop"),
    service("both", ["10.96.0.12"], namespace="test"),
    service("resolver", ["10.96.0.13"], [port(53, "", "UDP")], namespace="kube-system"),
    service("twins", ["10.96.0.14"], [port(53, "tcp"), port(53, "udp", "UDP")], namespace="kube-system"),
    service("six", ["fd00::15"], namespace="shop"),
    service("tcp", ["10.96.0.16"], namespace="shop"),
    service("web-1", ["10.96.0.17"], namespace="svc"),
    pod("client", "10.244.1.9", namespace="shop"),
    pod("client", "10.244.1.8", namespace="test"),
    pod("agent", "", "node-2", namespace="kube-system", host_network=True),
    pod("agent-here", "192.168.1.10", namespace="kube-system", host_network=True),
    pod("done", "10.244.1.7", namespace="shop", phase="Succeeded"),
    pod("pending", "", namespace="shop", phase="Pending"),
    pod("both", "10.244.1.6", namespace="shop"),
]  # fmt: skip


_VIEW = views(*ITEMS)[0]


@pytest.fixture
def view() -> View:
    return _VIEW


@pytest.mark.parametrize(
    ("text", "destinations"),
    [
        ("shop/web:https", ["10.96.0.10:443/tcp"]),
        ("shop/web:443", ["10.96.0.10:443/tcp"]),
        ("shop/web:443/TCP", ["10.96.0.10:443/tcp"]),
        ("shop/web:443/Udp", ["10.96.0.10:443/udp"]),
        ("shop/web:dns", ["10.96.0.10:53/udp"]),
        ("shop/web:53", ["10.96.0.10:53/udp"]),
        ("shop/web:dns/tcp", ["10.96.0.10:53/tcp"]),
        ("shop/web/udp", ["10.96.0.10:53/udp"]),
        ("shop/web:8443", ["10.96.0.10:8443/tcp"]),
        ("shop/web/icmp", ["10.96.0.10/icmp"]),
        ("shop/web/ICMP", ["10.96.0.10/icmp"]),
        ("svc/web:443", ["10.96.0.10:443/tcp"]),
        ("service/web:443", ["10.96.0.10:443/tcp"]),
        ("svc/shop/web:443", ["10.96.0.10:443/tcp"]),
        ("web:443", ["10.96.0.10:443/tcp"]),
        ("web.shop.svc:443", ["10.96.0.10:443/tcp"]),
        ("web.shop.svc.cluster.local:https/TCP", ["10.96.0.10:443/tcp"]),
        ("resolver", ["10.96.0.13:53/udp"]),
        ("resolver:54", ["10.96.0.13:54/udp"]),
        ("twins", ["10.96.0.14:53/tcp"]),
        ("twins:udp", ["10.96.0.14:53/udp"]),
        ("svc/shop/both", ["10.96.0.11:80/tcp", "[fd00::11]:80/tcp"]),
        ("test/both", ["10.96.0.12:80/tcp"]),
        ("shop/six", ["[fd00::15]:80/tcp"]),
        ("shop/tcp", ["10.96.0.16:80/tcp"]),
        ("shop/tcp/tcp", ["10.96.0.16:80/tcp"]),
        ("svc/web-1", ["10.96.0.17:80/tcp"]),
        ("shop/web-7d9:https", ["10.244.1.1:8443/tcp", "[fd00:1::1]:8443/tcp"]),
        ("shop/web-7d8:5353", ["10.244.2.1:5353/udp"]),
        ("web-7d8:1", ["10.244.2.1:1/tcp"]),
        ("shop/client:metrics", ["10.244.1.9:9000/tcp"]),
        ("pod/shop/client", ["10.244.1.9:9000/tcp"]),
        ("agent:9000", ["192.168.1.11:9000/tcp"]),
        ("agent-here:9000", ["192.168.1.10:9000/tcp", "[fd00::a]:9000/tcp"]),
        ("node:30000", ["192.168.1.10:30000/tcp", "[fd00::a]:30000/tcp"]),
        ("node-2:30000/udp", ["192.168.1.11:30000/udp"]),
        ("node/node-2:30000", ["192.168.1.11:30000/tcp"]),
        ("10.96.0.10:53", ["10.96.0.10:53/udp"]),
        ("10.96.0.10:443/TCP", ["10.96.0.10:443/tcp"]),
        ("10.96.0.10:81", ["10.96.0.10:81/tcp"]),
        ("10.96.0.13:81", ["10.96.0.13:81/udp"]),
        ("8.8.8.8:53", ["8.8.8.8:53/tcp"]),
        ("10.96.0.010:0443/tcp", ["10.96.0.10:443/tcp"]),
        ("[fd00::11]:80", ["[fd00::11]:80/tcp"]),
        ("[fd00:0:0::0011]:80/TCP", ["[fd00::11]:80/tcp"]),
        ("[::ffff:10.96.0.10]:443/tcp", ["10.96.0.10:443/tcp"]),
        ("[fd00::11]/icmp", ["[fd00::11]/icmp"]),
        ("fd00::11/ICMP", ["[fd00::11]/icmp"]),
    ],
)  # fmt: skip
def test_what_a_destination_stands_for(view: View, text: str, destinations: list[str]) -> None:
    assert [one.destination for one in answers(view, "node", text)] == destinations


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("node", ["192.168.1.10", "fd00::a"]),
        ("shop/client", ["10.244.1.9"]),
        ("pod/test/client", ["10.244.1.8"]),
        ("web-7d9", ["10.244.1.1", "fd00:1::1"]),
        ("pod/web-7d9", ["10.244.1.1", "fd00:1::1"]),
        ("shop/both", ["10.244.1.6"]),
        ("agent", ["192.168.1.11"]),
        ("node-2", ["192.168.1.11"]),
        ("node/node-1", ["192.168.1.10", "fd00::a"]),
        ("10.244.001.9", ["10.244.1.9"]),
        ("fd00::7", ["fd00::7"]),
        ("[fd00::7]", ["fd00::7"]),
        ("::ffff:10.0.0.9", ["10.0.0.9"]),
    ],
)
def test_what_a_source_stands_for(view: View, text: str, sources: list[str]) -> None:
    """Where both ends have both families both are answered, else the one that both have."""
    assert [one.source for one in answers(view, text, "svc/shop/both")] == sources


@pytest.mark.parametrize(
    ("source", "destination", "message"),
    [
        ("node", "shop/web", 'which port of Service shop/web? Write "shop/web:PORT"; it has 443/TCP (https), 53/UDP'),
        ("node", "shop/web:htps", 'Service shop/web has no port "htps"; it has 443/TCP (https), 53/UDP (dns)'),
        ("node", "shop/web:0", 'expected a port from 1 to 65535, got "0"'),
        ("node", "shop/web:70000", 'expected a port from 1 to 65535, got "70000"'),
        ("node", "10.96.0.10:65536/tcp", 'expected a port from 1 to 65535, got "65536"'),
        ("node", f"10.96.0.10:{'9' * 5000}/tcp", 'expected a port from 1 to 65535, got "999'),
        ("node", "shop/web:٤٤٣", "Service shop/web has no port"),
        ("node", "shop/web:", "expected a port behind the colon"),
        ("node", "shop/web:443/icmp", 'ICMP has no ports, got "443"'),
        ("node", "svc/both", '"svc/both" may be svc/shop/both or svc/test/both'),
        ("node", "both", '"both" may be svc/shop/both or svc/test/both or pod/shop/both'),
        ("node", "shop/both", '"shop/both" may be svc/shop/both or pod/shop/both'),
        ("node", "shop/wbe:443", "no Service or pod has this name; there is svc/shop/web"),
        ("node", "web-7d", "pod/shop/web-7d9, pod/shop/web-7d8"),
        ("node", "node/node-3:80", 'no node "node-3"; there is node-1, node-2'),
        ("node", "10.96.0.10", "got \"10.96.0.10\"; there is 443/TCP (https), 53/UDP (dns)"),
        ("node", "fd00::11:80/tcp", "an IPv6 address with a port is [ADDRESS]:PORT"),
        ("node", "[10.96.0.10]:80/tcp", 'expected an IP address, in brackets if it is IPv6, got "10.96.0.10"'),
        ("node", "fe80::1%eth0/icmp", "expected an IP address"),
        ("node", "10.96.0:80/tcp", "expected an IP address"),
        ("node", "", "or a name, got \"\""),
        ("node", "a/b/c/d:80", "no Service or pod has this name"),
        ("node", "\x1b[31m:80", 'got "\\u001b[31m:80"'),
        ("client", "web:443", '"client" may be pod/shop/client or pod/test/client'),
        ("shop/clinet", "web:443", 'got "shop/clinet", and no pod has this name; there is shop/client'),
        ("shop/web", "web:443", "shop/web is a Service, which sends nothing; its pods are shop/web-7d9, shop/web-7d8"),
        ("shop/done", "web:443", 'pod shop/done has no address (phase "Succeeded")'),
        ("shop/pending", "web:443", 'pod shop/pending has no address (phase "Pending")'),
        ("node", "shop/pending", 'pod shop/pending has no address (phase "Pending")'),
        ("shop/client", "shop/six", "10.244.1.9 and fd00::15 are of different IP families"),
        ("x" * 100_000, "web:443", "no pod has this name"),
    ],
)  # fmt: skip
def test_what_a_name_does_not_stand_for(view: View, source: str, destination: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        answers(view, source, destination)
    assert message in str(raised.value)
    assert str(raised.value).startswith(("--to: ", "--from: ", "--from and --to: "))
    assert len(str(raised.value)) < 500


def test_a_family_that_leads_nowhere_is_not_asked_about() -> None:
    """Unless it is the only one."""
    both = service("both", ["10.96.0.11", "fd00::11"])
    (only_ipv4, _) = views(node(), both)
    assert [one.destination for one in answers(only_ipv4, "node", "both")] == ["10.96.0.11:80/tcp"]
    assert [one.source for one in answers(only_ipv4, "node", "[fd00::11]:80")] == ["::1"]
    dual = node(addresses=["192.168.1.10", "fd00::a"])
    (without_rules, _) = views(dual, both, configuration=replace(CONFIGURATION, families=(Family.IPV4,)))
    assert [one.destination for one in answers(without_rules, "node", "both")] == ["10.96.0.11:80/tcp"]
    assert [one.why[0].cause for one in answers(without_rules, "fd00::7", "both")] == [Cause.NO_RULES]


def test_candidates_are_bounded() -> None:
    services = [service("web", [f"10.96.0.{i + 1}"], namespace=f"n{i:03}") for i in range(50)]
    (view, _) = views(node(), *services)
    with pytest.raises(InputError, match=r"svc/n009/web, and 40 more"):
        answers(view, "node", "web")


def test_who_stands_behind_addresses_is_said(view: View) -> None:
    first, _ = answers(view, "shop/web-7d9", "svc/shop/both")
    assert first.names == ("from pod shop/web-7d9, on node node-1", "to Service shop/both")
    (found,) = answers(view, "agent", "web:https")
    assert found.names == (
        "from pod kube-system/agent, on node node-2, on the host network",
        "to Service shop/web, port https",
    )
    assert (found.origin, found.why[-1].cause) == ("outside", Cause.DECIDED_ELSEWHERE)
    (found,) = answers(view, "agent-here", "web:https")
    assert found.origin == "this node"


# ---- the command ----


CLUSTER = FOLDER / "dual-stack" / "cluster.yaml"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments])


def explain(*arguments: str, file: Path = CLUSTER) -> Result:
    return run("explain", "-f", str(file), "--node", "node-a", *arguments)


def test_both_families_are_answered_as_text_and_as_a_document() -> None:
    name = "svc/" + next(iter(re.findall(r"^  name: ([a-z-]+)\n  namespace", CLUSTER.read_text(), re.MULTILINE)))
    text = explain("--to", f"{name}:80").stdout
    assert len(re.findall(r"^\S+ \(this node\) to ", text, re.MULTILINE)) == 2
    assert text.count("\n  why\n") == 2
    document = json.loads(explain("--to", f"{name}:80", "-o", "json").stdout)
    (other,) = document["otherFamilies"]
    assert ":" in other["source"]
    for one in (document, other):
        assert one["names"] == [f"to Service default/{name[4:]}, port http"]
        assert one["why"][0]["cause"] == "AllReadyEndpoints"


def test_addresses_that_the_node_object_does_not_state() -> None:
    """As of a node with two cards: it is the node that sends, and a NodePort may be accepted there."""
    without = json.loads(explain("--from", "192.0.2.250", "--to", "10.96.0.20:80", "-o", "json").stdout)
    given = explain("--from", "192.0.2.250", "--to", "10.96.0.20:80", "--address", "192.0.2.250", "-o", "json")
    assert (without["origin"], json.loads(given.stdout)["origin"]) == ("outside", "this node")
    refused = explain("--to", "10.96.0.20:80", "--address", "here")
    assert (refused.exit_code, refused.stderr) == (2, 'rulegen: --address: expected an IP address, got "here"\n')
    assert explain("default/web", "--address", "192.0.2.250").exit_code == 2


def test_a_pod_that_cannot_be_read_is_no_reason_to_stop(tmp_path: Path) -> None:
    """Pods are read for their names alone."""
    bad = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: 'No Name'}\nspec: {nodeName: 1}\n"
    file = tmp_path / "cluster.yaml"
    file.write_text(CLUSTER.read_text() + bad)
    done = explain("--to", "10.96.0.20:80", file=file)
    assert (done.exit_code, done.stderr.startswith("rulegen: warning: ")) == (0, True)
    assert "Pod" in done.stderr
    needed = explain("--to", "10.96.0.20:80", "--feature", "host-ports", file=file)
    assert needed.exit_code == 2


@pytest.mark.parametrize(
    ("port", "feature", "words"),
    [
        (9113, True, "host port of pod edge/ingress"),
        (9113, False, "pod edge/ingress asks for host port 9113/TCP, and does not have it here (D21)"),
    ],
)
def test_host_ports(port: int, feature: bool, words: str) -> None:
    arguments = ["--feature", "host-ports"] if feature else []
    file = FOLDER / "host-ports" / "cluster.yaml"
    for target in ("nftables", "iptables"):
        question = ("--from", "203.0.113.9", "--to", f"node:{port}", "--target", target)
        assert words in explain(*question, *arguments, file=file).stdout.partition("\n  why\n")[2]


def test_a_policy_is_a_reason(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(
        dedent(
            """
            apiVersion: v1
            kind: Node
            metadata: {name: node-a}
            status: {addresses: [{type: InternalIP, address: 192.0.2.10}]}
            ---
            apiVersion: v1
            kind: Namespace
            metadata: {name: shop}
            ---
            apiVersion: v1
            kind: Pod
            metadata: {name: db-0, namespace: shop, labels: {app: db}}
            spec: {nodeName: node-a}
            status: {phase: Running, podIP: 10.128.0.5}
            ---
            apiVersion: v1
            kind: Pod
            metadata: {name: web-0, namespace: shop, labels: {app: web}}
            spec: {nodeName: node-a}
            status: {phase: Running, podIP: 10.128.0.6}
            ---
            apiVersion: v1
            kind: Service
            metadata: {name: db, namespace: shop}
            spec: {clusterIP: 10.96.0.10, ports: [{port: 5432}]}
            ---
            apiVersion: discovery.k8s.io/v1
            kind: EndpointSlice
            metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
            addressType: IPv4
            endpoints: [{addresses: [10.128.0.5], nodeName: node-a, targetRef: {name: db-0}}]
            ports: [{name: "", port: 5432}]
            ---
            apiVersion: networking.k8s.io/v1
            kind: NetworkPolicy
            metadata: {name: closed, namespace: shop}
            spec:
              podSelector: {matchLabels: {app: db}}
              ingress: [{from: [{podSelector: {matchLabels: {app: api}}}]}]
            """
        )
    )
    question = ("--from", "shop/web-0", "--to", "svc/shop/db")
    for target in ("nftables", "iptables"):
        options = ("--feature", "network-policies", "--target", target)
        text = explain(*question, *options, file=file).stdout
        why = text.partition("\n  why\n")[2]
        assert "is denied, ingress of pod shop/db-0: " in why
        assert "NetworkPolicy shop/closed" in why
        document = json.loads(explain(*question, *options, "-o", "json", file=file).stdout)
        assert document["fate"] == "balanced"
        assert [one["cause"] for one in document["why"]] == ["NetworkPolicy", "AllReadyEndpoints"]
        assert document["why"][0]["wouldWork"] == [document["policies"][0]["directions"][1]["remedy"]]
    assert "NetworkPolicy" not in explain(*question, file=file).stdout


# ---- whose rules ----


def commands(tmp_path: Path) -> list[list[str]]:
    packets = tmp_path / "packets"
    packets.write_text("10.128.0.9 10.96.0.20:80/tcp\n")
    rules = tmp_path / "rules.nft"
    return [
        ["render"],
        ["diff", "--against", str(rules)],
        ["apply", "--dry-run"],
        ["explain", "--to", "10.96.0.20:80/tcp"],
        ["explain", "default/web"],
        ["verify", "--rendered", str(rules)],
        ["golden", "record", str(tmp_path / "scenario"), "--packets", str(packets)],
    ]


def test_an_unknown_node_is_an_error_that_lists_those_there_are(tmp_path: Path) -> None:
    for command in commands(tmp_path):
        done = run(*command, "-f", str(CLUSTER), "--node", "node-x")
        assert (done.exit_code, done.stdout) == (2, ""), command
        assert done.stderr == 'rulegen: --node: there is no node "node-x"; there is node-a, node-b\n'
        done = run(*command, "-f", str(CLUSTER))
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith("rulegen: which node? Name it with --node; this host, ")
        assert done.stderr.endswith("is none of node-a, node-b\n")


@pytest.mark.parametrize(
    ("name", "override", "host", "known", "chosen"),
    [
        ("node-b", "", "node-a", ["node-a", "node-b"], "node-b"),
        (" Node-B ", "", "node-a", ["node-a", "node-b"], "node-b"),
        ("", "", "NODE-a", ["node-a", "node-b"], "node-a"),
        ("", "", "laptop", ["node-a"], "node-a"),
        ("", "", "not_a_name", ["node-a"], "node-a"),
        ("", "node-b", "node-a", ["node-a", "node-b"], "node-b"),
        ("anything", "", "laptop", [], "anything"),
        ("", "", "laptop", [], "laptop"),
    ],
)
def test_which_node_is_meant(name: str, override: str, host: str, known: list[str], chosen: str) -> None:
    configuration = Configuration(node=NodeConfiguration(node_name=override))
    assert known_node_configuration(configuration, name, host, known).node_name == chosen


def test_which_node_is_not_meant() -> None:
    overridden = Configuration(node=NodeConfiguration(node_name="node-z"))
    with pytest.raises(InputError, match=r'^hostnameOverride: there is no node "node-z"; there is node-a$'):
        known_node_configuration(overridden, "", "node-a", ["node-a"])
    many = [f"node-{number:03}" for number in range(50)]
    with pytest.raises(InputError, match=r"there is node-000, .*, node-009, and 40 more$"):
        known_node_configuration(Configuration(), "node-x", "node-a", many)


def test_a_node_that_cannot_be_read_is_there_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(CLUSTER.read_text() + "---\napiVersion: v1\nkind: Node\nmetadata: {name: node-d}\nspec: []\n")
    done = run("render", "-f", str(file), "--node", "node-d", "--skip-invalid")
    assert done.exit_code == 0
    assert "Node node-d: not known" in done.stderr


_ALPHABET = st.sampled_from([*"[]:/.-_%0189afwe \x1b\u0664", "svc/", "pod/", "node", "shop/web", "10.96.0.10", "/tcp"])


@settings(max_examples=300)
@given(st.lists(_ALPHABET, max_size=8).map("".join), st.lists(_ALPHABET, max_size=8).map("".join))
def test_whatever_is_written_is_a_line_or_an_answer(source: str, destination: str) -> None:
    for one, other in ((source, "shop/web:443"), ("node", destination)):
        found = []
        with suppress(InputError):
            found = answers(_VIEW, one, other)
        assert all(explanation.why for explanation in found)
