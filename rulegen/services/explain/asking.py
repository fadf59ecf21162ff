"""`--from` and `--to` as a person writes them come in; questions about packets go out, one for each family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rulegen.config import Family
from rulegen.errors import InputError, shown
from rulegen.kube.addresses import canonical_address
from rulegen.networks import family_of
from rulegen.services import parties
from rulegen.services.explain.model import View
from rulegen.services.explain.packet import NODE, PacketQuestion
from rulegen.services.names import ports_of
from rulegen.services.node import host_addresses
from rulegen.services.parties import Source, Target
from rulegen.services.simulate import Destination


class Asked(NamedTuple):
    """A question, and what was named in it. `question`: None where the Service that was named has no address at all."""

    source: Source
    target: Target
    question: PacketQuestion | None

    @property
    def names(self) -> tuple[str, ...]:
        """What stands behind the addresses."""
        return tuple(filter(None, (self._source_name(), self._target_name())))

    @property
    def target_text(self) -> str:
        """Where it goes, in words that need no address."""
        target = self.target
        if target.service is None:
            return str(self.question.destination) if self.question else ""
        port = f":{target.port}" if target.port else ""
        metadata = target.service.metadata
        return f"{metadata.namespace}/{metadata.name}{port}/{target.protocol.lower()}"

    def _source_name(self) -> str:
        pod = self.source.pod
        if pod is None:
            return ""
        return f"from pod {pod}" + _on_node(pod.node, is_on_host_network=pod.is_on_host_network)

    def _target_name(self) -> str:
        service, pod = self.target.service, self.target.pod
        if pod is not None:
            return f"to pod {pod}" + _on_node(pod.node, is_on_host_network=pod.is_on_host_network)
        if service is None:
            return ""
        ports = [port for port in ports_of(service) if port[1:] == (self.target.port, self.target.protocol)]
        port = f", port {ports[0].name}" if ports and ports[0].name else ""
        return f"to Service {service.metadata.namespace}/{service.metadata.name}{port}"


def _on_node(node: str, *, is_on_host_network: bool) -> str:
    network = "on the host network" if is_on_host_network else ""
    return "".join(f", {part}" for part in (f"on node {node}" if node else "", network) if part)


def parse_addresses(texts: Iterable[str]) -> tuple[str, ...]:
    """The option `--address`, canonical. Raises InputError."""
    found = []
    for text in texts:
        address = canonical_address(text)
        if address is None:
            raise InputError(f"--address: expected an IP address, got {shown(text)}")
        found.append(address)
    return tuple(found)


def ask(view: View, source_text: str, to_text: str, interface: str = "", addresses: Sequence[str] = ()) -> list[Asked]:
    """What is asked, for each family in which both ends have an address, IPv4 first.

    A family that this node has no rules for, or no address to send from, is asked about only where there is no other.
    `addresses`: of the node, besides those that its Node object states; canonical.

    Raises:
        InputError: a name or an address that means nothing, or two ends without a common family.
    """
    source, target = parties.source(view.directory, source_text), parties.target(view.directory, to_text)
    own = tuple(dict.fromkeys((*host_addresses(view.store.node), *addresses)))
    at = {family_of(address): address for address in reversed(own)} if target.is_node else target.addresses
    if target.is_node and not at:
        raise InputError(f"--to: this node states no address; name one with --to ADDRESS, or with --address: {to_text}")
    if not at:
        return [Asked(source, target, None)]
    families = [family for family in Family if family in at and (source.is_node or family in source.addresses)]
    if not families:
        one, other = next(iter(source.addresses.values())), next(iter(at.values()))
        raise InputError(f"--from and --to: {one} and {other} are of different IP families")
    sends = {family_of(address) for address in own} if source.is_node and own else set(Family)
    likely = [family for family in families if family in sends and family in view.families]
    return [
        Asked(
            source,
            target,
            PacketQuestion(
                NODE if source.is_node else source.addresses[family],
                Destination(at[family], target.port, target.protocol),
                interface,
                own,
            ),
        )
        for family in likely or families
    ]
