from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rulegen.kube.addresses import canonical_address
from rulegen.kube.decode import ObjectError, convert_object, decode_object
from rulegen.kube.legacy import to_slices
from rulegen.kube.objects import Endpoints, EndpointSlice, KubeStruct, Node, Service, ServiceCIDR, ServicePort

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KINDS: tuple[type[KubeStruct], ...] = (Service, EndpointSlice, Node, ServiceCIDR, Endpoints)


def service(**spec: object) -> dict[str, Any]:
    return {"metadata": {"name": "web"}, "spec": {"clusterIP": "10.96.0.1", **spec}}


def faults(kind: type[KubeStruct], value: object) -> list[str]:
    """The faults of `value`, which must be the same from JSON and from plain values."""
    with pytest.raises(ObjectError) as plain:
        convert_object(kind, value)
    with pytest.raises(ObjectError) as encoded:
        decode_object(kind, json.dumps(value).encode())
    assert encoded.value.faults == plain.value.faults
    assert encoded.value.name == plain.value.name
    return [str(fault) for fault in plain.value.faults]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"ports": [{"port": "http"}]}, 'spec.ports[0].port: expected int, got "http"'),
        ({"ports": [{"port": 70000}]}, "spec.ports[0].port: expected a port from 1 to 65535, got 70000"),
        ({"ports": [{"port": 0}]}, "spec.ports[0].port: expected a port from 1 to 65535, got 0"),
        ({"ports": [{"port": 80, "nodePort": -1}]}, "spec.ports[0].nodePort: expected a port from 0 to 65535, got -1"),
        ({"ports": [{}]}, "spec.ports[0].port: missing"),
        ({"ports": [{"port": None}]}, "spec.ports[0].port: missing"),
        ({"ports": [None]}, "spec.ports[0]: expected an object, got null"),
        ({"ports": {}}, "spec.ports: expected an array, got an object"),
        ({"ports": [{"port": 80, "protocol": "tcp"}]}, 'spec.ports[0].protocol: expected TCP, UDP or SCTP, got "tcp"'),
        (
            {"ports": [{"port": 80, "name": 'x" ; drop\n'}]},
            r'spec.ports[0].name: expected a DNS label or "", got "x\" ; drop\n"',
        ),
        ({"ports": [{"port": 80, "name": "http\n"}]}, 'spec.ports[0].name: expected a DNS label or "", got "http\\n"'),
        (
            {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}},
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: expected seconds from 1 to 86400, got 86401",
        ),
        ({"clusterIP": "::ffff:10.96.0.256"}, 'spec.clusterIP: expected an IP address, got "::ffff:10.96.0.256"'),
        ({"clusterIPs": ["10.96.0.1", "fd00::1%eth0"]}, "spec.clusterIPs[1]: expected an IP address"),
        ({"clusterIP": "ten"}, 'spec.clusterIP: expected an IP address, got "ten"'),
        ({"externalIPs": [7]}, "spec.externalIPs[0]: expected str, got 7"),
    ],
)
def test_a_service_that_is_refused_names_the_field(spec: dict[str, object], expected: str) -> None:
    (fault,) = faults(Service, service(**spec))
    assert expected in fault


@pytest.mark.parametrize(
    "name", ["web\n", "Web", "", "a" * 64, "-web", "web-", "web.shop", 'web"; flush ruleset', "wéb"]
)
def test_a_service_name_is_a_dns_label(name: str) -> None:
    (fault,) = faults(Service, {"metadata": {"name": name}, "spec": {}})
    assert fault.startswith("metadata.name: expected a DNS label, got ")
    assert fault.isascii()
    assert fault.isprintable()


@pytest.mark.parametrize("name", ["web", "9lives", "a", "a" * 63, "a--b"])
def test_dns_labels_are_names(name: str) -> None:
    assert convert_object(Service, {"metadata": {"name": name}, "spec": {}}).metadata.name == name


def test_all_faults_of_an_object_are_reported_but_not_hundreds() -> None:
    value = service(type="Balancer", ports=[{"port": 0, "protocol": "ICMP"}, {"port": 65536}])
    assert len(faults(Service, value)) == 4
    assert len(faults(Service, service(ports=[{}] * 500))) == 10


def test_an_error_is_one_line_with_the_name() -> None:
    with pytest.raises(ObjectError) as raised:
        decode_object(Service, b'{"metadata": {"name": "web", "namespace": "shop"}, "spec": {"ports": [{"port": 0}]}}')
    assert str(raised.value) == "Service shop/web: spec.ports[0].port: expected a port from 1 to 65535, got 0"
    with pytest.raises(ObjectError) as raised:
        decode_object(ServiceCIDR, b'{"metadata": {"name": "kubernetes"}, "spec": {"cidrs": 5}}')
    assert str(raised.value) == "ServiceCIDR kubernetes: spec.cidrs: expected an array, got 5"


@pytest.mark.parametrize(
    "text", [b"", b"{", b"nul", b'{"metadata": "\xff"}', b"[" * 100_000, b'{"a": 1} x', b"5", b'"\\ud800"', b"1e999"]
)
def test_text_that_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(ObjectError):
        decode_object(Service, text)


@pytest.mark.parametrize("number", ["1e400", "1" * 5000, "-" + "9" * 30, "80.5"])
def test_numbers_out_of_all_bounds_are_a_fault_of_their_field(number: str) -> None:
    text = b'{"metadata": {"name": "web"}, "spec": {"ports": [{"port": %s}]}}' % number.encode()
    with pytest.raises(ObjectError) as raised:
        decode_object(Service, text)
    assert str(raised.value).startswith("Service default/web: spec.ports[0].port: expected")


def test_null_is_absent_as_for_the_api_server() -> None:
    value = {
        "metadata": {"name": "web", "namespace": None, "creationTimestamp": None, "labels": None, "uid": None},
        "spec": {
            "clusterIP": None,
            "clusterIPs": None,
            "type": None,
            "healthCheckNodePort": None,
            "ports": [{"port": 80, "protocol": None, "nodePort": None, "name": None}],
        },
        "status": {"loadBalancer": {}},
    }
    expected = convert_object(Service, {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}})
    for decoded in (convert_object(Service, value), decode_object(Service, json.dumps(value).encode())):
        assert decoded.metadata == expected.metadata
        assert decoded.spec == expected.spec


def test_an_empty_slice_as_the_api_writes_it() -> None:
    value = {"metadata": {"name": "web-1"}, "addressType": "IPv6", "endpoints": None, "ports": None}
    assert decode_object(EndpointSlice, json.dumps(value).encode()).endpoints is None


def slice_of(address_type: str, *addresses: str) -> dict[str, object]:
    endpoints = [{"addresses": [address], "conditions": {}} for address in addresses]
    return {"metadata": {"name": "web-1.x"}, "addressType": address_type, "endpoints": endpoints}


def test_an_endpoint_has_an_address_of_its_slice() -> None:
    assert faults(EndpointSlice, slice_of("IPv4", "10.0.0.1", "fd00::1", "10.0.0.256", "web", "")) == [
        'endpoints[1].addresses[0]: expected an IPv4 address, got "fd00::1"',
        'endpoints[2].addresses[0]: expected an IPv4 address, got "10.0.0.256"',
        'endpoints[3].addresses[0]: expected an IPv4 address, got "web"',
        'endpoints[4].addresses[0]: expected an IPv4 address, got ""',
    ]
    assert faults(EndpointSlice, slice_of("IPv6", "fd00::1", "10.0.0.1", "fe80::1%eth0", "::ffff:10.0.0.1")) == [
        'endpoints[1].addresses[0]: expected an IPv6 address, got "10.0.0.1"',
        'endpoints[2].addresses[0]: expected an IPv6 address, got "fe80::1%eth0"',
        'endpoints[3].addresses[0]: expected an IPv6 address, got "::ffff:10.0.0.1", which is IPv4-mapped',
    ]


def test_zero_padded_addresses_are_decimal_and_accepted() -> None:
    """SVC-12."""
    assert canonical_address("172.30.0.041") == "172.30.0.41"
    decode_object(EndpointSlice, json.dumps(slice_of("IPv4", "010.000.000.009")).encode())
    decode_object(Service, json.dumps(service(clusterIP="010.096.000.001")).encode())


MAPPED = ("::ffff:10.0.0.9", "::FFFF:010.0.0.9", "::ffff:a00:9", "0:0:0:0:0:ffff:10.0.0.9", "::00000:ffff:10.0.0.9")


@pytest.mark.parametrize("address", MAPPED)
def test_an_ipv4_mapped_address_is_the_ipv4_address(address: str) -> None:
    """SVC-12: for Kubernetes it is, wherever it stands."""
    assert canonical_address(address) == "10.0.0.9"
    decode_object(EndpointSlice, json.dumps(slice_of("IPv4", address)).encode())
    decode_object(Service, json.dumps(service(clusterIP=address, clusterIPs=[address])).encode())
    assert faults(EndpointSlice, slice_of("IPv6", address)) == [
        f'endpoints[0].addresses[0]: expected an IPv6 address, got "{address}", which is IPv4-mapped'
    ]
    subset = {"addresses": [{"ip": address}], "ports": [{"port": 80}]}
    (converted,) = to_slices(convert_object(Endpoints, {"metadata": {"name": "web"}, "subsets": [subset]}))
    assert (converted.address_type, [item.addresses for item in converted.endpoints or ()]) == ("IPv4", [["10.0.0.9"]])


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("::10.0.0.9", "::10.0.0.9"),
        ("::fffe:10.0.0.9", "::fffe:a00:9"),
        ("fd00:00000001::5", "fd00:1::5"),
        ("::ffff:10.0.0", None),
        ("::ffff:10.0.0.9/128", None),
        ("fe80::1%eth0", None),
        ("1:2:3:4:5:6:7:8:9", None),
        (":", None),
        ("", None),
        ("0" * 100_000 + "1.2.3.4", "1.2.3.4"),
        (":".join("0" * 100_000), None),
    ],
)
def test_addresses(text: str, canonical: str | None) -> None:
    assert canonical_address(text) == canonical


NUMBERS = (80, 80.0, 8e1)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_without_a_fraction_is_whole(number: float) -> None:
    """As kubectl sends it: 80."""
    value = service(ports=[{"port": number, "nodePort": number}])
    for decoded in (decode_object(Service, json.dumps(value).encode()), convert_object(Service, value)):
        assert decoded.spec.ports == [ServicePort(port=80, node_port=80)]


@pytest.mark.parametrize("number", [80.5, "80", True, [80], 1e300, -0.5, float("inf"), float("nan")])
def test_what_is_no_whole_number_is_refused(number: object) -> None:
    with pytest.raises(ObjectError, match=r"spec.ports\[0\].port: expected "):
        convert_object(Service, service(ports=[{"port": number}]))


# Each field that is read of an object and that the API server sets where it is empty or missing.
DEFAULTS: list[tuple[type[KubeStruct], dict[str, Any], str, object]] = [
    (Service, {"metadata": {"namespace": ""}}, "metadata.namespace", "default"),
    (Service, {"spec": {"type": ""}}, "spec.type", "ClusterIP"),
    (Service, {"spec": {"ports": [{"port": 80, "protocol": ""}]}}, "spec.ports.0.protocol", "TCP"),
    (Service, {"spec": {"ports": [{"port": 80, "name": ""}]}}, "spec.ports.0.name", ""),
    (Service, {"spec": {"ports": [{"port": 80, "nodePort": 0}]}}, "spec.ports.0.node_port", 0),
    (Service, {"spec": {"sessionAffinity": ""}}, "spec.session_affinity", ""),
    (Service, {"spec": {"externalTrafficPolicy": ""}}, "spec.external_traffic_policy", ""),
    (Service, {"spec": {"clusterIP": ""}}, "spec.cluster_ip", ""),
    (EndpointSlice, {"metadata": {"namespace": ""}}, "metadata.namespace", "default"),
    (EndpointSlice, {"ports": [{"port": 80}]}, "ports.0.protocol", "TCP"),
    (EndpointSlice, {"endpoints": [{"addresses": [], "conditions": {}}]}, "endpoints.0.conditions.ready", None),
    (Endpoints, {"metadata": {"namespace": ""}}, "metadata.namespace", "default"),
    (Endpoints, {"subsets": [{"ports": [{"port": 80, "protocol": ""}]}]}, "subsets.0.ports.0.protocol", "TCP"),
    (Endpoints, {"subsets": [{"ports": [{"port": 80}]}]}, "subsets.0.ports.0.name", ""),
    (Node, {"spec": {"podCIDR": ""}}, "spec.pod_cidr", ""),
]
REFUSED: list[tuple[type[KubeStruct], dict[str, Any], str]] = [
    (Service, {"metadata": {"name": ""}}, "metadata.name"),
    (Service, {"spec": {"internalTrafficPolicy": ""}}, "spec.internalTrafficPolicy"),
    (Service, {"spec": {"ipFamilies": [""]}}, "spec.ipFamilies[0]"),
    (Service, {"status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4", "ipMode": ""}]}}}, "ipMode"),
    (Service, {"spec": {"type": "clusterIP"}}, "spec.type"),
    (Service, {"spec": {"ports": [{"port": 0}]}}, "spec.ports[0].port"),
    (EndpointSlice, {"addressType": ""}, "addressType"),
    (EndpointSlice, {"ports": [{"port": 80, "protocol": ""}]}, "ports[0].protocol"),
    (EndpointSlice, {"endpoints": [{"addresses": [""]}]}, "endpoints[0].addresses[0]"),
    (EndpointSlice, {"endpoints": [{"addresses": ["10.0.0.1"], "nodeName": ""}]}, "endpoints[0].nodeName"),
    (Endpoints, {"subsets": [{"addresses": [{"ip": ""}]}]}, "subsets[0].addresses[0].ip"),
]


def test_the_name_of_a_node_is_judged_beside_the_address_and_not_where_the_slice_does_not_count() -> None:
    endpoint = {"addresses": ["10.0.0.1x"], "nodeName": ""}
    with pytest.raises(ObjectError) as raised:
        decode_object(EndpointSlice, json.dumps(whole(EndpointSlice, {"endpoints": [endpoint]})).encode())
    paths = [fault.path for fault in raised.value.faults]
    assert paths == ["endpoints[0].addresses[0]", "endpoints[0].nodeName"]
    named = whole(EndpointSlice, {"addressType": "FQDN", "endpoints": [endpoint]})
    assert decode_object(EndpointSlice, json.dumps(named).encode()).endpoints


def whole(kind: type[KubeStruct], value: dict[str, Any]) -> dict[str, Any]:
    rest: dict[str, Any] = {"metadata": {"name": "web"}, "spec": {}, "addressType": "IPv4"}
    return {**rest, **value, "metadata": {"name": "web", **value.get("metadata", {})}}


@pytest.mark.parametrize(("kind", "value", "path", "default"), DEFAULTS)
def test_what_the_api_server_sets_where_nothing_is(
    kind: type[KubeStruct], value: dict[str, Any], path: str, default: object
) -> None:
    for empty in (value, nulls_for_empty(value)):
        found: Any = decode_object(kind, json.dumps(whole(kind, empty)).encode())
        for step in path.split("."):
            found = found[int(step)] if step.isdigit() else getattr(found, step)
        assert found in (default, None) if default == "" else found == default


def nulls_for_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: nulls_for_empty(item) for name, item in value.items()}
    if isinstance(value, list):
        return [nulls_for_empty(item) for item in value]
    return None if value in ("", 0) else value


@pytest.mark.parametrize(("kind", "value", "path"), REFUSED)
def test_what_the_api_server_refuses(kind: type[KubeStruct], value: dict[str, Any], path: str) -> None:
    (fault,) = faults(kind, whole(kind, value))
    assert f"{path}: expected " in fault


def test_fqdn_slices_hold_anything() -> None:
    """SVC-17."""
    decode_object(EndpointSlice, json.dumps(slice_of("FQDN", "web.example.org", "::ffff:1.2.3.4")).encode())


def test_what_the_spec_says_to_skip_is_no_fault() -> None:
    """SVC-12: unusable externalIPs, ranges and VIPs are skipped one by one, later."""
    value = service(externalIPs=["x", "::ffff:1.2.3.4", ""], loadBalancerSourceRanges=["0/x"])
    value["status"] = {"loadBalancer": {"ingress": [{"ip": "nonsense"}]}}
    convert_object(Service, value)


def test_the_copy_that_kubectl_keeps_is_dropped() -> None:
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "rulegen.io/weights": "*=1"}
    value = {"metadata": {"name": "web", "annotations": annotations}, "spec": {}}
    assert decode_object(Service, json.dumps(value).encode()).metadata.annotations == {"rulegen.io/weights": "*=1"}


@pytest.mark.parametrize("kind", KINDS)
@given(value=JSON_VALUES)
def test_any_json_is_decoded_or_refused_in_one_printable_line(kind: type[KubeStruct], value: object) -> None:
    check_decoded_or_refused(kind, value)


@given(
    name=JSON_VALUES,
    spec=st.dictionaries(st.sampled_from([f.encode_name for f in msgspec.structs.fields(Service)]), JSON_VALUES),
    port=st.dictionaries(st.sampled_from(["port", "name", "protocol", "nodePort"]), JSON_VALUES),
)
def test_any_fields_of_a_service_are_decoded_or_refused(name: object, spec: object, port: object) -> None:
    check_decoded_or_refused(Service, {"metadata": {"name": name}, "spec": spec})
    check_decoded_or_refused(Service, {"metadata": {"name": "web"}, "spec": {"ports": [port]}})


def check_decoded_or_refused(kind: type[KubeStruct], value: object) -> None:
    try:
        item = convert_object(kind, value)
    except ObjectError as error:
        refused = error
    else:
        assert decode_object(kind, msgspec.json.encode(item)) == item
        return
    assert refused.faults
    assert str(refused).isascii()
    assert str(refused).isprintable()
