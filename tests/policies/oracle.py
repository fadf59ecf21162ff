"""Objects and a packet come in, whether the packet may pass goes out: the documentation of the API, read literally.

Written from the documentation of NetworkPolicy (networking.k8s.io/v1), of ClusterNetworkPolicy
(policy.networking.k8s.io/v1alpha2) and of label selectors alone. Simple on purpose: for each packet everything is
worked out again. Reads plain documents and imports nothing of rulegen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

from tests.policies.documents import Document, Labels

METADATA_NAME = "kubernetes.io/metadata.name"


class Flow(NamedTuple):
    """The first packet of a connection, as a pod's own node sees it: after DNAT and before SNAT.

    `protocol`: TCP, UDP or SCTP, or another one, which no port of a policy matches. `sender`: the node that sends it
    itself, with whatever source address; "" when it comes from elsewhere.
    """

    source: str
    destination: str
    protocol: str
    port: int
    sender: str = ""


class Verdict(NamedTuple):
    """Whether a packet passes, and the policies or the rule of the network model that say so."""

    allowed: bool
    why: str


class Pod(NamedTuple):
    """Of a Pod object what policies can see. `ports`: name, protocol and number of its container ports."""

    namespace: str
    name: str
    node: str
    labels: Labels
    namespace_labels: Labels
    ports: tuple[tuple[str, str, int], ...]


class Party(NamedTuple):
    """One end of a packet: an address, and the pod that has it."""

    address: IPv4Address | IPv6Address
    pod: Pod | None


class Oracle:
    """What the documentation says of a cluster.

    `objects`: Pods, Namespaces, Nodes, NetworkPolicies and ClusterNetworkPolicies; others are ignored.
    """

    def __init__(self, objects: Iterable[Document]) -> None:
        found = list(objects)
        self._policies = _of_kind(found, "NetworkPolicy")
        # Equal priorities: the documentation leaves the order to the implementation, which states it: by name.
        self._cluster_policies = sorted(
            _of_kind(found, "ClusterNetworkPolicy"), key=lambda one: (one["spec"]["priority"], one["metadata"]["name"])
        )
        self._nodes = _of_kind(found, "Node")
        labels = {one["metadata"]["name"]: one["metadata"].get("labels") or {} for one in _of_kind(found, "Namespace")}
        self._pods = _pods_by_address(_of_kind(found, "Pod"), labels)

    def judge(self, flow: Flow, at: str | None = None) -> Verdict:
        """The source's egress and the destination's ingress; with `at` only what that node has to enforce."""
        verdicts = list(self._verdicts(flow, at))
        denied = (verdict for verdict in verdicts if not verdict.allowed)
        return next(denied, Verdict(True, "; ".join(verdict.why for verdict in verdicts)))

    def denials(self, flow: Flow, at: str | None = None) -> frozenset[str]:
        """The directions that deny it: Egress at the source's node, Ingress at the destination's."""
        return frozenset(verdict.why.partition(":")[0] for verdict in self._verdicts(flow, at) if not verdict.allowed)

    def owner(self, address: str) -> tuple[str, str] | None:
        """Namespace and name of the pod that an address counts for."""
        pod = self._party(address).pod
        return None if pod is None else (pod.namespace, pod.name)

    def _verdicts(self, flow: Flow, at: str | None = None) -> Iterator[Verdict]:
        source, destination = self._party(flow.source), self._party(flow.destination)
        if source.pod is not None and source.pod == destination.pod:
            yield Verdict(True, "a pod reaches itself")
            return
        if source.pod is not None and at in (None, source.pod.node) and not flow.sender:
            yield self._direction("Egress", source.pod, flow, destination, destination)
        if destination.pod is None or at not in (None, destination.pod.node):
            return
        if flow.sender == destination.pod.node:
            yield Verdict(True, "the node reaches its own pods")
        else:
            yield self._direction("Ingress", destination.pod, flow, source, destination)

    def _party(self, address: str) -> Party:
        number = _address(address)
        return Party(number, self._pods.get(number))

    def _direction(self, direction: str, subject: Pod, flow: Flow, other: Party, destination: Party) -> Verdict:
        """The tiers one after the other: Admin, NetworkPolicy, Baseline, and what holds without any."""
        for tier in ("Admin", "NetworkPolicy", "Baseline"):
            if tier == "NetworkPolicy":
                verdict = self._network_policies(direction, subject, flow, other, destination)
            else:
                verdict = self._tier(tier, direction, subject, flow, other, destination)
            if verdict is not None:
                return verdict
        return Verdict(True, f"{direction}: nothing isolates {subject.namespace}/{subject.name}")

    # -- NetworkPolicy --

    def _network_policies(
        self, direction: str, subject: Pod, flow: Flow, other: Party, destination: Party
    ) -> Verdict | None:
        """None for a pod that no policy isolates in this direction; else the union of their rules decides."""
        isolating = [
            policy
            for policy in self._policies
            if policy["metadata"]["namespace"] == subject.namespace
            and direction in policy_types(policy["spec"])
            and selects(policy["spec"].get("podSelector"), subject.labels)
        ]
        if not isolating:
            return None
        for policy in isolating:
            for rule in policy["spec"].get(direction.lower()) or ():
                peers = rule.get("from" if direction == "Ingress" else "to")
                if self._is_among(peers, policy["metadata"]["namespace"], other) and _is_port_among(
                    rule.get("ports"), flow, destination.pod
                ):
                    return Verdict(True, f"{direction}: allowed by {_name(policy)}")
        return Verdict(False, f"{direction}: none of {', '.join(map(_name, isolating))} allows it")

    def _is_among(self, peers: Sequence[Document] | None, namespace: str, other: Party) -> bool:
        """Empty or missing: everybody. Else one of them is enough."""
        return not peers or any(_is_peer(peer, namespace, other) for peer in peers)

    # -- ClusterNetworkPolicy --

    def _tier(
        self, tier: str, direction: str, subject: Pod, flow: Flow, other: Party, destination: Party
    ) -> Verdict | None:
        """The first rule that matches decides; None for Pass and where none matches."""
        for policy in self._cluster_policies:
            spec = policy["spec"]
            if spec["tier"] != tier or not _is_chosen(spec["subject"], subject):
                continue
            for rule in spec.get(direction.lower()) or ():
                peers = rule["from"] if direction == "Ingress" else rule["to"]
                if any(self._is_cluster_peer(peer, other) for peer in peers) and _is_protocol_among(
                    rule.get("protocols"), flow, destination.pod
                ):
                    why = f"{direction}: {rule['action']} by {policy['metadata']['name']}"
                    return None if rule["action"] == "Pass" else Verdict(rule["action"] == "Accept", why)
        return None

    def _is_cluster_peer(self, peer: Document, other: Party) -> bool:
        if "networks" in peer:
            return any(_contains(cidr, other.address) for cidr in peer["networks"])
        if "nodes" in peer:
            return other.address in self._node_addresses(peer["nodes"])
        # Domain names are not supported: such a peer is never met.
        return other.pod is not None and "domainNames" not in peer and _is_chosen(peer, other.pod)

    def _node_addresses(self, chosen: Document) -> set[IPv4Address | IPv6Address]:
        return {
            _address(entry["address"])
            for node in self._nodes
            if selects(chosen, node["metadata"].get("labels") or {})
            for entry in node["status"]["addresses"]
            if entry["type"] in ("InternalIP", "ExternalIP")
        }


def _of_kind(objects: Iterable[Document], kind: str) -> list[Document]:
    return [one for one in objects if one["kind"] == kind]


def _name(policy: Document) -> str:
    return f"{policy['metadata']['namespace']}/{policy['metadata']['name']}"


# -- which pods there are --


def _pods_by_address(
    documents: Iterable[Document], namespace_labels: Mapping[str, Labels]
) -> dict[IPv4Address | IPv6Address, Pod]:
    """Not those on the host's network and not those that have finished; of several with one address, the last of:

    terminating before running, older before newer.
    """
    found: dict[IPv4Address | IPv6Address, Pod] = {}
    for document in sorted(documents, key=_precedence):
        if document["spec"].get("hostNetwork") or document["status"].get("phase") in ("Succeeded", "Failed"):
            continue
        for entry in document["status"].get("podIPs") or ():
            found[_address(entry["ip"])] = _pod(document, namespace_labels)
    return found


def _precedence(document: Document) -> tuple[bool, str]:
    metadata = document["metadata"]
    return "deletionTimestamp" not in metadata, metadata["creationTimestamp"]


def _pod(document: Document, namespace_labels: Mapping[str, Labels]) -> Pod:
    metadata = document["metadata"]
    namespace = metadata["namespace"]
    return Pod(
        namespace,
        metadata["name"],
        document["spec"]["nodeName"],
        metadata.get("labels") or {},
        # The API server gives this label to every namespace, whether or not we were told of it.
        {**namespace_labels.get(namespace, {}), METADATA_NAME: namespace},
        tuple(
            (port.get("name", ""), port.get("protocol", "TCP"), port["containerPort"])
            for container in _long_running(document["spec"])
            for port in container.get("ports") or ()
        ),
    )


def _long_running(spec: Document) -> Iterable[Document]:
    """The containers, and the init containers that go on beside them."""
    yield from spec["containers"]
    yield from (one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always")


# -- selectors --


def selects(selector: Document | None, labels: Labels) -> bool:
    """All that matchLabels and matchExpressions ask for; an empty selector asks for nothing, none selects nothing."""
    if selector is None:
        return False
    wanted: Labels = selector.get("matchLabels") or {}
    expressions: Sequence[Document] = selector.get("matchExpressions") or ()
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _meets(expression, labels) for expression in expressions
    )


def _meets(expression: Document, labels: Labels) -> bool:
    key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
    if operator == "In":
        return key in labels and labels[key] in values
    if operator == "NotIn":
        # True as well for what has no such label.
        return key not in labels or labels[key] not in values
    if operator == "Exists":
        return key in labels
    assert operator == "DoesNotExist"
    return key not in labels


# -- NetworkPolicy --


def policy_types(spec: Document) -> Sequence[str]:
    """As they are stated; else Ingress always, and Egress for a policy with rules for it."""
    stated: Sequence[str] = spec.get("policyTypes") or ()
    if stated:
        return stated
    return ("Ingress", "Egress") if spec.get("egress") else ("Ingress",)


def _is_peer(peer: Document, namespace: str, other: Party) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        excepted = any(_contains(cidr, other.address) for cidr in block.get("except") or ())
        return _contains(block["cidr"], other.address) and not excepted
    if other.pod is None:
        return False
    if peer.get("namespaceSelector") is None:
        in_namespace = other.pod.namespace == namespace
    else:
        in_namespace = selects(peer["namespaceSelector"], other.pod.namespace_labels)
    return in_namespace and (peer.get("podSelector") is None or selects(peer["podSelector"], other.pod.labels))


_address = cache(ip_address)


@cache
def _contains(cidr: str, address: IPv4Address | IPv6Address) -> bool:
    return address in ip_network(cidr, strict=False)


def _is_port_among(ports: Sequence[Document] | None, flow: Flow, destination: Pod | None) -> bool:
    """Empty or missing: all traffic."""
    return not ports or any(_is_port(port, flow, destination) for port in ports)


def _is_port(port: Document, flow: Flow, destination: Pod | None) -> bool:
    protocol, wanted = port.get("protocol") or "TCP", port.get("port")
    if flow.protocol != protocol:
        return False
    if wanted is None:
        return True
    if isinstance(wanted, str):
        return destination is not None and (wanted, protocol, flow.port) in destination.ports
    last: int = port.get("endPort") or wanted
    return bool(wanted <= flow.port <= last)


# -- ClusterNetworkPolicy --


def _is_chosen(chosen: Document, pod: Pod) -> bool:
    """Whether a subject or a peer with `namespaces` or `pods` selects the pod."""
    if "namespaces" in chosen:
        return selects(chosen["namespaces"], pod.namespace_labels)
    selectors = chosen["pods"]
    return selects(selectors.get("namespaceSelector") or {}, pod.namespace_labels) and selects(
        selectors.get("podSelector") or {}, pod.labels
    )


def _is_protocol_among(protocols: Sequence[Document] | None, flow: Flow, destination: Pod | None) -> bool:
    """Missing: all traffic."""
    return protocols is None or any(_is_protocol(protocol, flow, destination) for protocol in protocols)


def _is_protocol(protocol: Document, flow: Flow, destination: Pod | None) -> bool:
    if "destinationNamedPort" in protocol:
        # The container port says of which protocol it is.
        wanted = (protocol["destinationNamedPort"], flow.protocol, flow.port)
        return destination is not None and wanted in destination.ports
    attributes = protocol.get(flow.protocol.lower())
    if attributes is None:
        return False
    port: Document = attributes.get("destinationPort") or {}
    if "range" in port:
        return bool(port["range"]["start"] <= flow.port <= port["range"]["end"])
    return bool(port.get("number", flow.port) == flow.port)
