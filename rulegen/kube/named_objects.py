"""Services and slices with the fields that only DNS needs, for `kinds`. Those of `objects` have what a node reads.

They have the API's names, too: a run reads one kind of Service or the other, never both. What is a name here is text
that has not been judged; `records` does.
"""

from __future__ import annotations

import msgspec

from rulegen.kube import objects


class ServiceSpec(objects.ServiceSpec, frozen=True):
    """With what makes a name of a Service."""

    external_name: str = ""
    publish_not_ready_addresses: bool | None = None


class Service(objects.Service, frozen=True):
    """Headless ones are read as well."""

    metadata: objects.ServiceMetadata
    spec: ServiceSpec


class Endpoint(objects.Endpoint, frozen=True):
    """`hostname`: the pod's, where its subdomain is the Service's name."""

    hostname: str | None = None


class EndpointSlice(objects.EndpointSlice, frozen=True):
    """Those of headless Services as well."""

    metadata: objects.NamespacedMetadata
    endpoints: list[Endpoint] | None = msgspec.field(default=None)  # type: ignore[assignment]
