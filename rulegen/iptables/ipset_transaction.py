"""A Delta with sets of ipset comes in, steps go out, in an order that leaves no wrong state in between. Pure.

A restore of iptables changes all rules at once; of ipset each element is changed alone. What lies between two states
must let no packet through that both forbid, and lose none that both allow. So

- sets that come are filled before a rule looks into them, those that go end, as they are, behind the rules;
- changes of elements alone, mostly those of one pod, are put in an order in which each state between agrees with the
  one before or the one after (`_in_order`); between two steps all packets leave the rules;
- all else goes over twins: the sets that change are copied, the copies changed, the rules made to look there, all at
  once; then nobody looks into the sets, so that they are changed in any order, and the rules return to them.

What is said of rules here holds for those of features that refuse packets (`ChainCompiler.guards`), which alone use
sets: a rule that RETURNs lets the packet go on, and no rule could do more for it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from rulegen.config import Family
from rulegen.iptables.chains import IPSET, Entries, EntryKey, Rules, target_of
from rulegen.iptables.ipsets import (
    Element,
    add_line,
    create_line,
    declared_key,
    element_of,
    remove_line,
    twin_name,
)
from rulegen.iptables.transaction import Step, plan
from rulegen.reconcile.delta import Change, Delta

_MATCH = re.compile(r"(--match-set )(\S+)")
_LOOKUP = re.compile(r"--match-set (\S+) (src|dst)")


class SetStep(NamedTuple):
    """What `ipset restore` reads. `waits`: all packets have to leave the rules before.

    `copies`: sets whose elements are put into another one, which the lines make, before anything is changed there.
    """

    lines: tuple[str, ...]
    waits: bool = False
    copies: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return IPSET


class EndStep(NamedTuple):
    """Sets that end, when the kernel has let go of the rules that looked into them."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return IPSET


AnyStep: TypeAlias = Step | SetStep | EndStep


class RuleSets(NamedTuple):
    """The sets that a rule looks into, and for which end of a packet, `src` or `dst`.

    `accepts`: it RETURNs what is there.
    """

    names: tuple[str, ...]
    ends: tuple[str, ...]
    accepts: bool


class SetUsers:
    """Which rules look into which sets; follows the chains as they change."""

    def __init__(self) -> None:
        self._rules: dict[EntryKey, tuple[RuleSets, ...]] = {}
        self._users: dict[str, dict[EntryKey, None]] = {}

    def note(self, key: EntryKey, rules: Rules) -> None:
        """A chain's rules as they are now; none when it is gone."""
        for found in self._rules.pop(key, ()):
            for name in found.names:
                self._users.get(name, {}).pop(key, None)
        written = tuple(_rule_sets(rule) for rule in rules if "--match-set " in rule)
        if written:
            self._rules[key] = written
        for found in written:
            for name in found.names:
                self._users.setdefault(name, {})[key] = None

    def of(self, names: Iterable[str]) -> dict[EntryKey, None]:
        """The chains that look into one of the sets."""
        return {key: None for name in names for key in self._users.get(name, ())}

    def rules(self, key: EntryKey) -> tuple[RuleSets, ...]:
        """The rules of a chain that look into sets, in order."""
        return self._rules.get(key, ())


def _rule_sets(rule: str) -> RuleSets:
    found = _LOOKUP.findall(rule)
    return RuleSets(tuple(name for name, _ in found), tuple(end for _, end in found), target_of(rule) == "RETURN")


def plan_with_sets(
    delta: Delta[EntryKey, Rules],
    live: Mapping[EntryKey, Rules],
    prefixes: Sequence[str],
    users: SetUsers,
    yielding: Collection[str] = (),
) -> list[AnyStep]:
    """The steps that lead from `live` to what is wanted; see `transaction.plan`, also for what it raises.

    `live` need not hold elements. `users`: of the chains of `live`.
    """
    change = _SetChange.of(delta)
    chains = _chains_of(delta)
    if not change:
        return list(plan(chains, live, prefixes, yielding))
    first: list[AnyStep] = [SetStep(tuple(change.making()))] if change.made else []
    last: list[AnyStep] = [EndStep(tuple(change.gone))] if change.gone else []
    touched = change.touched
    if not touched:
        return [*first, *plan(chains, live, prefixes, yielding), *last]
    if not chains and not change.remade:
        phases = _in_order(change, users)
        if phases is not None:
            steps = [SetStep(tuple(lines), waits=number > 0) for number, lines in enumerate(phases)]
            return [*first, *steps, *last]
    return _over_twins(change, chains, live, (prefixes, yielding), users)


def _chains_of(delta: Delta[EntryKey, Rules]) -> Delta[EntryKey, Rules]:
    return Delta(
        {key: rules for key, rules in delta.added.items() if key.table != IPSET},
        {key: change for key, change in delta.changed.items() if key.table != IPSET},
        {key: rules for key, rules in delta.removed.items() if key.table != IPSET},
    )


class _SetChange(NamedTuple):
    """The part of a Delta that is about sets. `made`, `remade`: by name what declares it.

    `added`, `removed`: elements by set, without those of sets that go.
    """

    made: dict[str, str]
    remade: dict[str, str]
    gone: tuple[str, ...]
    added: dict[str, list[Element]]
    removed: dict[str, list[Element]]
    families: dict[str, Family]

    @classmethod
    def of(cls, delta: Delta[EntryKey, Rules]) -> _SetChange:
        made, came = _parts(delta.added)
        gone, left = _parts(delta.removed)
        remade = {key.chain: change.after[0] for key, change in delta.changed.items() if key.table == IPSET}
        families = {
            key.chain.partition(" ")[0]: key.family
            for part in (delta.added, delta.changed, delta.removed)
            for key in part
            if key.table == IPSET
        }
        removed = {name: elements for name, elements in left.items() if name not in gone}
        return cls(made, remade, tuple(sorted(gone)), came, removed, families)

    def __bool__(self) -> bool:
        return bool(self.made or self.remade or self.gone or self.added or self.removed)

    @property
    def touched(self) -> tuple[str, ...]:
        """The sets that there are, and stay, and do not hold what they should."""
        return tuple(
            dict.fromkeys((*self.remade, *(name for name in (*self.added, *self.removed) if name not in self.made)))
        )

    def making(self) -> Iterator[str]:
        """The lines that make and fill the sets that come."""
        for name, declaration in self.made.items():
            yield create_line(name, declaration)
            yield from map(add_line, self.added.get(name, ()))


def _parts(entries: Mapping[EntryKey, Rules]) -> tuple[dict[str, str], dict[str, list[Element]]]:
    """Sets by name with what declares them, and elements by the name of their set."""
    sets: dict[str, str] = {}
    elements: dict[str, list[Element]] = {}
    for key, rules in entries.items():
        if key.table != IPSET:
            continue
        element = element_of(key)
        if element is None:
            sets[key.chain] = rules[0]
        else:
            elements.setdefault(element.set_name, []).append(element)
    return sets, elements


# ---- elements alone ----


def _in_order(change: _SetChange, users: SetUsers) -> list[list[str]] | None:
    """The lines of each step that changes elements; None where no order is right.

    What a rule decides about a packet depends on the sets of its two addresses. Where rules only accept what is in a
    set, more elements let more through: then those that go come first, those that come last, and one address between
    them may do both, first coming, then going, which agrees with one of the two states whatever other rules say. A set
    whose members are led elsewhere (to what isolates them, to a denial) may let more through or less: then one address
    is changed in one way, and its isolation is there before what it may do, and longer.
    """
    added = {element for name in change.touched for element in change.added.get(name, ())}
    removed = {element for name in change.touched for element in change.removed.get(name, ())}
    coming, going = ({element.address for element in part} for part in (added, removed))
    both = coming & going
    leading = _leading(change.touched, users)
    if leading:
        if len(coming | going) > 1 or both or not _lead_first(leading, change.touched, users):
            return None
        phases = [
            [remove_line(element) for element in removed if element.set_name not in leading],
            [remove_line(element) for element in removed if element.set_name in leading],
            [add_line(element) for element in added if element.set_name in leading],
            [add_line(element) for element in added if element.set_name not in leading],
        ]
    else:
        if len(both) > 1 or (both and _looks_into_two(change.touched, users)):
            return None
        phases = [
            [remove_line(element) for element in removed if element.address not in both],
            [add_line(element) for element in added if element.address in both],
            [remove_line(element) for element in removed if element.address in both],
            [add_line(element) for element in added if element.address not in both],
        ]
    return [sorted(lines) for lines in phases if lines]


def _leading(names: Collection[str], users: SetUsers) -> frozenset[str]:
    """The sets whose members some rule does not just accept."""
    return frozenset(
        name
        for key in users.of(names)
        for rule in users.rules(key)
        if not rule.accepts
        for name in rule.names
        if name in names
    )


def _lead_first(leading: Collection[str], names: Collection[str], users: SetUsers) -> bool:
    """Whether each chain that looks into one of these sets looks into no other one that changes before it.

    Nor does one packet meet two of them, in the chains of its two ends.
    """
    by_end: dict[str, set[str]] = defaultdict(set)
    for key in users.of(leading):
        for rule in users.rules(key):
            for name, end in zip(rule.names, rule.ends, strict=True):
                by_end[end].update({name} & set(leading))
        looked_into = [rule for rule in users.rules(key) if any(name in names for name in rule.names)]
        leads = [any(name in leading for name in rule.names) for rule in looked_into]
        if leads.count(True) > 1 or not leads[0]:
            return False
    return all(len(names) <= 1 for names in by_end.values())


def _looks_into_two(names: Collection[str], users: SetUsers) -> bool:
    """Whether a rule asks two sets that change."""
    return any(sum(name in names for name in rule.names) > 1 for key in users.of(names) for rule in users.rules(key))


# ---- twins ----


def _over_twins(
    change: _SetChange,
    chains: Delta[EntryKey, Rules],
    live: Mapping[EntryKey, Rules],
    places: tuple[Sequence[str], Collection[str]],
    users: SetUsers,
) -> list[AnyStep]:
    prefixes, yielding = places
    taken = {key.chain for key in live if key.table == IPSET}
    twins = {name: twin_name(change.families[name], name, taken) for name in change.touched}
    wanted = {**chains.added, **{key: one.after for key, one in chains.changed.items()}}
    there = _looking(twins, chains, live, users)
    moved = {key: _renamed(rules, twins) for key, rules in {**there, **wanted}.items()}
    over: Delta[EntryKey, Rules] = Delta(
        {key: moved[key] for key in chains.added},
        {
            key: Change(live[key], rules)
            for key, rules in moved.items()
            if key not in chains.added and rules != live[key]
        },
        chains.removed,
    )
    between = {key: rules for key, rules in live.items() if key not in chains.removed} | moved
    back: Delta[EntryKey, Rules] = Delta(
        changed={
            key: Change(rules, final)
            for key, rules in moved.items()
            if (final := wanted.get(key, there.get(key, rules))) != rules
        }
    )
    copies = tuple((name, twin) for name, twin in twins.items() if name not in change.remade)
    # Twins of an attempt that went no further, mostly none: each that fails would leave more.
    unused = tuple(name for name in change.gone if not users.of([name]))
    types = {name: change.remade.get(name) or live[_key(change, name)][0] for name in twins}
    return [
        *([EndStep(unused)] if unused else []),
        SetStep((*change.making(), *(create_line(twin, types[name]) for name, twin in twins.items())), copies=copies),
        SetStep(tuple(_changing(change, twins))),
        *plan(over, live, prefixes, yielding),
        SetStep(tuple(_changing_in_place(change)), waits=True),
        EndStep(tuple(change.remade)),
        SetStep(tuple(_remaking(change))),
        *plan(back, between, prefixes, yielding),
        EndStep((*twins.values(), *(name for name in change.gone if name not in unused))),
    ]


def _key(change: _SetChange, name: str) -> EntryKey:
    return declared_key(change.families[name], name)


def _looking(
    twins: Mapping[str, str], chains: Delta[EntryKey, Rules], live: Mapping[EntryKey, Rules], users: SetUsers
) -> Entries:
    """The chains that look into one of the sets, and stay as they are."""
    touched = {*chains.changed, *chains.removed}
    return {key: live[key] for key in users.of(twins) if key not in touched}


def _renamed(rules: Rules, twins: Mapping[str, str]) -> Rules:
    def other(found: re.Match[str]) -> str:
        return found[1] + twins.get(found[2], found[2])

    return tuple(_MATCH.sub(other, rule) if "--match-set " in rule else rule for rule in rules)


def _changing(change: _SetChange, twins: Mapping[str, str]) -> Iterator[str]:
    """The lines that make of each copy what the set is to be."""
    for name, twin in twins.items():
        for element in () if name in change.remade else change.removed.get(name, ()):
            yield remove_line(element._replace(set_name=twin))
        for element in change.added.get(name, ()):
            yield add_line(element._replace(set_name=twin))


def _changing_in_place(change: _SetChange) -> Iterator[str]:
    """The lines that change the sets themselves, while nobody looks into them."""
    for name in change.touched:
        if name not in change.remade:
            yield from map(remove_line, change.removed.get(name, ()))
            yield from map(add_line, change.added.get(name, ()))


def _remaking(change: _SetChange) -> Iterator[str]:
    for name, declaration in change.remade.items():
        yield create_line(name, declaration)
        yield from map(add_line, change.added.get(name, ()))
