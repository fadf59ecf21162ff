"""An API server comes in, and what a cluster holds at one moment goes out: as Manifests, and as text to read them from.

Each kind is listed once; nothing is watched and nothing is tried again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, TextIO

import msgspec

from rulegen.kube.api import Api
from rulegen.kube.decode import ObjectError
from rulegen.kube.kinds import Resource, WatchedObject, is_selected, kind_of, served_kinds
from rulegen.kube.listing import NotServedError, list_pages
from rulegen.kube.manifests import Manifests, Place, Problem
from rulegen.kube.objects import EndpointSlice, Pod, Service

# A file without any document is taken for a mistake.
_EMPTY = {"apiVersion": "v1", "kind": "List", "items": []}


def read_cluster(api: Api, kinds: Collection[type]) -> Manifests:
    """All objects of these kinds, of all nodes; what a watch would not show of Services and slices stands apart.

    Raises:
        ApiError: the API server cannot be asked, or refuses.
    """
    problems: list[Problem] = []
    objects: dict[type, list[Any]] = {}
    apart: dict[type, list[Any]] = {Service: [], EndpointSlice: []}
    for kind in map(kind_of, kinds):
        resource = kind.everything() if kind.struct in apart else kind.resource()
        found = list(_objects(api, resource, problems))
        objects[kind.struct] = [item for item in found if is_selected(item)]
        if kind.struct in apart:
            apart[kind.struct] = [item for item in found if not is_selected(item)]
    unselected, headless = apart[Service], apart[EndpointSlice]
    return Manifests(objects, skipped={}, problems=problems, unselected=unselected, headless=headless)


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


def find_pods(api: Api, namespace: str, name: str) -> list[Pod]:
    """The pods of a name, in one namespace or ("") in all. What cannot be decoded is not among them.

    Raises:
        ApiError: the API server cannot be asked, or refuses.
    """
    fields = f"metadata.name={name}" + (f",metadata.namespace={namespace}" if namespace else "")
    return list(_objects(api, Resource(Pod, kind_of(Pod).paths, {"fieldSelector": fields}), []))


def write_manifests(manifests: Manifests, output: TextIO) -> None:
    """YAML documents, sorted by kind and name, with the fields that rulegen reads, labels and annotations whole.

    Secrets are not among them.
    """
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

    kinds = {**manifests.by_kind, Service: manifests.services + manifests.unselected}
    written = [kind for kind in served_kinds(kinds) if not kind.is_secret]
    documents = [_document(item) for kind in written for item in sorted(kinds[kind.struct], key=_name)]
    yaml.dump_all(
        documents or [_EMPTY],
        output,
        Dumper=Dumper,
        sort_keys=False,
        explicit_start=True,
        width=1 << 16,
    )


def left_out(manifests: Manifests) -> str:
    """What `write_manifests` does not write, in words; "" for nothing."""
    secret = [kind for kind in served_kinds(manifests.by_kind) if kind.is_secret]
    return ", ".join(f"{len(found)} {kind.name}" for kind in secret if (found := manifests.by_kind[kind.struct]))


def _name(item: WatchedObject) -> tuple[str, str]:
    return getattr(item.metadata, "namespace", ""), item.metadata.name


def _document(item: WatchedObject) -> dict[str, Any]:
    kind = kind_of(type(item))
    return {"apiVersion": kind.api_versions[0], "kind": kind.name, **msgspec.to_builtins(item)}
