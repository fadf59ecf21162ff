"""An object as it was written comes in; fields that Kubernetes does not know go out, with the one that was meant.

For `lint` alone: whoever compiles ignores them, as the API server does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, TypeAlias

from rulegen.alike import alike
from rulegen.errors import printable
from rulegen.kube.mistakes import Mistake, Notice

# The fields of an object; None where anything may be below.
_Fields: TypeAlias = Mapping[str, Any]

_MAX_NAMED = 10


def _leaves(names: str) -> dict[str, None]:
    return dict.fromkeys(names.split())


_METADATA = _leaves(
    "annotations creationTimestamp deletionGracePeriodSeconds deletionTimestamp finalizers generateName generation"
    " labels managedFields name namespace ownerReferences resourceVersion selfLink uid"
)
_REFERENCE = _leaves("apiVersion fieldPath kind name namespace resourceVersion uid")
_ENDPOINT_PORT = _leaves("appProtocol name port protocol")
_NAMED = _leaves("name")
_OBJECT: _Fields = {"apiVersion": None, "kind": None, "metadata": _METADATA}
_SUBSET_ADDRESS: _Fields = _leaves("hostname ip nodeName") | {"targetRef": _REFERENCE}

_KNOWN: Mapping[str, _Fields] = {
    "Service": {
        **_OBJECT,
        "spec": {
            **_leaves(
                "allocateLoadBalancerNodePorts clusterIP clusterIPs externalIPs externalName externalTrafficPolicy"
                " healthCheckNodePort internalTrafficPolicy ipFamilies ipFamilyPolicy loadBalancerClass loadBalancerIP"
                " loadBalancerSourceRanges publishNotReadyAddresses selector sessionAffinity trafficDistribution type"
            ),
            "ports": _leaves("appProtocol name nodePort port protocol targetPort"),
            "sessionAffinityConfig": {"clientIP": _leaves("timeoutSeconds")},
        },
        "status": {
            "conditions": None,
            "loadBalancer": {"ingress": _leaves("hostname ip ipMode") | {"ports": _leaves("error port protocol")}},
        },
    },
    "EndpointSlice": {
        **_OBJECT,
        "addressType": None,
        "endpoints": {
            **_leaves("addresses deprecatedTopology hostname nodeName zone"),
            "conditions": _leaves("ready serving terminating"),
            "hints": {"forNodes": _NAMED, "forZones": _NAMED},
            "targetRef": _REFERENCE,
        },
        "ports": _ENDPOINT_PORT,
    },
    "Endpoints": {
        **_OBJECT,
        "subsets": {
            "addresses": _SUBSET_ADDRESS,
            "notReadyAddresses": _SUBSET_ADDRESS,
            "ports": _ENDPOINT_PORT,
        },
    },
}


def unknown_fields(kind: str, name: str, value: object) -> list[Notice]:
    """The first ten of an object of `kind` in plain values; `name` as in `default/web`."""
    fields = _KNOWN.get(kind)
    if fields is None:
        return []
    return [
        Notice(f"{kind} {name}", Mistake.UNKNOWN_FIELD, message)
        for message in islice(_unknown(value, fields, ""), _MAX_NAMED)
    ]


def _unknown(value: object, known: _Fields, path: str) -> Iterator[str]:
    if isinstance(value, list):
        items = [(item, f"{path}[{index}]") for index, item in enumerate(value)]
    else:
        items = [(value, path)]
    for item, place in items:
        if not isinstance(item, Mapping):
            continue
        for name, below in item.items():
            if name not in known:
                yield _message(str(name), known, place)
            elif known[name] is not None:
                yield from _unknown(below, known[name], f"{place}.{name}" if place else str(name))


def _message(name: str, known: _Fields, path: str) -> str:
    place = f"{path}.{printable(name)}" if path else printable(name)
    folded = {field.lower(): field for field in known}
    close = alike(name.lower(), folded, 1)
    meant = f"; {folded[close[0]]} is" if close else ""
    return f"{place} is no field that Kubernetes knows{meant}: it has no effect"
