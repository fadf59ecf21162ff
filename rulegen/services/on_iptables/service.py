"""One ServicePort comes in, its own chains and the leaves that lead to them go out. Pure.

`RULEGEN-SVC-` and `RULEGEN-SVL-` hold the DNAT rules of the Cluster and the Local list, `RULEGEN-EXT-` what external
frontends do before, `RULEGEN-SRC-` the source ranges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network

from rulegen.config import Family
from rulegen.iptables.chains import MANGLE, NAT, Entries, EntryKey
from rulegen.iptables.names import PREFIX, digest, safe_comment
from rulegen.iptables.tree import ROOT, Prefix, PrefixTree
from rulegen.services.model import Backend, Frontend, FrontendKind, PodDetector, ServicePort, TrafficPolicy, Verdict
from rulegen.services.on_iptables import balance, lists, names
from rulegen.services.on_iptables.dispatch_trees import (
    WIDTH,
    DispatchTree,
    Leaf,
    address_prefix,
    cidr_prefix,
    cidr_text,
    port_prefix,
)

_RANGES_DEPTH = 3
# Where frontends are found that are not looked for by their address.
_TREES = {FrontendKind.NODE_PORT: DispatchTree.NODEPORTS, FrontendKind.HOST_PORT: DispatchTree.HOST_PORTS}
_REJECT = {
    Family.IPV4: "REJECT --reject-with icmp-port-unreachable",
    Family.IPV6: "REJECT --reject-with icmp6-port-unreachable",
}
_MASK = {Family.IPV4: "255.255.255.255", Family.IPV6: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}
# Where a list is empty: a packet that was for this frontend is not for a NodePort of the same number (SVC-64).
_NOWHERE = "ACCEPT"


@dataclass(slots=True)
class Compiled:
    """A ServicePort's own chains, and its leaves in the trees."""

    chains: Entries = field(default_factory=dict)
    leaves: list[Leaf] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Masquerading:
    """What the node's configuration says: the target that marks a packet, how pods are told, SVC-45."""

    mark: str
    detector: PodDetector | None
    masquerade_all: bool


def compile_service_port(service_port: ServicePort, node: Masquerading) -> Compiled:
    """All rules that a ServicePort needs besides the fixed part and the trees above its leaves."""
    return _Compilation(service_port, node).compile()


def list_of_clients(service_port: ServicePort, backend: Backend) -> str:
    """The name under which the kernel remembers the clients of an endpoint; one list for all frontends (SVC-55)."""
    # Both families share the names.
    return PREFIX + digest(*service_port.name.parts, service_port.family.value, str(backend))


class _Compilation:
    def __init__(self, service_port: ServicePort, node: Masquerading) -> None:
        self._service_port = service_port
        self._node = node
        self._family = service_port.family
        self._protocol = service_port.name.protocol.lower()
        comment = safe_comment(str(service_port.name))
        self._comment = f'-m comment --comment "{comment}" '
        self._store = names.chain_name("SVC", *service_port.name.parts)
        self._local = names.chain_name("SVL", *service_port.name.parts)
        self._external = names.chain_name("EXT", *service_port.name.parts)
        self._cluster_ip: Frontend | None = None
        self._used: set[str] = set()
        self._ranges: dict[tuple[str, ...], str] = {}
        self._made = Compiled()

    def compile(self) -> Compiled:
        for frontend in self._service_port.frontends:
            self._frontend(frontend)
        if self._service_port.health_check_port:
            self._health_check(self._service_port.health_check_port)
        if self._external in self._used:
            self._compile_external()
        for chain, backends in (
            (self._store, self._service_port.cluster_endpoints),
            (self._local, self._service_port.local_endpoints),
        ):
            if chain in self._used:
                self._compile_list(chain, backends)
        return self._made

    # -- what clients connect to --

    def _frontend(self, frontend: Frontend) -> None:
        if frontend.kind is FrontendKind.CLUSTER_IP:
            prefix = address_prefix(self._family, frontend.address)
            rule = f"-d {frontend.address}/{WIDTH[self._family]} -j {_REJECT[self._family]}"
            self._made.leaves.append(Leaf(DispatchTree.CLUSTER_IPS, prefix, rule))
            self._internal(frontend)
            return
        if frontend.allowed_sources is not None:
            self._leaf(DispatchTree.FIREWALL, frontend, self._ranges_chain(frontend.allowed_sources))
        if frontend.verdict is not Verdict.BALANCE:
            self._nobody(frontend)
        if frontend.verdict is not Verdict.REJECT:
            tree = _TREES.get(frontend.kind, DispatchTree.VIPS)
            self._leaf(tree, frontend, self._external)
            self._used.add(self._external)

    def _health_check(self, port: int) -> None:
        """SVC-84: others' firewalls let load balancers ask."""
        rule = f"-p tcp -m tcp --dport {port} {self._comment}-j ACCEPT"
        self._made.leaves.append(Leaf(DispatchTree.HEALTH_CHECKS, port_prefix("TCP", port), rule))

    def _internal(self, frontend: Frontend) -> None:
        if frontend.verdict is not Verdict.BALANCE:
            self._nobody(frontend)
            return
        chain = self._local if frontend.policy is TrafficPolicy.LOCAL else self._store
        self._cluster_ip = frontend
        self._used.add(chain)
        self._leaf(DispatchTree.VIPS, frontend, chain)

    def _nobody(self, frontend: Frontend) -> None:
        """SVC-36, SVC-37."""
        is_node_port = frontend.kind is FrontendKind.NODE_PORT
        target = _REJECT[self._family] if frontend.verdict is Verdict.REJECT else "DROP"
        self._leaf(DispatchTree.NO_ENDPOINT_NODEPORTS if is_node_port else DispatchTree.NO_ENDPOINTS, frontend, target)

    def _leaf(self, tree: DispatchTree, frontend: Frontend, target: str) -> None:
        if tree.is_of_ports:
            prefix = port_prefix(self._service_port.name.protocol, frontend.port)
        else:
            prefix = address_prefix(self._family, frontend.address)
        self._made.leaves.append(Leaf(tree, prefix, f"{self._addressed(frontend)}{self._comment}-j {target}"))

    def _addressed(self, frontend: Frontend) -> str:
        """Matches packets to a frontend."""
        destination = f"-d {frontend.address}/{WIDTH[self._family]} " if frontend.address else ""
        return f"{destination}-p {self._protocol} -m {self._protocol} --dport {frontend.port} "

    def _ranges_chain(self, sources: tuple[str, ...]) -> str:
        """The chain that drops whoever is in none of the ranges; one for all VIPs with the same."""
        if sources in self._ranges:
            return self._ranges[sources]
        tree = PrefixTree(WIDTH[self._family], max_depth=_RANGES_DEPTH)
        tree.change([cidr_prefix(ip_network(cidr)) for cidr in sources], ())
        name = "\0".join((*self._service_port.name.parts, str(len(self._ranges))))
        for node in tree.nodes():
            rules = []
            for branch in tree.branches(node):
                target = f"-g {_below('SRC', name, branch.prefix)}" if branch.is_chain else "-j RETURN"
                rules.append(f"-s {cidr_text(self._family, branch.prefix)} {target}")
            self._add(_below("SRC", name, node), [*rules, "-j DROP"], MANGLE)
        self._ranges[sources] = _below("SRC", name, ROOT)
        return self._ranges[sources]

    # -- what external frontends do --

    def _compile_external(self) -> None:
        external = next(f for f in self._service_port.frontends if f.kind is not FrontendKind.CLUSTER_IP)
        if external.policy is TrafficPolicy.CLUSTER:
            rules = [f"-j {self._node.mark}", f"-j {self._list(self._store, self._service_port.cluster_endpoints)}"]
        else:
            rules = list(self._short_circuits())
        self._add(self._external, rules)

    def _short_circuits(self) -> Iterator[str]:
        """Policy Local (SVC-43): pods and the node itself reach every endpoint; all others this node's."""
        everywhere = self._list(self._store, self._service_port.cluster_endpoints)
        if self._node.detector is not None:
            yield f"{_from_pod(self._node.detector)}-j {everywhere}"
        yield f"-m addrtype --src-type LOCAL -j {self._node.mark}"
        yield f"-m addrtype --src-type LOCAL -j {everywhere}"
        yield f"-j {self._list(self._local, self._service_port.local_endpoints)}"

    def _list(self, chain: str, backends: Sequence[Backend]) -> str:
        if not backends:
            return _NOWHERE
        self._used.add(chain)
        return chain

    # -- where packets go --

    def _compile_list(self, chain: str, backends: tuple[Backend, ...]) -> None:
        rules = [*self._masquerade_internal(chain), *self._remembered(chain, backends)]
        for part in lists.chains_of(backends):
            targets = [
                ("", _below("LB", chain, target)) if isinstance(target, Prefix) else self._endpoint(target)
                for target in part.targets
            ]
            drawn = self._draw(part.weights, targets)
            if part.node == ROOT:
                self._add(chain, [*rules, *drawn])
            else:
                self._add(_below("LB", chain, part.node), list(drawn))

    def _masquerade_internal(self, chain: str) -> Iterator[str]:
        """ClusterIP traffic that is not a pod's (spec §7). Other frontends of the list decide before they come here."""
        frontend = self._cluster_ip
        is_local = chain == self._local
        if frontend is None or (frontend.policy is TrafficPolicy.LOCAL) is not is_local:
            return
        if self._node.masquerade_all:
            yield f"{self._addressed(frontend)}-j {self._node.mark}"
        elif self._node.detector is not None:
            yield from _unless_pod(self._node.detector, self._addressed(frontend), self._node.mark)

    def _remembered(self, chain: str, backends: tuple[Backend, ...]) -> Iterator[str]:
        """Session affinity: the first endpoint of the list that remembers the client (SVC-55 to SVC-57)."""
        if self._service_port.affinity_timeout is None:
            return
        draining = [backend for backend in self._service_port.draining if backend.local or chain == self._store]
        for backend in sorted({*backends, *draining}, key=str):
            remembered = f"--update --seconds {self._service_port.affinity_timeout} --reap {self._clients(backend)}"
            yield f"-p {self._protocol} -m recent {remembered} -j DNAT --to-destination {backend}"

    def _clients(self, backend: Backend) -> str:
        return f"--name {list_of_clients(self._service_port, backend)} --mask {_MASK[self._family]} --rsource"

    def _endpoint(self, backend: Backend) -> tuple[str, str]:
        """The match that remembers the client, and the target."""
        remember = "" if self._service_port.affinity_timeout is None else f"-m recent --set {self._clients(backend)} "
        return remember, f"DNAT --to-destination {backend}"

    def _draw(self, weights: tuple[int, ...], targets: Iterable[tuple[str, str]]) -> Iterator[str]:
        """Rules of which each takes its share, and the last what is left."""
        chances = [*(f"{balance.match(threshold)} " for threshold in balance.thresholds(weights)), ""]
        for chance, (match, target) in zip(chances, targets, strict=True):
            # DNAT with a port needs a protocol; chains below are reached with one.
            yield f"-p {self._protocol} {chance}{match}-j {target}"

    def _add(self, chain: str, rules: list[str], table: str = NAT) -> None:
        """A chain whose first rule says whose it is."""
        head, option, target = f" {rules[0]}".rpartition(" -j ")
        if not option:
            head, option, target = f" {rules[0]}".rpartition(" -g ")
        first = f"{head} {self._comment.rstrip()}{option}{target}".lstrip()
        self._made.chains[EntryKey(self._family, table, chain)] = (first, *rules[1:])


def _below(kind: str, chain: str, node: Prefix) -> str:
    """The name of a chain in the tree below `chain`."""
    return names.chain_name(kind, chain, f"{node.value:x}/{node.length}")


def _from_pod(detector: PodDetector) -> str:
    """Matches packets of pods; no interface's name ends with the `+` that stands for a prefix."""
    if detector.cidr is not None:
        return "" if detector.cidr.endswith("/0") else f"-s {detector.cidr} "
    return f"-i {_interface(detector)} "


def _unless_pod(detector: PodDetector, addressed: str, target: str) -> Iterator[str]:
    if detector.cidr is None:
        destination, protocol = addressed.split("-p ", 1)
        yield f"{destination}! -i {_interface(detector)} -p {protocol}-j {target}"
    elif not detector.cidr.endswith("/0"):
        yield f"! -s {detector.cidr} {addressed}-j {target}"


def _interface(detector: PodDetector) -> str:
    return detector.interface or f"{detector.interface_prefix}+"
