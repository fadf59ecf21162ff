"""What of the chains concerns some ServicePorts or a packet: chains come in, parts of chains go out. Pure.

A chain of a tree is shared by many Services: of it only the rules that packets to certain destinations can match are
looked at. All other chains are looked at whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from rulegen.config import Family
from rulegen.iptables.chains import FILTER, MANGLE, NAT, Entries, EntryKey, Rules, target_of
from rulegen.iptables.names import safe_comment
from rulegen.iptables.rules import Rule, has_address, has_port, parse_rule
from rulegen.iptables.text import adopt_wording, comment_of
from rulegen.reconcile.delta import Delta, diff
from rulegen.services.model import ServicePortKey
from rulegen.services.on_iptables.compiler import Compiler
from rulegen.services.on_iptables.names import is_of_service
from rulegen.services.simulate import Destination

_TABLES = (MANGLE, NAT, FILTER)


class Subset(NamedTuple):
    """What is looked at.

    `families`: whose fixed part. `service_ports`: the service-ports, also such as have no ServicePort any more.
    `destinations`: where packets are sent that are looked at, by family; address "" for a NodePort.
    """

    families: Collection[Family]
    service_ports: Collection[ServicePortKey]
    destinations: Mapping[Family, Collection[Destination]]


def difference(live: Mapping[EntryKey, Rules], compiler: Compiler, subset: Subset) -> Delta[EntryKey, Rules]:
    """What `apply` would change within the subset."""
    concerned = _Concerned(compiler, subset)
    found, desired = concerned.part(live), concerned.part(compiler.entries())
    empty = {key for key in found.keys() | desired.keys() if not (found.get(key) or desired.get(key))}
    # A root is declared even where nothing hangs from it.
    empty -= {key for family in subset.families for key in _fixed(compiler, family)}
    found, desired = _without(found, empty), _without(desired, empty)
    return diff(adopt_wording(found, desired), desired)


def service_port_part(
    compiler: Compiler, service_port: ServicePortKey, destinations: Collection[Destination]
) -> Entries:
    """A ServicePort's own chains, and of those that lead there the rules that do, in the order of a packet."""
    family = service_port[1]
    concerned = _Concerned(compiler, Subset([family], [service_port], {family: destinations}))
    part = concerned.part(compiler.service_port_entries(service_port))
    _add_leading(part, _fixed(compiler, family))
    return {key: part[key] for key in _in_order(part)}


class _Concerned:
    """Takes what is looked at out of chains, whether they are as compiled or not."""

    def __init__(self, compiler: Compiler, subset: Subset) -> None:
        self._subset = subset
        self._whole = {key for family in subset.families for key, rules in _fixed(compiler, family).items() if rules}
        self._whole |= {
            key
            for service_port in subset.service_ports
            for key in compiler.service_port_entries(service_port)
            if _is_own(key)
        }
        self._comments = {(family, safe_comment(str(name))) for name, family in subset.service_ports}

    def part(self, entries: Mapping[EntryKey, Rules]) -> Entries:
        """The chains, and of those of trees the rules, that are looked at."""
        found: Entries = {}
        for key, rules in entries.items():
            if key.family not in self._subset.families:
                continue
            if key in self._whole or key.is_built_in:
                found[key] = rules
            elif not _is_own(key):
                found[key] = tuple(rule for rule in rules if self._has(key.family, rule))
            elif (key.family, comment_of(rules[:1])) in self._comments:
                found[key] = rules
        return found

    def _has(self, family: Family, text: str) -> bool:
        """Whether a tree's rule is for what is looked at, or for everybody."""
        if (family, comment_of([text])) in self._comments:
            return True
        rule = parse_rule(text)
        return any(_has_destination(rule, destination) for destination in self._subset.destinations.get(family, ()))


def _has_destination(rule: Rule, destination: Destination) -> bool:
    """Whether packets to a destination can match, all else aside."""
    address, port, protocol = destination
    return (
        rule.allows("-d", lambda value: bool(address) and has_address(value, address))
        and rule.allows("-p", lambda value: value == protocol.lower())
        and rule.allows("--dport", lambda value: has_port(value, port))
    )


def _is_own(key: EntryKey) -> bool:
    return is_of_service(key.chain)


def _fixed(compiler: Compiler, family: Family) -> Mapping[EntryKey, Rules]:
    return compiler.base_chains[family].entries if family in compiler.base_chains else {}


def _without(entries: Entries, keys: Collection[EntryKey]) -> Entries:
    return {key: rules for key, rules in entries.items() if key not in keys}


def _add_leading(part: Entries, fixed: Mapping[EntryKey, Rules]) -> None:
    """Adds the rules of the fixed part that lead to the chains, from the built-in ones on."""
    found = True
    while found:
        leading = {
            key: tuple(rule for rule in rules if key._replace(chain=target_of(rule)) in part)
            for key, rules in fixed.items()
            if rules
        }
        found = any(rules and part.get(key) != rules for key, rules in leading.items())
        part |= {key: rules for key, rules in leading.items() if rules}


def _in_order(part: Mapping[EntryKey, Rules]) -> Iterator[EntryKey]:
    """Table by table: the built-in chains, then each chain before those that it leads to."""
    for table in _TABLES:
        hooks = [key for key in part if key.table == table and key.is_built_in]
        yield from hooks
        reached: dict[EntryKey, None] = {}
        for hook in hooks:
            _reach(hook, part, reached)
        yield from (key for key in reached if key not in hooks)


def _reach(key: EntryKey, part: Mapping[EntryKey, Rules], reached: dict[EntryKey, None]) -> None:
    if key in part and key not in reached:
        reached[key] = None
        for rule in part[key]:
            _reach(key._replace(chain=target_of(rule)), part, reached)
