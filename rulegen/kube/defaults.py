"""A slice as somebody wrote it comes in; it goes out as the API server would have stored it.

Those of its defaults that are constants are the fields' own in `objects`, `decode` reads "" and null as it does, and
`services` reads a Service without `clusterIPs`. What is left is the name of a port, where nothing means "" (core/v1 and
discovery/v1, `defaults.go`). An API server's own objects do not come here: they have it all.
"""

from __future__ import annotations

from msgspec.structs import replace

from rulegen.kube.objects import EndpointPort, EndpointSlice


def with_defaults(item: EndpointSlice) -> EndpointSlice:
    """`item` itself where it lacks nothing."""
    ports = item.ports or ()
    return replace(item, ports=[_named(port) for port in ports]) if any(port.name is None for port in ports) else item


def _named(port: EndpointPort) -> EndpointPort:
    return port if port.name is not None else replace(port, name="")
