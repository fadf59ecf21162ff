from __future__ import annotations

from typing import Any

from rulegen.kube.decode import convert_object
from rulegen.kube.legacy import slices_for_services_without, to_slices
from rulegen.kube.objects import Endpoints, EndpointSlice


def endpoints(labels: dict[str, str] | None = None) -> Endpoints:
    value: dict[str, Any] = {
        "metadata": {"name": "web", "namespace": "shop", "labels": labels, "annotations": {"rulegen.io/weight": "3"}},
        "subsets": [
            {
                "addresses": [
                    {"ip": "10.0.0.1", "nodeName": "a", "targetRef": {"kind": "Pod", "name": "web-1"}},
                    {"ip": "fd00::1", "hostname": "one"},
                ],
                "notReadyAddresses": [{"ip": "10.0.0.2"}],
                "ports": [{"port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}],
            },
            {"addresses": None, "notReadyAddresses": [{"ip": "10.0.0.3"}], "ports": [{"port": 9090}]},
            {"ports": [{"port": 1}]},
        ],
    }
    return convert_object(Endpoints, value)


def slice_of(service: str) -> EndpointSlice:
    metadata = {"name": "x", "namespace": "shop", "labels": {"kubernetes.io/service-name": service}}
    return convert_object(EndpointSlice, {"metadata": metadata, "addressType": "IPv4"})


def test_a_slice_for_each_subset_and_family() -> None:
    first, second, third = to_slices(endpoints({"app": "web"}))
    assert [item.metadata.name for item in (first, second, third)] == [
        "web-endpoints-0-ipv4",
        "web-endpoints-0-ipv6",
        "web-endpoints-1-ipv4",
    ]
    for item in (first, second, third):
        assert item.metadata.namespace == "shop"
        assert item.metadata.labels == {"app": "web", "kubernetes.io/service-name": "web"}
        assert item.metadata.annotations == {"rulegen.io/weight": "3"}
    assert [item.address_type for item in (first, second, third)] == ["IPv4", "IPv6", "IPv4"]

    assert first.endpoints is not None
    one, two = first.endpoints
    assert (one.addresses, one.node_name) == (["10.0.0.1"], "a")
    assert one.target_ref is not None
    assert one.target_ref.name == "web-1"
    assert one.conditions is not None
    assert one.conditions.ready is True
    assert two.addresses == ["10.0.0.2"]
    assert two.conditions is not None
    assert two.conditions.ready is False

    assert [(port.name, port.port, port.protocol) for port in first.ports or ()] == [
        ("", 8080, "TCP"),
        ("dns", 53, "UDP"),
    ]
    assert [item.addresses for item in second.endpoints or ()] == [["fd00::1"]]
    assert [item.addresses for item in third.endpoints or ()] == [["10.0.0.3"]]


def test_only_for_a_service_without_a_slice() -> None:
    """D10."""
    assert len(slices_for_services_without([endpoints()], [])) == 3
    assert len(slices_for_services_without([endpoints()], [slice_of("db")])) == 3
    assert slices_for_services_without([endpoints()], [slice_of("web")]) == []


def test_skip_mirror_is_honoured_when_true() -> None:
    """D10."""
    label = "endpointslice.kubernetes.io/skip-mirror"
    assert slices_for_services_without([endpoints({label: "true"})], []) == []
    assert len(slices_for_services_without([endpoints({label: "false"})], [])) == 3
