"""Why kube-proxy and rulegen treat a packet differently: a Difference comes in, the decision behind it goes out. Pure.

Decisions are those at the top of docs/service-proxy.md. What none of them explains stays unexplained.
"""

from __future__ import annotations

from collections.abc import Iterable

from rulegen.netfilter.machine import Ending, Fate
from rulegen.netfilter.state import Connection
from rulegen.services.model import FrontendKind
from rulegen.verify.meaning import Meaning
from rulegen.verify.prove import Difference

_REFUSED = {Fate.REJECTED, Fate.DROPPED}


def explain(difference: Difference, meaning: Meaning, *, is_iptables: bool) -> str:
    """The decision in a line; "" for none. `is_iptables`: kube-proxy's mode; its rules are on the left."""
    if _is_host_port(difference, meaning):
        return "D21: host ports are served, which kube-proxy leaves to another program"
    if difference.connection is Connection.UNREPLIED:
        return "D5: kube-proxy judges later packets of a connection that nobody has answered; rulegen ends them at once"
    if _is_hairpin(difference):
        return "D15: whoever reaches himself is masqueraded on every node"
    if difference.connection is Connection.TRANSLATED:
        return "D20: a connection that another program has translated is not asked again"
    if not is_iptables:
        return ""
    return _of_iptables_mode(difference, meaning)


def _is_host_port(difference: Difference, meaning: Meaning) -> bool:
    packet = difference.packet
    found = (
        meaning.by_address.get((packet.destination, packet.protocol, packet.port)),
        meaning.by_node_port.get((packet.protocol, packet.port)),
    )
    return any(match is not None and match.frontend.kind is FrontendKind.HOST_PORT for match in found)


def _is_hairpin(difference: Difference) -> bool:
    """All that differs is the masquerading of clients that are their own endpoint."""
    packet = difference.packet
    if difference.connection is Connection.TRANSLATED:
        return packet.source == packet.destination and not _fates(difference.left) & _REFUSED
    return all(
        deviation.atom[1] is True and deviation.outcome.fate is Fate.TRANSLATED for deviation in difference.deviations
    )


def _fates(endings: Iterable[Ending]) -> set[Fate]:
    return {ending.outcome.fate for ending in endings}


def _of_iptables_mode(difference: Difference, meaning: Meaning) -> str:
    packet = difference.packet
    left, right = _fates(difference.left), _fates(difference.right)
    is_node_port = (packet.protocol, packet.port) in meaning.by_node_port
    is_refused = right <= _REFUSED
    match = meaning.by_address.get((packet.destination, packet.protocol, packet.port))
    is_of_services = packet.destination in meaning.cluster_ips or packet.destination in meaning.service_cidrs
    # The first that holds is told.
    reasons = {
        "D1: what conntrack calls invalid is not dropped (SVC-70)": difference.connection is Connection.INVALID,
        "D1: NodePorts are accepted on the node's primary addresses unless configured (SVC-62)": is_node_port
        and packet.destination not in meaning.accepting,
        "D1: ports that a ClusterIP does not have, and addresses of no Service, are refused (SVC-67)": is_of_services
        and is_refused
        and (left == {Fate.PASSED} or is_node_port),
        "D1: source ranges are checked before DNAT, also of a Service without endpoints (SVC-54)": match is not None
        and match.frontend.allowed_sources is not None,
        "D1: without endpoints, packets are refused wherever they are from (SVC-36, SVC-37)": left == {Fate.PASSED}
        and is_refused,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")
