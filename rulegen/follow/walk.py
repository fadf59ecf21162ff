"""A packet and a Ruleset come in, the chains that the packet passes and what becomes of it go out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

from rulegen.config import Family as HostFamily
from rulegen.follow.model import Element, Ending, Followed, HookPassage, Passage, Place, Sent
from rulegen.netfilter import machine
from rulegen.netfilter.expressions import Masquerade
from rulegen.netfilter.expressions import Translate as NftTranslate
from rulegen.netfilter.intervals import Intervals
from rulegen.netfilter.iptables import Translate
from rulegen.netfilter.machine import INTERFACE_BITS, Fate, Machine, Run
from rulegen.netfilter.model import Chain, Family, Met, Rule, Ruleset
from rulegen.netfilter.regions import single
from rulegen.netfilter.state import BEGINS, Connection, Path

FAMILIES = {HostFamily.IPV4: Family.IPV4, HostFamily.IPV6: Family.IPV6}
_LOOPBACK = {Family.IPV4: (127 << 24, (128 << 24) - 1), Family.IPV6: (1, 1)}
_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
_ICMP = {Family.IPV4: 1, Family.IPV6: 58}
# A ping's type, where other protocols have the first half of the source port.
_ECHO_REQUEST = {Family.IPV4: 8 << 8, Family.IPV6: 128 << 8}
_SOURCE_PORT = 40000
# Of the first packet of a TCP connection.
_FACTS = ((BEGINS, True),)
_REFUSED = frozenset({Fate.REJECTED, Fate.DROPPED})


def walk(ruleset: Ruleset, sent: Sent) -> Followed:
    """Follows the packet. No hook and no ending where the node cannot send such a packet."""
    family = ruleset.family
    own = Intervals.of([_LOOPBACK[family], *((number, number) for number in _numbers(sent.node_addresses, family))])
    judge = Machine(ruleset, own, Intervals.all_of(family.bits) - own)
    run = Run(judge, Connection.NEW, is_sent=sent.is_sent)
    # Of what splits, the last part is followed first.
    found = [ending for cell in run.follow(single(_packet(sent, family), _FACTS)) for ending in cell][::-1]
    ways = [list(_hooks(ending.path)) for ending in found]
    endings = tuple(one for ending, way in zip(found, ways, strict=True) for one in _endings(family, ending, way))
    return Followed(tuple(_merged(ways, [ending.outcome.fate in _REFUSED for ending in found])), endings)


def _numbers(addresses: Iterable[str], family: Family) -> Iterator[int]:
    for address in addresses:
        if (":" in address) is (family is Family.IPV6):
            yield int(ip_address(address))


def _packet(sent: Sent, family: Family) -> tuple[int, ...]:
    """A number for each variable; neither marked nor with a priority."""
    protocol = _PROTOCOLS.get(sent.protocol, _ICMP[family])
    # A name that is too long for one is no interface's, but may begin as one.
    name = sent.interface.encode(errors="replace")[: INTERFACE_BITS // 8]
    interface = int.from_bytes(name.ljust(INTERFACE_BITS // 8, b"\0"), "big")
    source_port = _SOURCE_PORT if sent.protocol in _PROTOCOLS else _ECHO_REQUEST[family]
    ends = (int(ip_address(sent.source)), int(ip_address(sent.destination)))
    return (*ends, protocol, source_port, sent.port, 0 if sent.is_sent else interface, 0, 0, 0)


@dataclass
class _Hook:
    """What was passed from one base chain on; `translates` and `masquerades`: the chains with the rules that did."""

    base: Place
    passages: dict[Place, dict[str, None]] = field(default_factory=dict)
    elements: dict[Element, None] = field(default_factory=dict)
    last: Place | None = None
    translates: Place | None = None
    masquerades: Place | None = None
    is_refusing: bool = False


def _hooks(path: Path) -> Iterator[_Hook]:
    """A way, taken apart at the chains that the kernel calls."""
    steps = []
    while path is not None:
        step, path = path
        steps.append(step)
    hook: _Hook | None = None
    for step in reversed(steps):
        if isinstance(step, Chain) and step.hook is not None:
            if hook is not None:
                yield hook
            hook = _Hook(_place(step))
        if hook is not None:
            _note(hook, step)
    if hook is not None:
        yield hook


def _note(hook: _Hook, step: Chain | Rule | Met) -> None:
    if isinstance(step, Chain):
        hook.last = _place(step)
        hook.passages.setdefault(hook.last, {})
    elif isinstance(step, Rule):
        place = _place(step.chain)
        hook.last = place
        hook.passages.setdefault(place, {})[step.text] = None
        if any(isinstance(one, (Translate, NftTranslate)) for one in step.instructions):
            hook.translates = place
        if any(isinstance(one, Masquerade) for one in step.instructions):
            hook.masquerades = place
    else:
        hook.elements[Element(hook.base.table, step.found_in.name, step.key)] = None


def _place(chain: Chain) -> Place:
    return Place(chain.table, chain.name)


def _merged(ways: Iterable[list[_Hook]], refused: Iterable[bool]) -> Iterator[HookPassage]:
    """The ways of all connections as one, each chain and each rule once."""
    found: dict[Place, _Hook] = {}
    for way, is_refused in zip(ways, refused, strict=True):
        for hook in way:
            known = found.setdefault(hook.base, _Hook(hook.base))
            for place, rules in hook.passages.items():
                known.passages.setdefault(place, {}).update(rules)
            known.elements.update(hook.elements)
            known.translates = known.translates or hook.translates
            known.masquerades = known.masquerades or hook.masquerades
            known.is_refusing |= is_refused and hook is way[-1]
    for hook in found.values():
        passages = tuple(Passage(place, tuple(rules)) for place, rules in hook.passages.items())
        is_decisive = hook.is_refusing or hook.translates is not None or hook.masquerades is not None
        yield HookPassage(passages, tuple(hook.elements), is_decisive)


def _endings(family: Family, ending: machine.Ending, way: list[_Hook]) -> Iterator[Ending]:
    fate = ending.outcome.fate
    masqueraded = next((hook.masquerades for hook in way if hook.masquerades), None)
    refused = way[-1].last if way and fate in _REFUSED else None
    for endpoint, share in ending.endpoints.items():
        text = "" if endpoint is None else _endpoint(family, endpoint)
        yield Ending(share, text, fate, masqueraded, refused, ending.why)


def _endpoint(family: Family, endpoint: tuple[int, int]) -> str:
    address = ip_address(endpoint[0].to_bytes(family.bits // 8, "big"))
    return f"[{address}]:{endpoint[1]}" if family is Family.IPV6 else f"{address}:{endpoint[1]}"
