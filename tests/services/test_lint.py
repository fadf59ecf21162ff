"""rulegen lint: each finding has its cause, and a sound cluster none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from rulegen.cli import main
from rulegen.golden import find_scenarios
from rulegen.kube.fields import unknown_fields
from rulegen.kube.mistakes import Mistake
from rulegen.kube.objects import Endpoints, EndpointSlice, Service
from rulegen.reference import Finding
from rulegen.services.lint import LintInput, lint
from rulegen.services.model import Reason
from tests.builders import (
    Item,
    draining,
    endpoint,
    endpoint_port,
    endpoint_slice,
    node,
    port,
    service,
    service_cidr,
    store,
)

FOLDER = Path(__file__).parents[2] / "golden"
GOOD = endpoint_slice([endpoint("10.244.0.1", "node-1"), endpoint("10.244.0.2", "node-2")])


def found(*items: Item, unselected: Sequence[Service] = ()) -> list[tuple[str, str]]:
    return [(finding.subject, finding.reason) for finding in findings(*items, unselected=unselected)]


def findings(*items: Item, unselected: Sequence[Service] = ()) -> list[Finding]:
    made = store(node(), *items)
    services = [item for item in items if isinstance(item, Service)]
    slices = [item for item in items if isinstance(item, EndpointSlice)]
    result = lint(LintInput(made, made.findings(), services, unselected, slices))
    assert result == sorted(set(result))
    assert result == lint(LintInput(made, made.findings(), services[::-1], unselected, slices[::-1]))
    return result


WEB = "Service default/web"


def test_a_sound_cluster() -> None:
    assert found(service(kind="NodePort", ports=[port(node_port=30080)]), GOOD, service_cidr("10.96.0.0/12")) == []


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (service(annotations={"rulegen.io/weight": "3"}), Reason.UNKNOWN_ANNOTATION),
        (service(ranges=["10.0.0.0/8"]), Reason.IGNORED_RANGES),
        (service(external="Local"), Reason.IGNORED_POLICY),
        (service(kind="LoadBalancer", external="Local", vips=["192.0.2.1"]), Reason.NO_HEALTH_CHECK),
        (service(ports=[port(name="http")]), Reason.UNMATCHED_PORT),
        (service(annotations={"rulegen.io/weights": "*=0"}), Reason.ALL_WEIGHTS_ZERO),
        (service(annotations={"rulegen.io/weights": "10.244.0.1=65535, *=3"}), Reason.ROUNDED_WEIGHTS),
        (service(annotations={"rulegen.io/weights": "web-canary-*=3"}), Reason.UNMATCHED_WEIGHT),
        (service(annotations={"rulegen.io/weights": "*=many"}), Reason.MALFORMED_WEIGHT),
        (service(cluster_ips=["10.112.0.1"]), Reason.OUTSIDE_SERVICE_CIDRS),
        (
            service(kind="NodePort", ports=[port(81, node_port=30080), port(82, "b", node_port=30080)]),
            Reason.DUPLICATE_FRONTEND,
        ),
    ],
    ids=lambda item: str(item) if isinstance(item, Reason) else "",
)
def test_a_service_that_is_probably_wrong(item: Service, reason: Reason) -> None:
    assert (WEB, reason) in found(item, GOOD, service_cidr("10.96.0.0/12"))


def test_an_affinity_timeout_without_affinity() -> None:
    item = service(affinity=60)
    assert found(item, GOOD) == []
    assert found(replace(item, spec=replace(item.spec, session_affinity="None")), GOOD) == [
        (WEB, Reason.IGNORED_AFFINITY_TIMEOUT)
    ]


@pytest.mark.parametrize(
    "slices",
    [[], [endpoint_slice([])], [endpoint_slice([endpoint("10.244.0.1", ready=False)])], [endpoint_slice([], ports=[])]],
)
def test_nobody_answers_where_load_balancers_send_to(slices: list[EndpointSlice]) -> None:
    assert found(service(kind="NodePort", ports=[port(node_port=30080)]), *slices) == [(WEB, Reason.NO_ENDPOINTS)]
    assert found(service(), *slices) == []


def test_policy_local_that_no_node_can_serve() -> None:
    item = service(internal="Local")
    assert found(item, endpoint_slice(["10.244.0.1"])) == [(WEB, Reason.NO_LOCAL_ENDPOINTS)]
    assert found(item, endpoint_slice([endpoint("10.244.0.1", "node-9")])) == []
    assert found(service(), endpoint_slice(["10.244.0.1"])) == []


def test_hints_on_some_endpoints_only() -> None:
    hinted = endpoint("10.244.0.1", zones=["zone-1"])
    assert found(service(), endpoint_slice([hinted, "10.244.0.2"])) == [(WEB, Reason.PARTIAL_HINTS)]
    assert found(service(), endpoint_slice([hinted, draining("10.244.0.2")])) == []


def test_slices_and_their_service() -> None:
    stray = endpoint_slice(["10.244.0.1"], service_name="old", name="old-1")
    other = endpoint_slice(["10.244.0.1"], name="web-2", ports=[endpoint_port(name="metrics")])
    assert found(service(), GOOD, stray) == [("EndpointSlice default/old-1", Reason.MISSING_SERVICE)]
    assert found(service(), GOOD, stray, unselected=[service("old")]) == []
    assert found(service(), GOOD, other) == [("EndpointSlice default/web-2", Reason.UNMATCHED_SLICE_PORT)]


def test_annotations_of_slices() -> None:
    slice_ = endpoint_slice(["10.244.0.1"], annotations={"rulegen.io/weights": "*=1", "rulegen.io/weight": "2"})
    assert found(service(), slice_) == [("EndpointSlice default/web-1", Reason.UNKNOWN_ANNOTATION)]


def test_weights_that_are_within_the_tolerance() -> None:
    item = service(annotations={"rulegen.io/weights": "10.244.0.1=1000,*=999"})
    assert found(item, GOOD) == []


def test_every_message_names_its_rule() -> None:
    for folder in find_scenarios([str(FOLDER)]):
        run = CliRunner().invoke(main, ["lint", "-f", str(folder / "cluster.yaml"), "--node", "node-a", "-o", "json"])
        for finding in json.loads(run.stdout)["findings"]:
            assert "SVC-" in finding["message"] or "(D" in finding["message"], finding


def test_exit_statuses(tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(main, ["lint", "--node", "node-a", *arguments])
        return result.exit_code, result.stdout, result.stderr

    clean = str(FOLDER / "clusterip" / "cluster.yaml")
    assert run("-f", clean)[:2] == (0, "0 findings\n")
    status, output, _ = run("-f", str(FOLDER / "weights" / "cluster.yaml"))
    assert status == 1
    assert output.splitlines()[0].startswith("Service default/drained: AllWeightsZero: ")
    assert output.splitlines()[-1] == "2 findings"
    broken = tmp_path / "broken.yaml"
    broken.write_text("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 70000}]}\n")
    status, output, errors = run("-f", str(broken))
    assert (status, output) == (2, "")
    assert errors.count("\n") == 1
    assert "70000" in errors


def test_a_node_that_is_not_known(tmp_path: Path) -> None:
    text = (FOLDER / "clusterip" / "cluster.yaml").read_bytes()
    everything, without_nodes = tmp_path / "all.yaml", tmp_path / "no-nodes.yaml"
    everything.write_bytes(text)
    without_nodes.write_text("---\n".join(part for part in text.decode().split("---\n") if "kind: Node\n" not in part))
    result = CliRunner().invoke(main, ["lint", "-f", str(everything), "--node", "node-x"])
    assert result.exit_code == 1
    assert "Node node-x: UnknownNode: " in result.stdout
    result = CliRunner().invoke(main, ["lint", "-f", str(without_nodes), "--node", "node-x"])
    assert (result.exit_code, result.stdout) == (0, "0 findings\n")
    assert "warning: Node node-x" in result.stderr


def test_json(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["lint", "-f", str(FOLDER / "topology-hints" / "cluster.yaml"), "--node", "node-a", "-o", "json"]
    )
    (finding,) = msgspec.json.decode(result.stdout)["findings"]
    assert (finding["object"], finding["reason"]) == ("Service default/one-without", "PartialTopologyHints")


def test_mistakes_in_how_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(
        """
apiVersion: v1
kind: Service
metadata: {name: web, lables: {a: b}}
spec:
  clusterIP: 10.96.0.10
  clusterIp: 10.96.0.11
  externalTraficPolicy: Local
  ports: [{port: 80, port: 81, targetport: 8080, nodePort: 0}]
  sessionAffinityConfig: {clientIp: {timeoutSeconds: 5}}
status: {loadBalancer: {ingress: [{ip: 192.0.2.1, IPMode: VIP}]}}
---
{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "adressType": "IPv4", "addressType": "IPv4",
 "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
 "endpoints": [{"addresses": ["127.0.0.1"], "condition": {}, "conditions": {"raedy": true}}],
 "ports": [{"port": 80, "nmae": "x"}]}
---
apiVersion: discovery.k8s.io/v1beta1
kind: EndpointSlice
---
apiVersion: v1
kind: Service
metadata: {name: new}
"""
        "spec: {}\n"
    )
    result = CliRunner().invoke(main, ["lint", "-f", str(file), "--node", "n"])
    assert result.exit_code == 1
    unknown = "UnknownField: {} is no field that Kubernetes knows; {} is: it has no effect"
    assert result.stdout.splitlines() == [
        f"{file}, document 3: UnreadVersion: EndpointSlice of discovery.k8s.io/v1beta1, which is not read:"
        " discovery.k8s.io/v1 is (SVC-17)",
        "EndpointSlice default/web-1: " + unknown.format("adressType", "addressType"),
        "EndpointSlice default/web-1: " + unknown.format("endpoints[0].condition", "conditions"),
        "EndpointSlice default/web-1: " + unknown.format("endpoints[0].conditions.raedy", "ready"),
        "EndpointSlice default/web-1: " + unknown.format("ports[0].nmae", "name"),
        "EndpointSlice default/web-1: UnusualAddress: endpoint 127.0.0.1 is a loopback address, which is hardly meant"
        " (SVC-12)",
        "Service default/new: NoClusterIP: has no clusterIP, as before it is created: no rules for it (SVC-4)",
        f'Service default/web: RepeatedKey: {file}:9: the key "port" is set twice, and the last one counts'
        " (as for kubectl)",
        "Service default/web: " + unknown.format("metadata.lables", "labels"),
        "Service default/web: " + unknown.format("spec.clusterIp", "clusterIP"),
        "Service default/web: " + unknown.format("spec.externalTraficPolicy", "externalTrafficPolicy"),
        "Service default/web: " + unknown.format("spec.ports[0].targetport", "targetPort"),
        "Service default/web: " + unknown.format("spec.sessionAffinityConfig.clientIp", "clientIP"),
        "Service default/web: " + unknown.format("status.loadBalancer.ingress[0].IPMode", "ipMode"),
        "14 findings",
    ]


def test_every_field_that_is_read_is_known() -> None:
    """Of the Structs, by the names that the API has."""

    def names(struct: type[msgspec.Struct]) -> dict[str, Any]:
        found = {}
        for field in msgspec.structs.fields(struct):
            inner = [part for part in parts(field.type) if isinstance(part, type) and issubclass(part, msgspec.Struct)]
            found[field.encode_name] = names(inner[0]) if inner else "x"
        return found

    def parts(type_: Any) -> list[Any]:
        return [type_, *(part for argument in get_args(type_) for part in parts(argument))]

    for kind in (Service, EndpointSlice, Endpoints):
        assert unknown_fields(kind.__name__, "x", names(kind)) == []


def test_every_mistake_has_its_reason() -> None:
    assert {mistake.value for mistake in Mistake} <= {reason.value for reason in Reason}
    for mistake in Mistake:
        assert Reason(mistake).name == mistake.name
