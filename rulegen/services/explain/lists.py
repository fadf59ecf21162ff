"""A packet to a frontend comes in; why its list of endpoints is what it is, or why there is none, goes out.

Which endpoints are in a list, and why another is not, is the word of `services.reasons`; here it is put together for
one packet, with what would be otherwise if something else were so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rulegen.config import Cidr
from rulegen.kube.kinds import is_selected
from rulegen.kube.mistakes import Mistake
from rulegen.kube.objects import HEADLESS, SERVICE_NAME, EndpointSlice
from rulegen.networks import contains, parse_network
from rulegen.services.explain.case import Case
from rulegen.services.explain.model import Cause, Why
from rulegen.services.model import FrontendKind, Reason, ServiceKey
from rulegen.services.names import NamedPort, bounded
from rulegen.services.node import ZONE_LABEL, host_addresses
from rulegen.services.reasons import EndpointReasons, PortReasons
from rulegen.services.simulate import Destination, Fate, Match, Origin, treat
from rulegen.services.weights import SERVICE_ANNOTATION

_NOTHING_KNOWN = "; the input has no EndpointSlice of any Service, and so does not say who has endpoints"
_SOURCE_RANGES = "spec.loadBalancerSourceRanges"


def of_frontend(case: Case, match: Match) -> Iterator[Why]:
    """Why the frontend did with the packet what it did."""
    fate = Fate(case.explanation.fate)
    if fate is Fate.BALANCED:
        yield from _balanced(case, match)
    elif fate is Fate.REJECTED:
        yield from _without_endpoints(case, match)
    elif _is_outside_ranges(case, match):
        yield from _outside_ranges(case, match)
    else:
        yield from _without_local(case, match)


def _balanced(case: Case, match: Match) -> Iterator[Why]:
    """Why the packet may go to the endpoints that it may go to."""
    reasons = case.reasons_of(match.service_port)
    if reasons is None:
        name = match.service_port.name
        message = f"host port of pod {name.namespace}/{name.name}: no Service is concerned (D21)"
        yield Why(Cause.HOST_PORT, message)
        return
    is_local = _is_local(case, match)
    in_list = [item for item in reasons.endpoints if not _excluded(item, is_local=is_local)]
    yield from _let_in(case, match)
    yield _list(reasons, in_list, is_local=is_local)
    yield from _ignored_hints(case, reasons, is_local=is_local)
    yield from _weights(in_list)
    yield from _left_out((item, _excluded(item, is_local=is_local)) for item in reasons.endpoints)
    yield from _unjoined(case, reasons)
    yield from _unread(case)
    for delivery in case.explanation.deliveries:
        if delivery.decision:
            message = f"{delivery.endpoint} is chosen and then {delivery.decision}"
            yield Why(Cause.ON_THE_WAY, message, (f"an endpoint other than {delivery.endpoint}",))


def _is_outside_ranges(case: Case, match: Match) -> bool:
    """Whether the frontend lets some sources in, and this one not (SVC-51)."""
    ranges = match.frontend.allowed_sources
    return ranges is not None and not _holding(ranges, case.source)


def _outside_ranges(case: Case, match: Match) -> Iterator[Why]:
    """SVC-51: why the source is not let in, and who is."""
    ranges = match.frontend.allowed_sources or ()
    ways = _other_ways(case, match)
    message = f"{case.source} is in none of the {_SOURCE_RANGES} of {match.service_port.name}: {bounded(ranges)}"
    works = (f"a source in {bounded(ranges, ' or ')}", *case.offers(ways))
    yield Why(Cause.RANGES, f"{message} (SVC-51)", works)


def _without_local(case: Case, match: Match) -> Iterator[Why]:
    """SVC-37: which nodes have endpoints where this one has none."""
    reasons = case.reasons_of(match.service_port)
    if reasons is None:
        return
    by_node = Counter(item.node for item in reasons.endpoints if item.is_usable)
    nodes = sorted(node for node in by_node if node)
    where = bounded(f"{node} ({by_node[node]})" for node in nodes)
    told = f"endpoints are on {where}" if nodes else "no endpoint says on which node it is (SVC-20)"
    if nodes and by_node[""]:
        told += f"; {by_node['']} say no node, and so are on none (SVC-20)"
    policy = _policy_field(match)
    message = f"{match.service_port.name} has {policy} Local, and {case.node_name} no endpoint: {told} (SVC-37)"
    works = [*_on_other_nodes(case, match, nodes), *case.offers(_other_ways(case, match)), f"{policy} Cluster"]
    yield Why(Cause.NO_LOCAL, message, tuple(works))
    yield from _left_out((item, item.local) for item in reasons.endpoints if not item.is_usable)
    yield from _unjoined(case, reasons)
    yield from _unread(case)


def _without_endpoints(case: Case, match: Match) -> Iterator[Why]:
    """SVC-36: what is wrong with the endpoints of a Service that has none."""
    name = match.service_port.name
    key = (name.namespace, name.name)
    if too_many := list(_too_many(case, key)):
        yield from too_many
        return
    every_slice = case.view.directory.slices_by_service.get(key, [])
    slices = [item for item in every_slice if is_selected(item)]
    own = [item for item in slices if item.address_type == case.family.value]
    reasons = case.reasons_of(match.service_port)
    title = f"{name} has no endpoint that can be used"
    hidden = [item for item in every_slice if not is_selected(item)]
    if hidden and not slices:
        message = f"EndpointSlice {_names(hidden)} has the label {HEADLESS}, and so is not read (SVC-2)"
        yield Why(Cause.UNREAD_SLICE, message, ("the same slice without this label",))
    elif not slices:
        label = f"no EndpointSlice in namespace {name.namespace} has the label {SERVICE_NAME}: {name.name}"
        known = "" if case.view.directory.slices_by_service else _NOTHING_KNOWN
        yield Why(Cause.NO_SLICES, f"{title}: {label} (SVC-17){known}", ("an EndpointSlice with this label",))
        yield from _strays(case, key)
    elif not own:
        types = bounded(dict.fromkeys(item.address_type for item in slices))
        message = f"{title}: its slices are of address type {types}, and none is {case.family.value} (SVC-17)"
        yield Why(Cause.OTHER_FAMILY, message, (f"an EndpointSlice of address type {case.family.value}",))
    elif not any(item.endpoints for item in own):
        message = f"{title}: its slices list none, as when spec.selector matches no pod that runs"
        yield Why(Cause.NO_ENDPOINTS, f"{message}: {_names(own)} (SVC-36)", ("a pod that spec.selector matches",))
    elif reasons is not None:
        unjoined = list(_unjoined(case, reasons))
        yield from unjoined
        if reasons.endpoints or not unjoined:
            listed = f" that can be used: {len(reasons.endpoints)} listed, all left out (SVC-36)"
            works = ("an endpoint that is ready, of a weight above 0",)
            yield Why(Cause.NO_ENDPOINTS, f"{name} has no endpoint{listed}", works)
        yield from _left_out((item, item.cluster) for item in reasons.endpoints)
    yield from _unread(case)


# ---- the list ----


def _is_local(case: Case, match: Match) -> bool:
    origin = next((one for one in Origin if one.value == case.explanation.origin), Origin.OUTSIDE)
    return case.settings is not None and treat(match, case.settings, origin).is_local


def _excluded(item: EndpointReasons, *, is_local: bool) -> str:
    return item.local if is_local else item.cluster


def _list(reasons: PortReasons, in_list: Sequence[EndpointReasons], *, is_local: bool) -> Why:
    name, text = ("Local", reasons.local) if is_local else ("Cluster", reasons.cluster)
    message = f"{name} list: {text}: {len(in_list)} of {len(reasons.endpoints)} endpoints"
    if reasons.local_drains if is_local else reasons.cluster_drains:
        cause = Cause.DRAINING
    elif is_local:
        cause = Cause.LOCAL
    else:
        cause = Cause.HINTS if reasons.hints else Cause.ALL_READY
    works = ("an endpoint that is ready",) if cause is Cause.DRAINING else ()
    return Why(cause, message, works)


def _ignored_hints(case: Case, reasons: PortReasons, *, is_local: bool) -> Iterator[Why]:
    """Because of whom hints have no effect (SVC-33)."""
    if is_local or not reasons.hinted or reasons.hints is not None:
        return
    lacking = [item for item in reasons.endpoints if item.backend in reasons.unhinted]
    if lacking:
        message = f"topology hints have no effect, because without one: {bounded(map(_endpoint, lacking))} (SVC-33)"
        yield Why(Cause.HINTS_IGNORED, message, ("a hint at every ready endpoint, or at none",))
    else:
        node = case.view.store.node
        has_zone = node is not None and ZONE_LABEL in (node.metadata.labels or {})
        works = (
            "an endpoint that is hinted for this node or its zone"
            if has_zone
            else f"the label {ZONE_LABEL} on the Node"
        )
        yield Why(
            Cause.HINTS_IGNORED, f"topology hints have no effect{reasons.cluster.rpartition('ignored')[2]}", (works,)
        )


def _weights(in_list: Sequence[EndpointReasons]) -> Iterator[Why]:
    if len({item.backend.weight for item in in_list}) > 1:
        shares = bounded(f"{item.backend} {item.backend.weight}" for item in in_list)
        message = f"weights, by the annotation {SERVICE_ANNOTATION} or that of a slice: {shares} (D9)"
        yield Why(Cause.WEIGHTS, message)


def _left_out(excluded: Iterable[tuple[EndpointReasons, str]]) -> Iterator[Why]:
    """Endpoints by why they are not in a list, "" for those that are."""
    by_reason: dict[str, list[EndpointReasons]] = {}
    for item, text in excluded:
        if text:
            by_reason.setdefault(text, []).append(item)
    for text, items in by_reason.items():
        yield Why(Cause.LEFT_OUT, f"left out, {text}: {bounded(map(_endpoint, items))}")


def _endpoint(item: EndpointReasons) -> str:
    what = ", ".join(filter(None, (item.target, item.node)))
    return f"{item.backend}" + (f" ({what})" if what else "")


def _let_in(case: Case, match: Match) -> Iterator[Why]:
    ranges = match.frontend.allowed_sources
    if ranges is not None:
        message = f"{case.source} is let in by {bounded(_holding(ranges, case.source))} of {_SOURCE_RANGES} (SVC-51)"
        yield Why(Cause.LET_IN, message)


def _holding(ranges: Iterable[Cidr], source: str) -> list[Cidr]:
    """The ranges that a source is in."""
    return [cidr for cidr in ranges if (network := parse_network(cidr)) and contains([network], source)]


# ---- other nodes, other frontends ----


def _policy_field(match: Match) -> str:
    is_internal = match.frontend.kind is FrontendKind.CLUSTER_IP
    return "internalTrafficPolicy" if is_internal else "externalTrafficPolicy"


def _on_other_nodes(case: Case, match: Match, nodes: Sequence[str]) -> Iterator[str]:
    """The same frontend where there are endpoints."""
    if match.frontend.kind is FrontendKind.CLUSTER_IP:
        if nodes:
            yield f"a client on {bounded(nodes, ' or ')}"
        return
    protocol = match.service_port.name.protocol
    for name in nodes[:3]:
        node = case.view.directory.nodes.get(name)
        addresses = [one for one in host_addresses(node) if (":" in one) is (":" in case.target.address)]
        if match.frontend.kind is FrontendKind.NODE_PORT and addresses:
            yield f"{Destination(addresses[0], match.frontend.port, protocol)}, the NodePort on {name}"
        else:
            yield f"the same packet through node {name}"


def _other_ways(case: Case, match: Match) -> Iterator[tuple[Destination, str]]:
    """The other frontends of the same service-port."""
    name = match.service_port.name
    service = case.view.services.get(name[:2])
    wanted = [NamedPort(name.port, match.frontend.port, name.protocol)]
    return case.ways_to(service, wanted) if service is not None else iter(())


# ---- slices ----


def _unjoined(case: Case, reasons: PortReasons) -> Iterator[Why]:
    """Slices with endpoints that have no port of this name and protocol (SVC-18)."""
    name = reasons.intent.name
    by_name = {item.metadata.name: item for item in case.view.directory.slices_by_service.get(name[:2], ())}
    lacking = [by_name[one] for one in reasons.unjoined if one in by_name and by_name[one].endpoints]
    if not lacking:
        return
    has = bounded(dict.fromkeys(port for item in lacking for port in _ports(item))) or "no port"
    wanted = f'the name "{name.port}" and protocol {name.protocol}'
    message = f"EndpointSlice {_names(lacking)} has no port with {wanted}, but {has} (SVC-18)"
    yield Why(Cause.UNMATCHED_PORT, message, (f"a port of the slice with {wanted}",))


def _ports(item: EndpointSlice) -> Iterator[str]:
    for port in item.ports or ():
        if port.name is None or not port.port:
            yield "one without a name" if port.name is None else f'one without a number named "{port.name}"'
        else:
            yield f'{NamedPort("", port.port, port.protocol)} named "{port.name}"'


def _names(items: Iterable[EndpointSlice]) -> str:
    return bounded(f"{item.metadata.namespace}/{item.metadata.name}" for item in items)


def _strays(case: Case, key: ServiceKey) -> Iterator[Why]:
    """Slices that may have been meant for a Service that has none, by their name or a label."""
    directory = case.view.directory
    unlabelled, mislabelled, elsewhere = [], [], []
    for (namespace, name), items in directory.slices_by_service.items():
        if namespace == key[0] and not name:
            unlabelled += items
        elif namespace == key[0] and (namespace, name) not in case.view.services:
            mislabelled += items
        elif namespace != key[0] and name == key[1] and (namespace, name) not in case.view.services:
            elsewhere += items
    works = f"the label {SERVICE_NAME}: {key[1]}"
    if mislabelled:
        labels = bounded(f"{_names([item])} ({(item.metadata.labels or {})[SERVICE_NAME]})" for item in mislabelled)
        message = f"slices of this namespace whose label names a Service that there is not: {labels} (SVC-18)"
        yield Why(Cause.STRAY_SLICE, message, (works,))
    if unlabelled:
        message = f"slices of this namespace without a Service's name: {_names(unlabelled)} (SVC-17)"
        yield Why(Cause.STRAY_SLICE, message, (works,))
    if elsewhere:
        message = f"slices for a Service {key[1]} that there is not, in another namespace: {_names(elsewhere)} (SVC-18)"
        yield Why(Cause.STRAY_SLICE, message, (f"slices in namespace {key[0]}",))


def _unread(case: Case) -> Iterator[Why]:
    """Slices of versions that are not read."""
    for notice in case.view.notices:
        if notice.mistake in (Mistake.UNREAD_VERSION, Mistake.MISSPELT_KIND) and "EndpointSlice" in notice.message:
            message = f"{notice.subject}: {notice.message}"
            yield Why(Cause.UNREAD_SLICE, message, ("the same slices of discovery.k8s.io/v1",))
            return


def _too_many(case: Case, key: ServiceKey) -> Iterator[Why]:
    for finding in case.view.store.findings():
        if finding.reason is Reason.TOO_MANY_ENDPOINTS and finding.reference[1:3] == key:
            yield Why(Cause.NO_ENDPOINTS, f"{finding.message} (D18)", ("fewer endpoints, or ports, of one Service",))
