"""An API server comes in, and what a cluster holds at one moment goes out: as Manifests, and as text to read them from.

Each kind is listed once; nothing is watched and nothing is tried again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TextIO

import msgspec

from rulegen.kube.api import Api
from rulegen.kube.decode import ObjectError
from rulegen.kube.listing import (
    NotServedError,
    Resource,
    WatchedObject,
    endpoint_slices,
    list_pages,
    nodes,
    service_cidrs,
    services,
)
from rulegen.kube.manifests import Manifests, Place, Problem
from rulegen.kube.objects import EndpointSlice, Node, Service, ServiceCIDR, is_selected

_API_VERSIONS = {
    Node: "v1",
    ServiceCIDR: "networking.k8s.io/v1",
    Service: "v1",
    EndpointSlice: "discovery.k8s.io/v1",
}
# A file without any document is taken for a mistake.
_EMPTY = {"apiVersion": "v1", "kind": "List", "items": []}


def read_cluster(api: Api) -> Manifests:
    """All objects that a Service proxy reads, of all nodes; Services that it would not be shown are `unselected`.

    Raises:
        ApiError: the API server cannot be asked, or refuses.
    """
    problems: list[Problem] = []

    def objects(resource: Resource) -> list[Any]:
        return list(_objects(api, resource, problems))

    every_service: list[Service] = objects(services(selected=False))
    return Manifests(
        services=[service for service in every_service if is_selected(service)],
        endpoint_slices=objects(endpoint_slices()),
        nodes=objects(nodes()),
        service_cidrs=objects(service_cidrs()),
        skipped={},
        problems=problems,
        unselected=[service for service in every_service if not is_selected(service)],
    )


def _objects(api: Api, resource: Resource, problems: list[Problem]) -> Iterable[WatchedObject]:
    try:
        for page in list_pages(api, resource):
            for item in page.items:
                if isinstance(item.value, ObjectError):
                    problems += [
                        Problem(Place(api.server), fault.message, item.value.kind, item.value.name, fault.path)
                        for fault in item.value.faults
                    ]
                else:
                    yield item.value
    except NotServedError:
        if not resource.optional:
            raise


def write_manifests(manifests: Manifests, output: TextIO) -> None:
    """YAML documents, sorted by kind and name, with the fields that rulegen reads, labels and annotations whole."""
    import yaml

    from rulegen.kube.yaml_documents import FIRST_LETTERS, ScalarError, plain_value

    class Text:
        """Text that must be quoted; PyYAML itself resolves fewer words and numbers than kubectl does."""

        @staticmethod
        def match(text: str) -> bool:
            try:
                return not isinstance(plain_value(text), str)
            except ScalarError:
                return True

    class Dumper(yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper):  # type: ignore[misc]
        """Writes what kubectl reads back as it was."""

    Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", Text, list(FIRST_LETTERS))

    kinds = (
        manifests.nodes,
        manifests.service_cidrs,
        manifests.services + manifests.unselected,
        manifests.endpoint_slices,
    )
    documents = [_document(item) for kind in kinds for item in sorted(kind, key=_name)]
    yaml.dump_all(
        documents or [_EMPTY],
        output,
        Dumper=Dumper,
        sort_keys=False,
        explicit_start=True,
        width=1 << 16,
    )


def _name(item: WatchedObject) -> tuple[str, str]:
    return getattr(item.metadata, "namespace", ""), item.metadata.name


def _document(item: WatchedObject) -> dict[str, Any]:
    kind = type(item)
    return {"apiVersion": _API_VERSIONS[kind], "kind": kind.__name__, **msgspec.to_builtins(item)}
