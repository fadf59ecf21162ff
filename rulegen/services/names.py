"""Objects come in; who has which name, address and port goes out, for those whom people call by a name. Pure.

Names are looked up among the objects that were read; `find_pods` asks elsewhere for a pod that none of them knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import NamedTuple, TypeAlias

from rulegen.alike import alike
from rulegen.errors import shown
from rulegen.kube import objects
from rulegen.kube.addresses import canonical_address
from rulegen.kube.objects import SERVICE_NAME, EndpointSlice, Node, Pod, Service
from rulegen.services.model import ServiceKey
from rulegen.services.node import host_addresses

PROTOCOLS = ("TCP", "UDP", "SCTP")

# Of candidates, and of names that are alike, so many are told.
_MOST_CANDIDATES = 10
_MOST_ALIKE = 5
_ALIKE = 0.6
# No name of an object is longer.
_LONGEST_NAME = 253

_FINISHED = frozenset({"Succeeded", "Failed"})
_SERVICE_KINDS = frozenset({"svc", "service", "services"})
_POD_KINDS = frozenset({"pod", "pods", "po"})
_NODE_KINDS = frozenset({"node", "nodes", "no"})
# `web.shop.svc`, `web.shop.svc.cluster.local`: as in the DNS of a cluster.
_DNS_NAME = re.compile(r"(?P<name>[a-z0-9-]+)\.(?P<namespace>[a-z0-9-]+)\.svc(?:\.[a-z0-9.-]*)?")

# Finds pods by namespace ("": in all) and name.
FindPods: TypeAlias = Callable[[str, str], Iterable[Pod]]


class NamedPort(NamedTuple):
    """A port that a pod is known to have; `name` is "" for one without."""

    name: str
    number: int
    protocol: str

    def __str__(self) -> str:
        """`8080/TCP (http)`."""
        return f"{self.number}/{self.protocol}" + (f" ({self.name})" if self.name else "")


class KnownPod(NamedTuple):
    """A pod, from its own object or from slices. `addresses`: canonical. `node`: "" where nobody says.

    `phase`: "" where only slices know the pod.
    """

    namespace: str
    name: str
    node: str
    addresses: tuple[str, ...]
    ports: tuple[NamedPort, ...]
    is_on_host_network: bool = False
    phase: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.namespace, self.name

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Directory:
    """The objects that can be named.

    `nodes` are all that are known. Nothing is indexed before it is asked for.
    """

    def __init__(
        self,
        services: Iterable[Service] = (),
        slices: Iterable[EndpointSlice] = (),
        pods: Iterable[Pod] = (),
        nodes: Iterable[Node] = (),
        find_pods: FindPods | None = None,
    ) -> None:
        self.services: Mapping[ServiceKey, Service] = {
            (item.metadata.namespace, item.metadata.name): item for item in services
        }
        self.slices: Sequence[EndpointSlice] = tuple(slices)
        self.nodes: Mapping[str, Node] = {item.metadata.name: item for item in nodes}
        self.pod_objects: Sequence[Pod] = tuple(pods)
        self._find_pods = find_pods

    @cached_property
    def pods(self) -> dict[tuple[str, str], KnownPod]:
        """All pods that are known, by namespace and name."""
        known: dict[tuple[str, str], KnownPod] = {}
        for pod in _pods_of_slices(self.slices):
            before = known.get(pod.key)
            known[pod.key] = pod if before is None else _merged(before, pod)
        for key, pod in known.items():
            if any(address in self.nodes_by_address for address in pod.addresses):
                known[key] = pod._replace(is_on_host_network=True)
        for item in self.pod_objects:
            pod = self._known_pod(item)
            listed = known.get(pod.key)
            known[pod.key] = pod if listed is None else _merged(pod, listed)
        return known

    @cached_property
    def pods_by_address(self) -> dict[str, KnownPod]:
        """The pods with an address of their own; of several with one, the last by name."""
        return {
            address: pod
            for _, pod in sorted(self.pods.items())
            if not pod.is_on_host_network
            for address in pod.addresses
        }

    @cached_property
    def nodes_by_address(self) -> dict[str, str]:
        """The names of nodes, by the addresses that they state."""
        return {address: name for name, node in self.nodes.items() for address in host_addresses(node)}

    @cached_property
    def services_by_address(self) -> dict[str, list[Service]]:
        """The Services that list an address as ClusterIP, externalIP or VIP, in any way, whether it counts or not."""
        found: dict[str, list[Service]] = {}
        for _, service in sorted(self.services.items()):
            for address in dict.fromkeys(map(canonical_address, _listed_addresses(service))):
                if address is not None:
                    found.setdefault(address, []).append(service)
        return found

    @cached_property
    def slices_by_service(self) -> dict[ServiceKey, list[EndpointSlice]]:
        """The slices by the Service that their label names, in the order of their names; under "" those without."""
        found: dict[ServiceKey, list[EndpointSlice]] = {}
        for slice_ in sorted(self.slices, key=lambda item: (item.metadata.namespace, item.metadata.name)):
            name = (slice_.metadata.labels or {}).get(SERVICE_NAME, "")
            found.setdefault((slice_.metadata.namespace, name), []).append(slice_)
        return found

    # ---- addresses ----

    def ports_at(self, address: str) -> Iterator[NamedPort]:
        """The ports that somebody has at an address."""
        pod = self.pods_by_address.get(address)
        if address in self.services_by_address:
            for service in self.services_by_address[address]:
                yield from ports_of(service)
        elif pod is not None:
            yield from pod.ports
        else:
            for service in self.services.values():
                for port in service.spec.ports or ():
                    if port.node_port:
                        yield NamedPort(service_name(service), port.node_port, port.protocol)

    # ---- names ----

    def candidates(self, text: str) -> list[tuple[str, Service | KnownPod]]:
        """What a name may mean, each with a name that means nothing else."""
        services = [(f"svc/{'/'.join(key)}", self.services[key]) for key in self.service_keys(text)]
        return [*services, *((f"pod/{pod}", pod) for pod in self.pods_named(text, is_last_resort=not services))]

    def service_keys(self, text: str) -> Iterator[ServiceKey]:
        """The Services that a text names."""
        dns = _DNS_NAME.fullmatch(text)
        if dns is not None and (dns["namespace"], dns["name"]) in self.services:
            yield dns["namespace"], dns["name"]
        yield from _keys(text, _SERVICE_KINDS, self.services)

    def pods_named(self, text: str, *, is_last_resort: bool = True) -> list[KnownPod]:
        """The pods that a text names; where nothing else has it (`is_last_resort`) it is worth to ask elsewhere."""
        keys = list(_keys(text, _POD_KINDS, self.pods))
        if keys or self._find_pods is None or not is_last_resort:
            return [self.pods[key] for key in keys]
        names = [one for one in _readings(text, _POD_KINDS) if _may_be_a_name(one[1])]
        found = [self._known_pod(pod) for namespace, name in names for pod in self._find_pods(namespace, name)]
        self.pods.update((pod.key, pod) for pod in found)
        return found

    def _known_pod(self, item: Pod) -> KnownPod:
        """On the host's network a pod has the addresses of its node, whether it says so or not."""
        spec, status = item.spec, item.status
        node = (spec.node_name if spec else None) or ""
        is_on_host_network = bool(spec and spec.host_network)
        # When a pod has finished its address may be another's.
        has_addresses = status is not None and status.phase not in _FINISHED
        texts = [one.ip for one in status.pod_ips or ()] or [status.pod_ip or ""] if status and has_addresses else []
        addresses = tuple(dict.fromkeys(address for text in texts if (address := canonical_address(text))))
        if is_on_host_network and has_addresses:
            addresses = tuple(dict.fromkeys((*addresses, *host_addresses(self.nodes.get(node)))))
        return KnownPod(
            item.metadata.namespace,
            item.metadata.name,
            node,
            addresses,
            _container_ports(item),
            is_on_host_network,
            (status.phase if status else None) or "",
        )

    def node_named(self, text: str) -> Node | None:
        """`node-1`, `node/node-1`."""
        return self.nodes.get(_bare(text, _NODE_KINDS))

    def pods_of(self, key: ServiceKey) -> str:
        """The end of a message: the pods behind a Service."""
        names = dict.fromkeys(
            f"{key[0]}/{item.target_ref.name}"
            for slice_ in self.slices_by_service.get(key, ())
            for item in slice_.endpoints or ()
            if item.target_ref and item.target_ref.name
        )
        return f"; its pods are {bounded(names)}" if names else ""

    def pods_alike(self, text: str) -> str:
        """The end of a message: pods that may have been meant."""
        return _there_is(_alike(_bare(text, _POD_KINDS), self.pods))

    def unknown(self, text: str) -> str:
        """That nobody has a name, and who may have been meant."""
        services = [f"svc/{name}" for name in _alike(_bare(text, _SERVICE_KINDS), self.services)]
        pods = [f"pod/{name}" for name in _alike(_bare(text, _POD_KINDS), self.pods)]
        kind, slash, name = text.partition("/")
        if slash and kind in _NODE_KINDS and self.nodes:
            return f"no node {shown(name)}; there is {bounded(sorted(self.nodes))}"
        return f"no Service or pod has this name{_there_is([*services, *pods][:_MOST_ALIKE])}"


NOBODY = Directory()


def service_name(service: Service) -> str:
    """`default/web`."""
    return f"{service.metadata.namespace}/{service.metadata.name}"


def ports_of(service: Service) -> list[NamedPort]:
    """The ports of a Service, in its order."""
    return [NamedPort(port.name, port.port, port.protocol) for port in service.spec.ports or ()]


def bounded(items: Iterable[object], between: str = ", ") -> str:
    """Some of the items, and how many more there are."""
    texts = list(map(str, items))
    more = len(texts) - _MOST_CANDIDATES
    return between.join(texts[:_MOST_CANDIDATES]) + (f", and {more} more" if more > 0 else "")


# ---- texts ----


def _may_be_a_name(text: str) -> bool:
    return len(text) <= _LONGEST_NAME and bool(re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", text))


def _readings(text: str, kinds: frozenset[str]) -> Iterator[tuple[str, str]]:
    """As what namespace ("" for any) and name a text may be read."""
    parts = text.split("/")
    if len(parts) == 3 and parts[0] in kinds:
        yield parts[1], parts[2]
    elif len(parts) == 2:
        if parts[0] in kinds:
            yield "", parts[1]
        yield parts[0], parts[1]
    elif len(parts) == 1:
        yield "", parts[0]


def _keys(text: str, kinds: frozenset[str], known: Mapping[tuple[str, str], object]) -> Iterator[tuple[str, str]]:
    """Those that a text names, sorted; of a kind's name and a namespace that are spelt alike, both are meant."""
    found = set[tuple[str, str]]()
    for namespace, name in _readings(text, kinds):
        if namespace:
            found |= {(namespace, name)} & known.keys()
        else:
            found |= {key for key in known if key[1] == name}
    yield from sorted(found)


def _bare(text: str, kinds: frozenset[str]) -> str:
    """Without the kind."""
    kind, slash, rest = text.partition("/")
    return rest if slash and kind in kinds else text


def _alike(text: str, known: Iterable[tuple[str, str]]) -> list[str]:
    """Names that are like a text: of the same name elsewhere, that begin with it, then those that are spelt alike."""
    namespace, slash, name = text[: 2 * _LONGEST_NAME].rpartition("/")
    keys = sorted(known)
    near = [key for key in keys if key[1] == name]
    near += [key for key in keys if key[1].startswith(f"{name}-") and key[0] == (namespace or key[0])]
    if slash:
        joined = {"/".join(key): key for key in keys}
        near += [joined[one] for one in alike(f"{namespace}/{name}", joined, _MOST_ALIKE, _ALIKE)]
    else:
        by_name = {key[1]: key for key in keys}
        near += [by_name[one] for one in alike(name, by_name, _MOST_ALIKE, _ALIKE)]
    return ["/".join(key) for key in islice(dict.fromkeys(near), _MOST_ALIKE)]


def _there_is(names: Sequence[str]) -> str:
    return f"; there is {', '.join(names)}" if names else ""


def _container_ports(item: Pod) -> tuple[NamedPort, ...]:
    return tuple(
        NamedPort(port.name, port.container_port, port.protocol)
        for container in serving_containers(item)
        for port in container.ports or ()
        if 0 < port.container_port <= 65535 and port.protocol in PROTOCOLS
    )


def serving_containers(pod: Pod) -> Iterator[objects.Container]:
    """The containers that stay: init containers do where they are restarted always."""
    if pod.spec is not None:
        yield from (one for one in pod.spec.init_containers or () if one.restart_policy == "Always")
        yield from pod.spec.containers or ()


# ---- addresses of objects ----


def cluster_ips(service: Service) -> list[str]:
    """Those that are addresses, canonical."""
    texts = service.spec.cluster_ips or [service.spec.cluster_ip]
    return [address for text in texts if (address := canonical_address(text))]


def _listed_addresses(service: Service) -> Iterator[str]:
    spec, status = service.spec, service.status
    yield from cluster_ips(service)
    yield from (text.strip() for text in spec.external_ips or ())
    if status is not None and status.load_balancer is not None:
        yield from (ingress.ip for ingress in status.load_balancer.ingress or ())


def _pods_of_slices(slices: Iterable[EndpointSlice]) -> Iterator[KnownPod]:
    for slice_ in slices:
        if slice_.address_type == "FQDN":
            continue
        ports = tuple(NamedPort(port.name or "", port.port, port.protocol) for port in slice_.ports or () if port.port)
        for item in slice_.endpoints or ():
            address = canonical_address(item.addresses[0]) if item.addresses else None
            if address is not None and item.target_ref is not None and item.target_ref.name:
                yield KnownPod(slice_.metadata.namespace, item.target_ref.name, item.node_name or "", (address,), ports)


def _merged(first: KnownPod, second: KnownPod) -> KnownPod:
    """One pod as two places tell of it; where they differ the first one is right."""
    ports = {(port.number, port.protocol): port for port in (*second.ports, *first.ports)}
    return first._replace(
        node=first.node or second.node,
        addresses=tuple(dict.fromkeys((*first.addresses, *second.addresses))),
        ports=tuple(ports[key] for key in sorted(ports)),
    )
