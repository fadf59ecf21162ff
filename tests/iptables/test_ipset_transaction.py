"""The order in which elements of sets change: every state between is tried with every packet, without a kernel.

A packet is judged as a feature's chains judge it: by what its source is led to, a moment later by what its destination
is led to.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import NamedTuple, TypeAlias

import pytest

from rulegen.config import Family
from rulegen.iptables.chains import FILTER, Entries, EntryKey, Rules
from rulegen.iptables.ipset_transaction import AnyStep, EndStep, SetStep, SetUsers, plan_with_sets
from rulegen.iptables.ipsets import ELEMENT, declaration, declared_key, element_key
from rulegen.iptables.transaction import Step
from rulegen.reconcile.delta import diff

Sets: TypeAlias = dict[str, frozenset[str]]
Chains: TypeAlias = dict[str, list[str]]

ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")
PACKETS = tuple(permutations(ADDRESSES, 2))
SUBJECTS = {"E": ("rulegen-e-1", "rulegen-e-2"), "I": ("rulegen-i-1", "rulegen-i-2")}
MEMBERS = ("rulegen-pods-1", "rulegen-pods-2", "rulegen-pods-3", "rulegen-named-1")
_ENDS = {"E": ("src", "dst"), "I": ("dst", "src")}
_LOOKUP = re.compile(r"--match-set (\S+) (src|dst)")
_PREFIX = "RULEGEN-NP-"


class State(NamedTuple):
    """What the kernel holds."""

    sets: Sets
    chains: Chains

    def passes(self, direction: str, source: str, destination: str) -> bool:
        return self._walk(f"{_PREFIX}{direction}", {"src": source, "dst": destination})

    def _walk(self, chain: str, ends: Mapping[str, str]) -> bool:
        for rule in self.chains[chain]:
            if all(ends[end] in self.sets[name] for name, end in _LOOKUP.findall(rule)):
                target = rule.rpartition(" ")[2]
                if target in {"RETURN", "DROP"}:
                    return target == "RETURN"
                return self._walk(target, ends)
        return True


def _rules(chance: random.Random, direction: str, *, only_accepts: bool) -> list[str]:
    """A combination's chain: what is in sets is accepted or denied, by one set or two; the rest is denied."""
    end = _ENDS[direction][1]
    found = []
    for _ in range(chance.randint(1, 3)):
        names = chance.sample(MEMBERS, chance.choice((1, 1, 1, 2)))
        target = "RETURN" if only_accepts else chance.choice(("RETURN", "RETURN", "DROP"))
        found.append(" ".join(f"-m set --match-set {name} {end}" for name in names) + f" -j {target}")
    return [*found, "-j DROP"]


def _chains(chance: random.Random) -> Chains:
    only_accepts = chance.random() < 0.6
    found: Chains = {}
    for direction, subjects in SUBJECTS.items():
        end = _ENDS[direction][0]
        leads = [f"-m set --match-set {name} {end} -g {_PREFIX}{name[8:].upper()}" for name in subjects]
        found[f"{_PREFIX}{direction}"] = leads
        for name in subjects:
            found[f"{_PREFIX}{name[8:].upper()}"] = _rules(chance, direction, only_accepts=only_accepts)
    return found


def _sets(chance: random.Random) -> Sets:
    found: Sets = {name: frozenset(chance.sample(ADDRESSES, chance.randint(0, 3))) for name in MEMBERS}
    for subjects in SUBJECTS.values():
        places = {address: chance.choice((None, *subjects)) for address in ADDRESSES}
        for name in subjects:
            found[name] = frozenset(address for address, place in places.items() if place == name)
    return found


def _changed(sets: Sets, chance: random.Random) -> tuple[Sets, Sets]:
    """Before and after: some addresses, mostly one, come, go, or are in other sets."""
    kind = chance.choice(("moves", "comes", "goes"))
    before, after = dict(sets), dict(sets)
    other = _sets(chance)
    for address in chance.sample(ADDRESSES, chance.choice((1, 1, 1, 2, 3))):
        for name in sets:
            if kind == "comes":
                before[name] -= {address}
            elif kind == "goes":
                after[name] -= {address}
            else:
                after[name] = after[name] | {address} if address in other[name] else after[name] - {address}
    return before, after


def _entries(state: State) -> Entries:
    (text,) = declaration(Family.IPV4, "hash:ip")
    entries: Entries = {declared_key(Family.IPV4, name): (text,) for name in state.sets}
    entries |= {element_key(Family.IPV4, name, one): ELEMENT for name, many in state.sets.items() for one in many}
    return entries | {_key(chain): tuple(rules) for chain, rules in state.chains.items()}


def _key(chain: str) -> EntryKey:
    return EntryKey(Family.IPV4, FILTER, chain, _PREFIX)


def _plan(before: State, after: State) -> list[AnyStep]:
    live = _entries(before)
    users = SetUsers()
    for key, rules in live.items():
        users.note(key, rules)
    return plan_with_sets(diff(live, _entries(after)), live, (_PREFIX,), users)


def _spans(state: State, steps: list[AnyStep]) -> Iterator[list[State]]:
    """The states that one packet can meet: those between two waits, or between a restore and the next wait."""
    span = [state]
    for step in steps:
        match step:
            case SetStep(lines, waits, copies):
                if waits:
                    yield span
                    span = [state]
                for line in lines:
                    state = State(_after_line(state.sets, line), state.chains)
                    span.append(state)
                for name, copy in copies:
                    state = State({**state.sets, copy: state.sets[name]}, state.chains)
            case EndStep(names):
                looked_into = {
                    name for rules in state.chains.values() for rule in rules for name, _ in _LOOKUP.findall(rule)
                }
                assert not looked_into & set(names)
                state = State({name: many for name, many in state.sets.items() if name not in names}, state.chains)
                span.append(state)
            case Step():
                # All rules at once: a packet meets the old ones or the new ones.
                yield span
                state = State(state.sets, _after_restore(state.chains, step.lines))
                span = [state]
    yield span


def _after_line(sets: Sets, line: str) -> Sets:
    command, name, *rest = line.split()
    if command == "create":
        return {**sets, name: sets.get(name, frozenset())}
    return {**sets, name: sets[name] | {rest[0]} if command == "add" else sets[name] - {rest[0]}}


def _after_restore(chains: Chains, lines: Rules) -> Chains:
    found = {chain: list(rules) for chain, rules in chains.items()}
    for line in lines:
        if line.startswith(":"):
            found[line[1:].split()[0]] = []
        elif line.startswith("-A "):
            _, chain, rule = line.split(" ", 2)
            found[chain].append(rule)
    return found


def _is_allowed(state: State, source: str, destination: str) -> bool:
    return state.passes("E", source, destination) and state.passes("I", source, destination)


def _wrong(before: State, after: State) -> list[str]:
    found = []
    for span in _spans(before, _plan(before, after)):
        for source, destination in PACKETS:
            sent = [state.passes("E", source, destination) for state in span]
            received = [state.passes("I", source, destination) for state in span]
            ends = [
                one.passes("E", source, destination) and one.passes("I", source, destination) for one in (before, after)
            ]
            for first, leaves in enumerate(sent):
                if not any(ends) and leaves and any(received[first:]):
                    found.append(f"{source} to {destination} passes")
                if all(ends) and not (leaves and all(received[first:])):
                    found.append(f"{source} to {destination} is lost")
    return found


@pytest.mark.parametrize("seed", range(0, 400, 100))
def test_no_state_between_is_wrong(seed: int) -> None:
    in_order = 0
    for number in range(seed, seed + 100):
        chance = random.Random(number)
        (here, there), chains = _changed(_sets(chance), chance), _chains(chance)
        before = State(here, chains)
        after = State(there, chains if chance.random() < 0.7 else _chains(chance))
        steps = _plan(before, after)
        in_order += bool(steps) and not any(isinstance(step, Step) for step in steps)
        assert not _wrong(before, after), f"{number}: {_wrong(before, after)[:3]}"
        *_, (*_, last) = _spans(before, steps)
        assert last == after
    assert in_order > 5
