"""The one registry of the kinds of objects that rulegen reads. Only values; asks nobody, and decodes nothing.

What is decoded, listed, watched, read from manifests, written to a snapshot and permitted by the role in `deploy/`
follows from the entries here and from what features need (`Feature.kinds`): a kind that no feature needs costs nothing.
To add one: its Struct (in `objects`), and an entry.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from msgspec import Struct
from msgspec.structs import fields

from rulegen.kube import named_objects
from rulegen.kube.defaults import with_defaults
from rulegen.kube.faults import Fault, endpoints_faults, service_faults, slice_faults
from rulegen.kube.objects import (
    CERTIFICATE_TYPE,
    HEADLESS,
    SERVICE_PROXY_NAME,
    ClusterNetworkPolicy,
    Endpoints,
    EndpointSlice,
    Ingress,
    IngressClass,
    KubeStruct,
    Metadata,
    Namespace,
    NetworkPolicy,
    Node,
    Pod,
    Secret,
    Service,
    ServiceCIDR,
)

WatchedKind: TypeAlias = type[KubeStruct]
# An object of a registered kind. All have `metadata` with a name, and a namespace if they are in one.
WatchedObject: TypeAlias = Any


class Resource(NamedTuple):
    """What to ask an API server for: a kind, the `paths` of its versions, the newest first, and the selectors.

    `optional`: there are API servers that do not know it.
    """

    kind: WatchedKind
    paths: tuple[str, ...]
    selectors: Mapping[str, str]
    optional: bool = False


def _no_faults(item: Any) -> Iterable[Fault]:
    del item
    return ()


def _unchanged(item: Any) -> Any:
    return item


class Kind(Struct, frozen=True, kw_only=True):
    """A kind of objects.

    `struct`: what one is decoded to; its name is the kind's. `api_versions`: those that are read, the newest first, as
    in manifests (`discovery.k8s.io/v1`). `plural`: as in paths and roles. `is_optional`: there are API servers that do
    not know it, which is no error. `without_label`: objects with this label are nobody's here, in manifests too.
    `field_selector`: what else is asked of an API server, and of manifests not. `own_node_field`: the field by which
    the objects of one node are asked for. `faults`: what is wrong with a decoded object. `as_stored`: an object of a
    manifest as the API server would have stored it. `stands_for`: a legacy kind, in manifests alone, is read as this.
    `is_secret`: its objects are never written anywhere.
    """

    struct: WatchedKind
    api_versions: tuple[str, ...]
    plural: str
    is_optional: bool = False
    without_label: str = ""
    field_selector: str = ""
    own_node_field: str = ""
    faults: Callable[[Any], Iterable[Fault]] = _no_faults
    as_stored: Callable[[Any], Any] = _unchanged
    stands_for: WatchedKind | None = None
    instead_of: WatchedKind | None = None
    is_secret: bool = False

    @property
    def name(self) -> str:
        return self.struct.__name__

    @property
    def group(self) -> str:
        """The API group; "" for the core one."""
        return self.api_versions[0].rpartition("/")[0]

    @property
    def is_namespaced(self) -> bool:
        return next(field.type for field in fields(self.struct) if field.name == "metadata") is not Metadata

    @property
    def paths(self) -> tuple[str, ...]:
        """Where an API server has all objects of the kind, for each version."""
        return tuple(f"/{'apis' if '/' in version else 'api'}/{version}/{self.plural}" for version in self.api_versions)

    def selects(self, item: Any) -> bool:
        """Whether a watch with the label selector would deliver an object: the presence of a label excludes it."""
        return not self.without_label or self.without_label not in (item.metadata.labels or {})

    def select(self, items: list[Any]) -> tuple[list[Any], list[Any]]:
        """Those that a watch would deliver, and the others."""
        if not self.without_label:
            return items, []
        label = self.without_label
        selected = [item for item in items if label not in (item.metadata.labels or ())]
        if len(selected) == len(items):
            return items, []
        return selected, [item for item in items if not self.selects(item)]

    def resource(self, own_node: str = "") -> Resource:
        """What to list and to watch. `own_node`: only what is of this node, "" for all nodes."""
        fields_wanted = [self.field_selector] if self.field_selector else []
        if own_node and self.own_node_field:
            fields_wanted.append(f"{self.own_node_field}={own_node}")
        selectors = {
            **({"labelSelector": f"!{self.without_label}"} if self.without_label else {}),
            **({"fieldSelector": ",".join(fields_wanted)} if fields_wanted else {}),
        }
        return Resource(self.struct, self.paths, selectors, self.is_optional)

    def everything(self) -> Resource:
        """The same without any selector."""
        return Resource(self.struct, self.paths, {}, self.is_optional)


# In the order in which objects are handed on where they are known together: what others depend on first, and the
# most numerous last.
_KINDS = (
    # The own Node only (SVC-3).
    Kind(struct=Node, api_versions=("v1",), plural="nodes", own_node_field="metadata.name"),
    # Before Kubernetes 1.33 there is only the beta version, or none (SVC-3).
    Kind(
        struct=ServiceCIDR,
        api_versions=("networking.k8s.io/v1", "networking.k8s.io/v1beta1"),
        plural="servicecidrs",
        is_optional=True,
    ),
    Kind(struct=Namespace, api_versions=("v1",), plural="namespaces"),
    Kind(
        struct=ClusterNetworkPolicy,
        api_versions=("policy.networking.k8s.io/v1alpha2",),
        plural="clusternetworkpolicies",
        is_optional=True,
    ),
    Kind(struct=NetworkPolicy, api_versions=("networking.k8s.io/v1",), plural="networkpolicies"),
    # Neither those that have finished nor those with the node's own addresses are anybody for policies.
    Kind(
        struct=Pod,
        api_versions=("v1",),
        plural="pods",
        field_selector="status.phase!=Succeeded,status.phase!=Failed,spec.hostNetwork=false",
        own_node_field="spec.nodeName",
    ),
    Kind(struct=IngressClass, api_versions=("networking.k8s.io/v1",), plural="ingressclasses"),
    # Of all Secrets only those with a certificate.
    Kind(
        struct=Secret,
        api_versions=("v1",),
        plural="secrets",
        field_selector=f"type={CERTIFICATE_TYPE}",
        is_secret=True,
    ),
    # SVC-1.
    Kind(
        struct=Service,
        api_versions=("v1",),
        plural="services",
        without_label=SERVICE_PROXY_NAME,
        field_selector="spec.clusterIP!=None",
        faults=service_faults,
    ),
    # Only in manifests (D10).
    Kind(
        struct=Endpoints,
        api_versions=("v1",),
        plural="endpoints",
        faults=endpoints_faults,
        stands_for=EndpointSlice,
    ),
    # SVC-2.
    Kind(
        struct=EndpointSlice,
        api_versions=("discovery.k8s.io/v1",),
        plural="endpointslices",
        without_label=HEADLESS,
        faults=slice_faults,
        as_stored=with_defaults,
    ),
    Kind(struct=Ingress, api_versions=("networking.k8s.io/v1",), plural="ingresses"),
    # All of them, headless or not: each has a name.
    Kind(
        struct=named_objects.Service,
        api_versions=("v1",),
        plural="services",
        faults=service_faults,
        instead_of=Service,
    ),
    Kind(
        struct=named_objects.EndpointSlice,
        api_versions=("discovery.k8s.io/v1",),
        plural="endpointslices",
        faults=slice_faults,
        as_stored=with_defaults,
        instead_of=EndpointSlice,
    ),
)
REGISTRY: dict[WatchedKind, Kind] = {kind.struct: kind for kind in _KINDS}


def kind_of(struct: WatchedKind) -> Kind:
    """The entry of a Struct."""
    return REGISTRY[struct]


def is_selected(item: Any) -> bool:
    """See `Kind.selects`."""
    return kind_of(type(item)).selects(item)


def served_kinds(wanted: Collection[type]) -> Iterator[Kind]:
    """The entries of these Structs, in their order; what is legacy is not among them."""
    return (kind for kind in REGISTRY.values() if kind.struct in wanted and kind.stands_for is None)


def written_kinds(wanted: Collection[type] | None) -> Iterator[Kind]:
    """What manifests may hold of these Structs (None: of all), legacy kinds that stand for one of them included."""
    return (
        kind
        for kind in REGISTRY.values()
        if (kind.instead_of is None if wanted is None else kind.struct in wanted or kind.stands_for in wanted)
    )
