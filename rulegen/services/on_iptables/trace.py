"""The first packet of a connection comes in; the chains that it passes and the rules that it meets there go out. Pure.

Follows compiled chains as the kernel would: tables and hooks in their order, DNAT, what becomes of the packet after it.
It knows the matches and targets that rulegen's own rules have, and nothing of Services.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from rulegen.config import Family
from rulegen.iptables.chains import FILTER, MANGLE, NAT, EntryKey, Rules
from rulegen.iptables.rules import Rule, has_address, has_port, parse_rule
from rulegen.networks import is_loopback
from rulegen.services.on_iptables.names import is_of_service
from rulegen.services.simulate import Packet


class Passage(NamedTuple):
    """A chain that the packet passes, and the rules that it meets there: those that match, or may."""

    key: EntryKey
    rules: Rules


class Ending(NamedTuple):
    """What becomes of some of the connections.

    `probability`: of how many. `endpoint`: `address:port` where DNAT sends it, "" without. `verdict`: REJECT or DROP,
    "" where the packet goes on.
    """

    probability: float
    endpoint: str
    masqueraded: bool
    verdict: str


class Trace(NamedTuple):
    """`passages`: through the hooks where something was decided, in the order of the packet."""

    passages: tuple[Passage, ...]
    endings: tuple[Ending, ...]


def trace(
    entries: Mapping[EntryKey, Rules], family: Family, packet: Packet, node_addresses: Collection[str], *, sent: bool
) -> Trace:
    """Where a packet of a client that no list remembers goes. `sent`: by this node itself."""
    return _Tracer(entries, family, _Node(packet, node_addresses, sent)).trace()


class _Node(NamedTuple):
    """A packet, and the node that it is on."""

    packet: Packet
    addresses: Collection[str]
    sent: bool

    def owns(self, address: str) -> bool:
        return address in self.addresses or is_loopback(address)


class _State(NamedTuple):
    """What rules change about a packet. `endpoint`: as DNAT was told, "" before it."""

    destination: str
    port: int
    marked: bool = False
    endpoint: str = ""


class _End(NamedTuple):
    """Where some of the connections leave a hook. `target`: the verdict, "" when no rule has one."""

    target: str
    share: float
    state: _State


class _Left(NamedTuple):
    """What comes back from a chain: which share of the connections, and how rules changed them."""

    share: float
    state: _State


@dataclass
class _Hook:
    """The way through one hook."""

    passages: dict[EntryKey, dict[str, None]] = field(default_factory=dict)
    ends: list[_End] = field(default_factory=list)

    @property
    def decided(self) -> bool:
        """Whether a Service's chain was passed, or a verdict met."""
        return any(is_of_service(key.chain) for key in self.passages) or any(end.target for end in self.ends)


class _Tracer:
    def __init__(self, entries: Mapping[EntryKey, Rules], family: Family, node: _Node) -> None:
        self._entries = entries
        self._family = family
        self._node = node
        self._passages: dict[EntryKey, dict[str, None]] = {}

    def trace(self) -> Trace:
        packet, first = self._node.packet, "OUTPUT" if self._node.sent else "PREROUTING"
        (end,) = self._pass(MANGLE, first, _State(packet.destination, packet.port))
        if end.target:
            return self._finished([Ending(1.0, "", False, end.target)])
        # Filter comes before postrouting for each packet, so the ways of all of them are told in that order.
        sent_to = self._pass(NAT, first, end.state)
        verdicts = [self._filter(end.state) for end in sent_to]
        return self._finished(
            Ending(end.share, end.state.endpoint, not verdict and self._masqueraded(end.state), verdict)
            for end, verdict in zip(sent_to, verdicts, strict=True)
        )

    def _finished(self, endings: Iterable[Ending]) -> Trace:
        ended = tuple(endings)
        return Trace(tuple(Passage(key, tuple(rules)) for key, rules in self._passages.items()), ended)

    # -- hooks --

    def _filter(self, state: _State) -> str:
        """The verdict on a packet on its way to where it is going by now, "" for none."""
        verdicts = (self._pass(FILTER, hook, state)[0].target for hook in self._filter_hooks(state))
        return next(filter(None, verdicts), "")

    def _filter_hooks(self, state: _State) -> Iterator[str]:
        received = self._node.owns(state.destination)
        if self._node.sent:
            yield "OUTPUT"
        elif not received:
            yield "FORWARD"
        if received:
            yield "INPUT"

    def _masqueraded(self, state: _State) -> bool:
        """What the node only receives does not pass postrouting."""
        if self._node.owns(state.destination) and not self._node.sent:
            return False
        return self._pass(NAT, "POSTROUTING", state)[0].target == "MASQUERADE"

    def _pass(self, table: str, hook: str, state: _State) -> list[_End]:
        """Where the connections end that reach a hook; keeps the way if something was decided there."""
        found = _Hook()
        left = self._walk(found, EntryKey(self._family, table, hook), 1.0, state)
        if left.share:
            found.ends.append(_End("", left.share, left.state))
        if found.decided:
            for key, rules in found.passages.items():
                self._passages.setdefault(key, {}).update(rules)
        return found.ends

    # -- chains and rules --

    def _walk(self, hook: _Hook, key: EntryKey, share: float, state: _State) -> _Left:
        met = hook.passages.setdefault(key, {})
        left = _Left(share, state)
        for text in self._entries.get(key, ()):
            rule = parse_rule(text)
            if not self._matches(rule, left.state):
                continue
            met[text] = None
            if "--update" in rule.options:  # nobody is remembered yet
                continue
            if rule.target == "RETURN":
                break
            left = self._take(hook, key, rule, left)
            if not left.share or "-g" in rule.options:
                break
        return left

    def _take(self, hook: _Hook, key: EntryKey, rule: Rule, left: _Left) -> _Left:
        """What goes on behind a rule that matched."""
        chance = float(rule.options.get("--probability", "1"))
        taken = left.share * chance
        rest = 0.0 if chance == 1 else left.share - taken
        if rule.target == "MARK":
            return left._replace(state=left.state._replace(marked=not rule.options["--set-xmark"].startswith("0x0/")))
        below = key._replace(chain=rule.target)
        if below in self._entries:
            back = self._walk(hook, below, taken, left.state)
            return _Left(rest + back.share, back.state if chance == 1 else left.state)
        state = _translated(left.state, rule.options.get("--to-destination", ""))
        hook.ends.append(_End("" if rule.target == "ACCEPT" else rule.target, taken, state))
        return _Left(rest, left.state)

    def _matches(self, rule: Rule, state: _State) -> bool:
        return all(
            _MATCHES[option](self._node, state, value) is not (option in rule.negated)
            for option, value in rule.options.items()
            if option in _MATCHES
        )


def _translated(state: _State, endpoint: str) -> _State:
    if not endpoint:
        return state
    address, _, port = endpoint.rpartition(":")
    return state._replace(destination=address.strip("[]"), port=int(port), endpoint=endpoint)


def _came_by(node: _Node, _: _State, value: str) -> bool:
    interface = node.packet.interface
    return interface.startswith(value[:-1]) and bool(interface) if value.endswith("+") else interface == value


# The matches of rulegen's rules; probabilities and remembered clients are not a matter of yes or no.
_MATCHES: Mapping[str, Callable[[_Node, _State, str], bool]] = {
    "-s": lambda node, _, value: has_address(value, node.packet.source),
    "-d": lambda _, state, value: has_address(value, state.destination),
    "-p": lambda node, _, value: node.packet.protocol.lower() == value,
    "--dport": lambda _, state, value: has_port(value, state.port),
    "-i": _came_by,
    "--src-type": lambda node, _, __: node.owns(node.packet.source),
    "--dst-type": lambda node, state, _: node.owns(state.destination),
    "--ctstate": lambda _, state, value: value == "NEW" or (value == "DNAT" and bool(state.endpoint)),
    "--mark": lambda _, state, __: state.marked,
    "--bytecode": lambda node, state, _: node.packet.source == state.destination,
}
