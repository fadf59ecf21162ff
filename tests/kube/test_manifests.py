from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rulegen.errors import InputError
from rulegen.features import kinds_of
from rulegen.kube.fields import unknown_fields
from rulegen.kube.manifests import Manifests, load
from rulegen.kube.mistakes import Mistake, summary
from rulegen.kube.objects import EndpointSlice, Service

KUBECTL_GET = Path(__file__).with_name("kubectl-get.yaml")


def loaded(*documents: object) -> Manifests:
    """What JSON documents hold, of the kinds that the Services need; YAML must hold the same."""
    kinds = kinds_of(())
    from_json = load(["-"], io.BytesIO("\n".join(map(json.dumps, documents)).encode()), kinds=kinds)
    from_yaml = load(["-"], io.BytesIO(yaml.safe_dump_all(documents, explicit_start=True).encode()), kinds=kinds)
    assert from_json == from_yaml
    return from_json


def messages(*documents: object) -> list[str]:
    return [str(problem).removeprefix("standard input: ") for problem in loaded(*documents).problems]


def service(name: str = "web", **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, **more}, "spec": {}}


def endpoint_slice(name: str, **labels: str) -> dict[str, Any]:
    labels = {key.replace("_", "/"): value for key, value in labels.items()}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": labels},
        "addressType": "IPv4",
    }


def as_yaml(tmp_path: Path) -> Path:
    return KUBECTL_GET


def as_json(tmp_path: Path) -> Path:
    file = tmp_path / "list.json"
    file.write_text(json.dumps(yaml.safe_load(KUBECTL_GET.read_text()), indent=4))
    return file


@pytest.mark.parametrize("write", [as_yaml, as_json])
def test_what_kubectl_prints(tmp_path: Path, write: Any) -> None:
    found = load([str(write(tmp_path))], None, kinds=kinds_of(()))
    assert found.problems == []
    assert found.skipped == {"Pod": 1}

    (web,) = found.services
    assert (web.metadata.namespace, web.metadata.name) == ("shop", "web")
    assert web.metadata.creation_timestamp == "2024-03-01T10:00:00Z"
    assert web.metadata.annotations == {"rulegen.io/weights": "web-canary-*=1,*=9"}
    assert web.spec.cluster_ips == ["10.96.12.34", "fd00:10:96::c22"]
    assert [(port.name, port.port, port.node_port) for port in web.spec.ports or ()] == [
        ("http", 80, 30080),
        ("grpc", 9090, 30090),
    ]
    assert web.spec.external_traffic_policy == "Local"
    assert web.spec.health_check_node_port == 31002
    assert web.spec.session_affinity_config is not None
    assert web.spec.session_affinity_config.client_ip is not None
    assert web.spec.session_affinity_config.client_ip.timeout_seconds == 10800
    assert web.status is not None
    assert web.status.load_balancer is not None
    assert [(vip.ip, vip.ip_mode) for vip in web.status.load_balancer.ingress or ()] == [
        ("203.0.113.7", "VIP"),
        ("", None),
    ]

    ipv4, ipv6 = found.endpoint_slices
    assert ipv4.endpoints is not None
    first, second = ipv4.endpoints
    assert (first.node_name, first.addresses) == ("node-a", ["10.244.1.5"])
    assert first.hints is not None
    assert [zone.name for zone in first.hints.for_zones or ()] == ["zone-a"]
    assert [node.name for node in first.hints.for_nodes or ()] == ["node-a"]
    assert second.conditions is not None
    assert second.conditions.ready is None
    assert ipv4.ports is not None
    assert [(port.name, port.port) for port in ipv4.ports] == [("http", 8080), ("grpc", None)]
    assert (ipv6.endpoints, ipv6.ports) == (None, None)

    (node,) = found.nodes
    assert node.metadata.labels is not None
    assert node.metadata.labels["topology.kubernetes.io/zone"] == "zone-a"
    assert node.spec is not None
    assert node.spec.pod_cidrs == ["10.244.1.0/24", "fd00:10:244:1::/64"]
    assert [taint.key for taint in node.spec.taints or ()] == ["ToBeDeletedByClusterAutoscaler"]
    assert node.status is not None
    assert [(address.type, address.address) for address in node.status.addresses or ()] == [
        ("InternalIP", "192.0.2.11"),
        ("Hostname", "node-a"),
    ]
    (cidr,) = found.service_cidrs
    assert cidr.spec.cidrs == ["10.96.0.0/16", "fd00:10:96::/112"]


def test_lists_of_all_sorts() -> None:
    untyped = [
        {key: value for key, value in service(name).items() if key not in ("apiVersion", "kind")} for name in "ab"
    ]
    found = loaded(
        {"apiVersion": "v1", "kind": "ServiceList", "metadata": {}, "items": untyped},
        {"apiVersion": "v1", "kind": "List", "items": [service("c"), endpoint_slice("c-1")]},
        {"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {"name": "p"}}] * 3},
        {"apiVersion": "v1", "kind": "NodeList", "items": None},
        {"apiVersion": "v1", "kind": "List", "items": []},
        {"apiVersion": "example.org/v1", "kind": "AllowList", "items": {"a": 1}},
    )
    assert [item.metadata.name for item in found.services] == ["a", "b", "c"]
    assert [item.metadata.name for item in found.endpoint_slices] == ["c-1"]
    assert found.skipped == {"AllowList": 1, "Pod": 3}
    assert found.problems == []


def test_the_same_kind_of_a_foreign_group_is_another_kind() -> None:
    knative = {**service(), "apiVersion": "serving.knative.dev/v1", "spec": {"ports": "none of ours"}}
    found = loaded(knative, knative, {"apiVersion": "v1\x1b", "kind": "Hostile\n", "metadata": {}})
    assert found.services == []
    assert found.skipped == {"Service (serving.knative.dev/v1)": 2, '"Hostile\\n"': 1}


def test_service_cidrs_of_both_versions() -> None:
    for version in ("v1", "v1beta1"):
        value = {"kind": "ServiceCIDR", "metadata": {"name": "a"}, "spec": {"cidrs": ["10.0.0.0/8"]}}
        assert len(loaded({"apiVersion": f"networking.k8s.io/{version}", **value}).service_cidrs) == 1


@pytest.mark.parametrize("value", ["", "kube-router", "true"])
def test_services_of_another_proxy_are_left_out(value: str) -> None:
    """SVC-1: the presence of the label counts, not its value."""
    found = loaded(
        service(labels={"service.kubernetes.io/service-proxy-name": value}), service("kept", labels={"a": "b"})
    )
    assert [item.metadata.name for item in found.services] == ["kept"]


def test_headless_slices_are_left_out() -> None:
    """SVC-2; the label of SVC-1 has no effect on slices."""
    found = loaded(
        endpoint_slice("a", **{"service.kubernetes.io_headless": ""}),
        endpoint_slice("b", **{"service.kubernetes.io_service-proxy-name": "x"}),
    )
    assert [item.metadata.name for item in found.endpoint_slices] == ["b"]


def test_legacy_endpoints_serve_only_where_there_is_no_slice() -> None:
    """D10."""
    endpoints = [
        {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": name},
            "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}],
        }
        for name in ("web", "db")
    ]
    found = loaded(*endpoints, endpoint_slice("web-1", **{"kubernetes.io_service-name": "web"}))
    assert [item.metadata.name for item in found.endpoint_slices] == ["web-1", "db-endpoints-0-ipv4"]
    bad = {**endpoints[0], "subsets": [{"notReadyAddresses": [{"ip": "::ffff:10.0.0"}]}]}
    (message,) = messages(bad)
    assert message.startswith("Endpoints default/web: subsets[0].notReadyAddresses[0].ip: expected an IP address")


def test_every_bad_object_is_reported_and_the_good_ones_kept() -> None:
    bad_port = service("web")
    bad_port["spec"] = {"ports": [{"port": "http"}]}
    bad_list = {"apiVersion": "v1", "kind": "List", "items": [service("good"), 7, bad_port, {"kind": "List"}, {}]}
    documents = [
        bad_port,
        service('x"; flush ruleset\n'),
        [1],
        "text",
        {"kind": "Service"},
        {"apiVersion": "v1"},
        {"apiVersion": 1, "kind": ["Service"]},
        {"apiVersion": "v1", "kind": "Service", "metadata": {}, "spec": {}},
        {"apiVersion": "v1", "kind": "List", "items": {}},
        bad_list,
    ]
    assert messages(*documents) == [
        'Service default/web: spec.ports[0].port: expected int, got "http"',
        r'Service default/"x\"; flush ruleset\n": metadata.name: expected a DNS label, got "x\"; flush ruleset\n"',
        "document 3: expected an object, got an array",
        'document 4: expected an object, got "text"',
        "document 5: apiVersion: missing",
        "document 6: kind: missing",
        "document 7: apiVersion: expected str, got 1",
        "Service in document 8: metadata.name: missing",
        "document 9: items: expected an array, got an object",
        "document 10, items[1]: expected an object, got 7",
        'Service default/web: spec.ports[0].port: expected int, got "http"',
        "document 10, items[3]: a List inside a List is not read",
        "document 10, items[4]: apiVersion: missing",
    ]
    assert [item.metadata.name for item in loaded(*documents).services] == ["good"]


def test_the_parts_of_a_problem() -> None:
    (problem,) = loaded({"apiVersion": "v1", "kind": "List", "items": [service(), service(namespace="No")]}).problems
    assert (problem.place.source, problem.place.document, problem.place.item) == ("standard input", 1, 1)
    assert (problem.kind, problem.name, problem.field) == ("Service", "No/web", "metadata.namespace")


def test_an_object_that_comes_twice_is_named_with_both_places(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [service()]}))
    found = load([str(tmp_path)], None)
    assert len(found.services) == 1
    first, second = (f"{tmp_path}/{name}.json" for name in "ab")
    assert [str(problem) for problem in found.problems] == [
        f"{second}: Service default/web: document 1, items[0] repeats document 1, items[0] of {first}"
    ]
    other_namespace = service(namespace="shop")
    other_kind = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "web"}}
    assert loaded(service(), other_namespace, other_kind).problems == []
    assert messages(other_kind, service(namespace="default"), service(), other_kind) == [
        "Service default/web: document 3 repeats document 2 of standard input",
        "Node web: document 4 repeats document 1 of standard input",
    ]


def test_a_broken_file_is_a_problem_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [")
    (tmp_path / "b.json").write_text(json.dumps(service()))
    found = load([str(tmp_path)], None)
    assert [item.metadata.name for item in found.services] == ["web"]
    assert [str(problem) for problem in found.problems] == [
        f"{tmp_path}/a.yaml:2:1: invalid YAML: did not find expected node content"
    ]


def test_a_missing_file_stops_everything(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        load([str(tmp_path / "missing.yaml")], None)


NAMES = st.from_regex(r"\A[a-z]([-a-z0-9]{0,8}[a-z0-9])?\Z")
PORTS = st.integers(1, 65535)


# What kubectl reads, or what is nobody's business, in front of a Service.
ODD_DOCUMENTS = {
    "repeated key": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, name: b}\nspec: {x: 1, x: 2}",
    "unknown tag": "apiVersion: apps/v1\nkind: Deployment\nspec: !Sub {a: !Ref b, c: !GetAtt [d]}",
    "standard tags": "apiVersion: v1\nkind: ConfigMap\ndata: {a: !!set {b}, c: !!binary aGk=, d: !!omap [{e: 1}]}",
    "a tag that does not fit": "apiVersion: apps/v1\nkind: Deployment\nspec: {a: !!int x, b: !!timestamp y}",
    "anchors": "x: &x {a: 1}\napiVersion: apps/v1\nkind: Deployment\nspec: {<<: *x, y: *x, z: *nobody}",
    "many aliases": "x: &x [" + "1," * 200 + "]\napiVersion: v1\nkind: ConfigMap\ny: [" + "*x," * 2000 + "]",
    "a key that is no text": "apiVersion: v1\nkind: ConfigMap\ndata: {? [a] : b, ~: c, 1: d, yes: e}",
    "depth": "apiVersion: apps/v1\nkind: Deployment\nspec: " + "[" * 900 + "]" * 900,
    "a directive": "%YAML 1.3\n---\napiVersion: apps/v1\nkind: Deployment",
    "a tab": "apiVersion: apps/v1\nkind: Deployment\nspec:\n\ta: 1",
    "too much depth": "apiVersion: apps/v1\nkind: Deployment\nspec: " + "[" * 5000 + "]" * 5000,
    "an open quote": "apiVersion: apps/v1\nkind: 'Deployment' # x\nspec: 'a",
    "control characters": "apiVersion: v1\nkind: ConfigMap\ndata: \x07",
    "a NUL byte": "apiVersion: v1\nkind: ConfigMap\ndata: \0",
    "templates": "apiVersion: v1\nkind: ConfigMap\ndata: {{ .Values.x }}: {{ y }}",
}
SERVICE_TEXT = (
    "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n"
)


def from_text(text: str | bytes) -> Manifests:
    return load(["-"], io.BytesIO(text.encode() if isinstance(text, str) else text))


@pytest.mark.parametrize("name", ODD_DOCUMENTS)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_an_odd_document_of_another_kind_stops_nobody(name: str, line_end: str) -> None:
    text = f"{ODD_DOCUMENTS[name]}\n---\n{SERVICE_TEXT}".replace("\n", line_end)
    found = from_text(text)
    assert (found.problems, found.unreadable) == ([], 0)
    assert [item.metadata.name for item in found.services] == ["web"]
    assert sum(found.skipped.values()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "invalid YAML: did not find expected node content"),
        ("apiVersion: v1\nkind: Service\nspec: [", "invalid YAML: "),
        ("apiVersion: v1\nkind: service\nspec: [", "invalid YAML: "),
        ("apiVersion: v1\nkind: List\nitems: [", "invalid YAML: "),
        ("apiVersion: v1\nkind: ServiceList\nitems: [", "invalid YAML: "),
        ("kind: Deployment\nspec: [", "invalid YAML: "),
        ("apiVersion: apps/v1\nkind: Deployment\nspec: [\nkind: Service\n", "invalid YAML: "),
        ("- apiVersion: apps/v1\n  kind: Deployment\n  spec: [", "invalid YAML: "),
        ('{"kind": "Deployment"', "invalid JSON: "),
    ],
)
def test_what_cannot_be_read_may_hold_anything(text: str, message: str) -> None:
    found = from_text(f"{text}\n---\n{SERVICE_TEXT}")
    (problem,) = found.problems
    assert message in str(problem)
    assert str(problem).isprintable()
    assert (found.unreadable, [item.metadata.name for item in found.services]) == (1, ["web"])


def test_a_file_that_may_have_been_cut_off_is_not_passed_over() -> None:
    """Behind the part of a Deployment that is left there may have been Services."""
    found = from_text(f"{SERVICE_TEXT}---\napiVersion: apps/v1\nkind: Deployment\nspec: 'a")
    assert (len(found.problems), found.unreadable, found.skipped) == (1, 1, {})


@pytest.mark.parametrize("text", ["5", "[1]", "text", "{}", "a: 1", "kind: Service", "kind: 5\napiVersion: v1"])
def test_a_document_that_is_no_object_is_a_problem_of_its_own(text: str) -> None:
    found = from_text(f"{text}\n---\n{SERVICE_TEXT}")
    assert (len(found.problems), found.unreadable) == (1, 0)
    assert [item.metadata.name for item in found.services] == ["web"]


def test_faults_and_repeated_keys_belong_to_their_item() -> None:
    items = [
        "{apiVersion: apps/v1, kind: Deployment, spec: {a: !!int x, a: 1}}",
        "{apiVersion: v1, kind: Service, metadata: {name: a, labels: {x: y, x: z}}, spec: {}}",
        "{apiVersion: v1, kind: Service, metadata: {name: b}, spec: {clusterIP: *nobody}}",
        "{apiVersion: v1, kind: Service, metadata: {name: c}, spec: {}}",
    ]
    found = from_text("apiVersion: v1\nkind: List\nitems:\n" + "".join(f"- {item}\n" for item in items))
    assert [item.metadata.name for item in found.services] == ["a", "c"]
    assert found.services[0].metadata.labels == {"x": "z"}
    assert list(map(str, found.problems)) == [
        'standard input: Service default/b: line 6: the alias "nobody" stands for nothing, or for itself'
    ]
    assert [(notice.subject, notice.mistake) for notice in found.notices] == [
        ("Service default/a", Mistake.REPEATED_KEY)
    ]
    assert 'standard input:5: the key "x" is set twice' in found.notices[0].message


@pytest.mark.parametrize(
    ("first", "second"), [("Service", "Deployment"), ("Deployment", "Service"), ("Service", "List")]
)
def test_objects_without_a_line_between_them_are_not_lost_in_silence(first: str, second: str) -> None:
    text = "".join(f"apiVersion: v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{}}\n" for kind in (first, second))
    found = from_text(text)
    assert list(map(str, found.problems)) == [
        "standard input: document 1: kind: is set twice: a line --- is missing between two objects"
    ]
    assert found.services == []


def mistakes(*documents: object) -> list[tuple[str, Mistake]]:
    return [notice[:2] for notice in loaded(*documents).mistakes()]


SLICE = endpoint_slice("web-1", **{"kubernetes.io_service-name": "web"})
PLACE = "standard input, document 3"


@pytest.mark.parametrize(
    ("api_version", "kind", "mistake"),
    [
        ("v1", "service", Mistake.MISSPELT_KIND),
        ("v1", "Services", Mistake.MISSPELT_KIND),
        ("v1", "Servcie", Mistake.MISSPELT_KIND),
        ("v1", "Endpoint", Mistake.MISSPELT_KIND),
        ("v1", "node", Mistake.MISSPELT_KIND),
        ("discovery.k8s.io/v1", "Endpointslice", Mistake.MISSPELT_KIND),
        ("discovery.k8s.io/v1", "EndPointSlices", Mistake.MISSPELT_KIND),
        ("v1", "EndpointSlice", Mistake.MISSPELT_KIND),
        ("discovery/v1", "EndpointSlice", Mistake.MISSPELT_KIND),
        ("discovery.k8s.io/v2", "EndpointSlice", Mistake.MISSPELT_KIND),
        ("discovry.k8s.oi/v1", "EndpointSlice", Mistake.MISSPELT_KIND),
        ("v1beta1", "Service", Mistake.MISSPELT_KIND),
        ("V1", "Service", Mistake.MISSPELT_KIND),
        ("core/v1", "Service", Mistake.MISSPELT_KIND),
        ("", "Service", Mistake.MISSPELT_KIND),
        ("networking.k8s.io/v1", "Service", Mistake.MISSPELT_KIND),
        ("networking.k8s.io/v1alpha1", "ServiceCIDR", Mistake.MISSPELT_KIND),
        ("discovery.k8s.io/v1beta1", "EndpointSlice", Mistake.UNREAD_VERSION),
        ("discovery.k8s.io/v1beta1", "endpointslice", Mistake.MISSPELT_KIND),
    ],
)
def test_a_kind_that_was_probably_meant_to_be_read(api_version: str, kind: str, mistake: Mistake) -> None:
    odd = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}}
    assert mistakes(service(), SLICE, odd) == [(PLACE, mistake), ("Service default/web", Mistake.NO_CLUSTER_IP)]


@pytest.mark.parametrize(
    ("api_version", "kind"),
    [
        ("serving.knative.dev/v1", "Service"),
        ("serving.knative.dev/v1", "service"),
        ("v1", "ServiceAccount"),
        ("networking.istio.io/v1", "ServiceEntry"),
        ("monitoring.coreos.com/v1", "ServiceMonitor"),
        ("metrics.k8s.io/v1beta1", "NodeMetrics"),
        ("karpenter.sh/v1", "NodePool"),
        ("cluster.example.org/v1", "Node"),
        ("v1", "Pod"),
        ("v1", "Secret"),
        ("x" * 5000, "y" * 5000),
    ],
)
def test_other_kinds_are_no_mistake(api_version: str, kind: str) -> None:
    odd = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}}
    assert mistakes(service(), SLICE, odd) == [("Service default/web", Mistake.NO_CLUSTER_IP)]


def spec_of(**spec: object) -> dict[str, Any]:
    return {**service(), "spec": spec}


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ([spec_of(clusterIP="10.96.0.1"), SLICE], []),
        ([spec_of(clusterIP="10.96.0.1")], [("input", Mistake.NO_SLICES)]),
        ([spec_of(clusterIP="None")], []),
        ([spec_of(type="ExternalName")], []),
        ([SLICE], [("input", Mistake.NO_SERVICES)]),
        ([{"apiVersion": "v1", "kind": "List", "items": []}], [("input", Mistake.NO_SERVICES)]),
        ([{"apiVersion": "v1", "kind": "ServiceList", "items": None}], [("input", Mistake.NO_SERVICES)]),
        ([spec_of(), SLICE], [("Service default/web", Mistake.NO_CLUSTER_IP)]),
        ([spec_of(clusterIP="10.96.0.1", clusterIPs=["10.96.0.1", "fd00::1"]), SLICE], []),
        (
            [spec_of(clusterIP="10.96.0.1", clusterIPs=["10.96.0.2"]), SLICE],
            [("Service default/web", Mistake.CLUSTER_IP_MISMATCH)],
        ),
        ([spec_of(clusterIPs=["10.96.0.2"]), SLICE], [("Service default/web", Mistake.CLUSTER_IP_MISMATCH)]),
    ],
)
def test_what_no_object_alone_shows(documents: list[object], expected: list[tuple[str, Mistake]]) -> None:
    assert mistakes(*documents) == expected


UNUSUAL = [
    "127.0.0.1", "127.9.9.9", "000.0.0.0", "169.254.20.10", "224.0.0.1", "239.255.0.1", "255.255.255.255",
    "::1", "::", "fe80::1", "FE80::1", "febf::1", "ff02::1", "::ffff:127.0.0.1", "::FFFF:169.254.0.1", "127.000.0.01",
]  # fmt: skip


@pytest.mark.parametrize("address", UNUSUAL)
def test_addresses_that_mean_something_else(address: str) -> None:
    is_ipv4 = "." in address
    slice_ = {
        **SLICE,
        "addressType": "IPv4" if is_ipv4 else "IPv6",
        "endpoints": [{"addresses": ["10.0.0.1" if is_ipv4 else "fd00::1"]}, {"addresses": [address]}],
    }
    good = spec_of(clusterIP="10.96.0.1")
    assert mistakes(good, slice_) == [("EndpointSlice default/web-1", Mistake.UNUSUAL_ADDRESS)]
    vip = {**good, "status": {"loadBalancer": {"ingress": [{"ip": address}, {"hostname": "x"}]}}}
    for odd in (spec_of(clusterIP=address), spec_of(clusterIP="10.96.0.1", externalIPs=["192.0.2.1", address]), vip):
        assert mistakes(odd, SLICE) == [("Service default/web", Mistake.UNUSUAL_ADDRESS)]


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.0.1", "223.255.255.255", "fd00::1", "2001:db8::1", "fec0::1"])
def test_addresses_that_are_usual(address: str) -> None:
    assert mistakes(spec_of(clusterIP=address, externalIPs=["192.0.2.1", "nonsense", "", "fe"]), SLICE) == []


def test_a_slice_as_it_was_written_has_an_unnamed_port() -> None:
    ports: list[dict[str, object]] = [{"port": 80}, {"port": 81, "name": None}, {"port": 82, "name": "x"}, {"name": ""}]
    (found,) = loaded({**SLICE, "ports": ports}).endpoint_slices
    assert [(port.name, port.port, port.protocol) for port in found.ports or ()] == [
        ("", 80, "TCP"),
        ("", 81, "TCP"),
        ("x", 82, "TCP"),
        ("", None, "TCP"),
    ]


def test_a_summary_has_a_line_for_each_kind_of_mistake() -> None:
    named = [{**service(f"web-{number}"), "spec": {}} for number in range(3)]
    lines = summary(loaded(*named, SLICE).mistakes())
    assert lines == [
        "Service default/web-0: has no clusterIP, as before it is created: no rules for it (SVC-4);"
        " 2 more like it, which rulegen lint names"
    ]


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_end_as_objects_or_one_line_problems(noise: bytes, is_behind: bool) -> None:
    text = SERVICE_TEXT.encode()
    parts = [text, noise] if is_behind else [noise, text]
    try:
        found = from_text(b"\n---\n".join(parts))
    except InputError as error:
        lines = [str(error)]
    else:
        lines = [*map(str, found.problems), *summary(found.mistakes())]
    assert all(line.isprintable() and len(line) < 1000 for line in lines)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_fields_are_named_or_known(value: object) -> None:
    for kind in ("Service", "EndpointSlice", "Endpoints", "Node"):
        for notice in unknown_fields(
            kind, "default/web", {"metadata": value, "spec": value, "ports": value, "x": value}
        ):
            assert notice.message.isprintable()


@st.composite
def services(draw: st.DrawFn) -> Service:
    return msgspec.convert(
        {
            "metadata": {
                "name": draw(NAMES),
                "namespace": draw(NAMES),
                "labels": draw(st.none() | st.just({"a": "b"})),
            },
            "spec": {
                "clusterIP": draw(st.sampled_from(["", "None", "10.96.0.1", "fd00::1"])),
                "ports": draw(st.none() | st.lists(st.fixed_dictionaries({"port": PORTS, "name": NAMES}), max_size=3)),
                "externalIPs": draw(st.none() | st.lists(st.text(), max_size=2)),
                "type": draw(st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"])),
            },
        },
        Service,
    )


@given(
    st.lists(services(), min_size=1, max_size=5, unique_by=lambda item: (item.metadata.namespace, item.metadata.name))
)
def test_what_is_encoded_is_loaded_again(items: list[Service]) -> None:
    encoded = [{"apiVersion": "v1", "kind": "Service", **msgspec.to_builtins(item)} for item in items]
    for text in (b"".join(map(msgspec.json.encode, encoded)), msgspec.json.encode(as_list(encoded))):
        found = load(["-"], io.BytesIO(text))
        assert (found.services, found.problems) == (items, [])


def as_list(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "List", "items": items}


def test_ten_thousand_services_take_little_memory_and_time() -> None:
    """Time is measured by the benchmark; here only that nothing grows with the square of the input."""
    endpoints = [{"addresses": [f"10.0.0.{n}"], "conditions": {"ready": True}, "nodeName": "a"} for n in range(10)]
    items = [service(f"web-{n}") for n in range(10_000)]
    items += [{**endpoint_slice(f"web-{n}"), "endpoints": endpoints} for n in range(10_000)]
    found = load(["-"], io.BytesIO(json.dumps(as_list(items)).encode()))
    assert (len(found.services), len(found.endpoint_slices), found.problems) == (10_000, 10_000, [])
    assert sum(len(item.endpoints or ()) for item in found.endpoint_slices) == 100_000
    assert isinstance(found.endpoint_slices[0], EndpointSlice)
