"""A packet that no frontend is for comes in; whose address it goes to, and what was probably meant, goes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from msgspec.structs import replace

from rulegen.errors import shown
from rulegen.kube.addresses import canonical_address
from rulegen.kube.objects import Pod, Service, ServicePort
from rulegen.networks import contains, is_loopback, parse_network
from rulegen.services.explain import lists
from rulegen.services.explain.case import Case, way
from rulegen.services.explain.model import Cause, Why
from rulegen.services.model import Frontend, FrontendKind
from rulegen.services.names import KnownPod, NamedPort, bounded, ports_of, service_name, serving_containers
from rulegen.services.requested import why_skipped
from rulegen.services.simulate import Destination, Fate, Match

_MOST_SERVICES = 3
_MOST_ALIKE = 5
_MOST_PORTS = 3
_ICMP = "ICMP"


def undecided(case: Case) -> Iterator[Why]:
    """Why no frontend is concerned, by whose address it is."""
    address = case.target.address
    services = case.view.directory.services_by_address.get(address, [])
    pod = case.view.directory.pods_by_address.get(address)
    is_own = address in case.node_addresses or is_loopback(address)
    if services or is_own:
        yield from _of_services(case, services)
        yield from _of_this_node(case) if is_own else ()
    elif address in case.view.directory.nodes_by_address:
        yield from _of_another_node(case)
    elif pod is not None:
        yield _of_pod(case, pod)
    elif endpoints := list(_endpoints_at(case)):
        yield _of_endpoint(case, endpoints)
    elif case.settings and _is_in(case.settings.service_cidrs, address):
        message = (
            f"{address} is in a ServiceCIDR, and no Service has it; a name that leads there is out of date (SVC-67)"
        )
        yield Why(Cause.UNALLOCATED, message, case.offers(_same_port(case)))
    else:
        message = f"no Service, node or pod that is known has {address}, so nothing here changes where it goes"
        yield Why(Cause.UNKNOWN_ADDRESS, message, case.offers(_same_port(case)))


def without_address(service: Service, port: int, endpoints: Iterable[tuple[Destination, str]]) -> Why:
    """A Service that has no address of its own: who has a name for it goes elsewhere."""
    spec = service.spec
    message = f"{service_name(service)}: {why_skipped(service)}"
    if spec.type == "ExternalName":
        works = (f"{shown(spec.external_name)}, the host that it stands for",) if spec.external_name else ()
        return Why(Cause.EXTERNAL_NAME, message, works)
    if spec.cluster_ip != "None":
        return Why(Cause.OTHER_PROXY, message, ("a ClusterIP, which the API server gives",))
    found = list(endpoints)
    if any(where.port != port for where, _ in found):
        message = f"{message}; nothing translates port {port} on the way"
    return Why(Cause.HEADLESS, message, tuple(f"{where}, {what}" for where, what in found))


def _is_in(cidrs: Iterable[str], address: str) -> bool:
    return contains([network for cidr in cidrs if (network := parse_network(cidr))], address)


# ---- addresses of Services ----


def _of_services(case: Case, services: list[Service]) -> Iterator[Why]:
    served = [service for service in services if not why_skipped(service)]
    for service in services[:_MOST_SERVICES]:
        if why_skipped(service):
            message = f"{case.target.address} is an address of {service_name(service)}, without rules here"
            yield Why(Cause.OTHER_PROXY, f"{message}: {why_skipped(service)}")
    for service in served[:_MOST_SERVICES]:
        why = _of_service(case, service)
        yield why
        if not why.would_work:
            yield from _nor_there(case, case.ways_to(service, _meant_ports(case, service)))


def _nor_there(case: Case, ways: Iterable[tuple[Destination, str]]) -> Iterator[Why]:
    """Why nothing is offered, by the likeliest of the ways that there are: what was meant, perhaps, fails as well."""
    for place, _ in islice(ways, 1):
        there = case.towards(place)
        if there.matched is not None and there.explanation.fate != Fate.BALANCED.value:
            # What would work there does not work here.
            yield from (replace(why, would_work=()) for why in lists.of_frontend(there, there.matched))


def _of_service(case: Case, service: Service) -> Why:
    """An address of a Service, at a port that it does not have, or an address that does not count."""
    name, target = service_name(service), case.target
    has = bounded(ports_of(service)) or "no ports"
    meant = _meant_ports(case, service)
    ways = case.offers(case.ways_to(service, meant))
    if not _counts(case, service):
        role = (
            "lists it, but not as an address that counts: a VIP of ipMode Proxy, or without a ClusterIP of the family"
        )
        return Why(Cause.OTHER_PROXY, f"{target.address}: {name} {role} (SVC-5, SVC-10)", ways)
    if target.protocol == _ICMP:
        message = f"{target.address} is an address of {name}, and nobody's: there is nothing to ping, only its ports"
        return Why(Cause.NO_PORTS, f"{message}, {has} (SVC-67)", ways)
    asked = NamedPort("", target.port, target.protocol)
    message = f"{name} has no port {asked}; it has {has}"
    if other := [port for port in meant if port.number == target.port]:
        protocols = bounded(dict.fromkeys(port.protocol for port in other))
        return Why(Cause.WRONG_PROTOCOL, f"{message}: port {target.port} is {protocols}", ways)
    if any(port.node_port == target.port for port in service.spec.ports or ()):
        text = f"{message}: {target.port} is its NodePort, which nodes' addresses have (SVC-60)"
        return Why(Cause.NODE_PORT, text, ways)
    if meant:
        text = f"{message}: {target.port} is the port of its endpoints, behind the Service's own (targetPort)"
        return Why(Cause.TARGET_PORT, text, ways)
    return Why(Cause.WRONG_PORT, message, ways)


def _meant_ports(case: Case, service: Service) -> list[NamedPort]:
    """The ports that were meant by their number with another protocol, by their NodePort, or by that of endpoints."""
    number, ports = case.target.port, service.spec.ports or []
    found = (
        [port for port in ports if port.port == number],
        [port for port in ports if number and port.node_port == number],
        [port for port in ports if _is_target_port(case, service, port)],
    )
    return [NamedPort(port.name, port.port, port.protocol) for port in next(filter(None, found), ())]


def _counts(case: Case, service: Service) -> bool:
    """Whether the address is a frontend's, of some port."""
    key = (service.metadata.namespace, service.metadata.name)
    found = case.view.store.reasons(*key)
    return any(frontend.address == case.target.address for one in found for frontend in one.intent.frontends)


def _is_target_port(case: Case, service: Service, port: ServicePort) -> bool:
    """Whether endpoints of the port have the one that the packet goes to."""
    key = (service.metadata.namespace, service.metadata.name)
    slices = case.view.directory.slices_by_service.get(key, ())
    wanted = (port.name, port.protocol, case.target.port)
    return any((one.name, one.protocol, one.port) == wanted for item in slices for one in item.ports or ())


# ---- addresses of nodes ----


def _of_this_node(case: Case) -> Iterator[Why]:
    target, settings = case.target, case.settings
    match = case.index.by_node_port(target.port, target.protocol)
    if match is not None and settings is not None:
        if match.frontend.kind is FrontendKind.HOST_PORT:
            why = "host ports are on every address of the node but loopback (D21)"
        elif is_loopback(target.address):
            why = "loopback takes none (SVC-66)"
        else:
            why = f"NodePorts are on its addresses in {bounded(settings.nodeport_addresses)} (SVC-60 to SVC-63)"
        ways = case.offers(_at_addresses(case, match))
        yield Why(Cause.NOT_ACCEPTED, f"{match}, but not on {target.address}: {why}", ways)
        return
    yield from _near_node_ports(case, f"{target.address} is this node's own")
    yield from _host_ports(case)


def _at_addresses(case: Case, match: Match) -> Iterator[tuple[Destination, str]]:
    for address in case.node_addresses:
        yield way(match.service_port, match.frontend, address)


def _of_another_node(case: Case) -> Iterator[Why]:
    name = case.view.directory.nodes_by_address[case.target.address]
    message = f"{case.target.address} is node {name}'s, whose rules decide about it there"
    yield Why(Cause.OTHER_NODE, message, (f"explain with --node {name}",))
    if case.index.by_node_port(case.target.port, case.target.protocol) is None:
        yield from _near_node_ports(case, "it would not there, either")


def _near_node_ports(case: Case, start: str) -> Iterator[Why]:
    """No Service has the NodePort; perhaps one has the port, as another kind of it, or the other protocol."""
    target = case.target
    if target.protocol == _ICMP:
        yield Why(Cause.THIS_NODE, f"{start}, and answers pings itself; Services have ports only")
        return
    asked = NamedPort("", target.port, target.protocol)
    node_ports = [(one, port) for one in case.view.directory.services.values() for port in _node_ports(one)]
    other = [(one, port) for one, port in node_ports if port.node_port == target.port]
    alike = [(one, port) for one, port in node_ports if _is_meant(case, one, port)]
    meant = other or alike
    ways = case.offers(_node_port_ways(case, meant))
    if other:
        has = bounded(f"{service_name(one)} has {port.node_port}/{port.protocol}" for one, port in other)
        yield Why(Cause.WRONG_PROTOCOL, f"{start}, and no Service has NodePort {asked}; {has}", ways)
    elif alike:
        has = bounded(f"{service_name(one)}: {port.node_port}/{port.protocol} for {port.port}" for one, port in alike)
        message = f"{start}, and {asked} is no NodePort but a port of Services that have one: {has}"
        yield Why(Cause.SERVICE_PORT, message, ways)
    else:
        message = (
            f"{start}, and no Service has NodePort {asked}: what listens on the node itself answers, if anything does"
        )
        yield Why(Cause.THIS_NODE, message, case.offers(_same_port(case)))
    if not ways:
        yield from _nor_there(case, _node_port_ways(case, meant))


def _node_ports(service: Service) -> Iterator[ServicePort]:
    return (port for port in service.spec.ports or () if port.node_port and not why_skipped(service))


def _is_meant(case: Case, service: Service, port: ServicePort) -> bool:
    """Whether the packet goes to the Service's own port, or that of its endpoints, where the NodePort was meant."""
    is_own = port.port == case.target.port or _is_target_port(case, service, port)
    return is_own and port.protocol == case.target.protocol


def _node_port_ways(case: Case, found: Iterable[tuple[Service, ServicePort]]) -> Iterator[tuple[Destination, str]]:
    for service, port in found:
        for address in (case.target.address, *case.node_addresses):
            what = f"NodePort of {service_name(service)}"
            yield Destination(address, port.node_port, port.protocol), what


def _host_ports(case: Case) -> Iterator[Why]:
    """Pods of this node that ask for the port, which the feature alone gives them."""
    target = case.target
    for pod in case.view.directory.pod_objects:
        if pod.spec is None or pod.spec.node_name != case.node_name or not _asks_for_port(pod, target):
            continue
        name = f"{pod.metadata.namespace}/{pod.metadata.name}"
        message = f"pod {name} asks for host port {target.port}/{target.protocol}, and does not have it here (D21)"
        if case.view.store.host_ports is None:
            yield Why(Cause.HOST_PORT, message, ("--feature host-ports, where rulegen serves host ports",))
            return
        found = (one for one in case.view.store.findings() if one.reference[:3] == ("Pod", *name.split("/")))
        yield Why(Cause.HOST_PORT, f"{message}: {bounded(one.message for one in found)}")
        return


def _asks_for_port(pod: Pod, target: Destination) -> bool:
    return any(
        (port.host_port, port.protocol) == (target.port, target.protocol)
        for container in serving_containers(pod)
        for port in container.ports or ()
    )


# ---- addresses of pods ----


def _of_pod(case: Case, pod: KnownPod) -> Why:
    where = f", on node {pod.node}" if pod.node else ""
    return _direct(case, f"{case.target.address} is pod {pod}'s{where}", pod.ports)


def _of_endpoint(case: Case, endpoints: list[tuple[str, NamedPort]]) -> Why:
    services = bounded(dict.fromkeys(name for name, _ in endpoints))
    return _direct(case, f"{case.target.address} is an endpoint of {services}", [port for _, port in endpoints])


def _direct(case: Case, start: str, ports: Iterable[NamedPort]) -> Why:
    """No Service stands before a pod's own address."""
    target = case.target
    known = sorted(dict.fromkeys(ports), key=lambda port: port.protocol != target.protocol)
    message = f"{start}, and goes there directly: no Service is concerned"
    if target.protocol == _ICMP or not known:
        return Why(Cause.POD, message)
    if any(port[1:] == (target.port, target.protocol) for port in known):
        return Why(Cause.POD, f"{message}; it has this port")
    services = [one for one in _services_of_endpoint(case) if _has_port(one, target)]
    has = f"{message}; it is known to have {bounded(known)}"
    places = (Destination(target.address, port.number, port.protocol) for port in known[:_MOST_PORTS])
    direct = tuple(f"{place}, the pod's own port" for place in places if case.admits(place))
    if services:
        own = [port for one in services for port in ports_of(one) if port[1:] == target[1:]]
        ways = case.offers(found for one in services for found in case.ways_to(one, own))
        text = f"{has}, while {target.port}/{target.protocol} is a port of {bounded(map(service_name, services))}"
        return Why(Cause.SERVICE_PORT, text, (*ways, *direct))
    other = any(port.number == target.port for port in known)
    return Why(Cause.WRONG_PROTOCOL if other else Cause.WRONG_PORT, has, direct)


def _has_port(service: Service, target: Destination) -> bool:
    return any(port[1:] == (target.port, target.protocol) for port in ports_of(service))


def _endpoints_at(case: Case) -> Iterator[tuple[str, NamedPort]]:
    """The Services that have the address as an endpoint, each with a port that it has there."""
    for service in _services_of_endpoint(case):
        key = (service.metadata.namespace, service.metadata.name)
        for item in case.view.directory.slices_by_service.get(key, ()):
            for port in item.ports or ():
                if port.port:
                    yield service_name(service), NamedPort(port.name or "", port.port, port.protocol)


def _services_of_endpoint(case: Case) -> Iterator[Service]:
    address = case.target.address
    for key, slices in case.view.directory.slices_by_service.items():
        service = case.view.services.get(key)
        if service is not None and any(
            one.addresses and canonical_address(one.addresses[0]) == address
            for item in slices
            for one in item.endpoints or ()
        ):
            yield service


# ---- nobody's addresses ----


def _same_port(case: Case) -> Iterator[tuple[Destination, str]]:
    """Frontends with the same port and protocol; where there are many, none is meant more than another."""
    found = (
        way(service_port, frontend, frontend.address)
        for service_port in case.service_ports
        for frontend in service_port.frontends
        if _is_alike(case, frontend, service_port.name.protocol)
    )
    first = list(islice(found, _MOST_ALIKE + 1))
    yield from first if len(first) <= _MOST_ALIKE else ()


def _is_alike(case: Case, frontend: Frontend, protocol: str) -> bool:
    has_port = frontend.port == case.target.port and protocol == case.target.protocol
    return bool(frontend.address) and has_port
