from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rulegen.kube.addresses import canonical_address
from rulegen.kube.decode import ObjectError, convert_object, decode_object
from rulegen.kube.objects import Endpoints, EndpointSlice, KubeStruct, Node, Service, ServiceCIDR

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
        ({"clusterIP": "::ffff:10.96.0.1"}, "IPv4-mapped"),
        ({"clusterIPs": ["10.96.0.1", "::FFFF:10.96.0.1"]}, "spec.clusterIPs[1]: expected an IP address"),
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
    """Rule 12."""
    assert canonical_address("172.30.0.041") == "172.30.0.41"
    decode_object(EndpointSlice, json.dumps(slice_of("IPv4", "010.000.000.009")).encode())
    decode_object(Service, json.dumps(service(clusterIP="010.096.000.001")).encode())


def test_fqdn_slices_hold_anything() -> None:
    """Rule 17."""
    decode_object(EndpointSlice, json.dumps(slice_of("FQDN", "web.example.org", "::ffff:1.2.3.4")).encode())


def test_what_the_spec_says_to_skip_is_no_fault() -> None:
    """Rule 12: unusable externalIPs, ranges and VIPs are skipped one by one, later."""
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
