"""Facts about policies and pods come in; chains and ipsets of one family go out, and which of them changed.

A combination's chain holds the rules of its policies, so it changes with them; pods come and go as members of ipsets:
of those of selectors, and of the one that leads to what isolates them. Where the host has no ipsets members are rules,
and a tree of chains by address leads to what isolates a pod. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_network
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Any, NamedTuple, TypeAlias, TypeVar

from rulegen.config import Denial, Family, PolicySettings
from rulegen.iptables.names import safe_comment
from rulegen.iptables.same_address import same_address
from rulegen.iptables.tree import ROOT, Branch, Prefix, PrefixTree
from rulegen.policies.model import (
    Action,
    Address,
    Combination,
    Direction,
    Isolation,
    PolicyName,
    Rule,
    Rules,
)
from rulegen.policies.on_iptables import names
from rulegen.policies.on_iptables.rules import (
    MAX_RANGES,
    NoIpsetError,
    Writer,
    cidrs_of,
    host_text,
    is_of,
)
from rulegen.policies.selected import selector_id
from rulegen.policies.shared_entries import SharedEntries
from rulegen.policies.store import Id, LocalPod, Members, Membership, PeerSet, PolicyRules, PortPlace, PortSet
from rulegen.reconcile.delta import Change

T = TypeVar("T")

CHAINS, IPSETS = "(chains)", "(ipsets)"
_WIDTH = {Family.IPV4: 32, Family.IPV6: 128}
_OPTION = {Direction.EGRESS: "-s", Direction.INGRESS: "-d"}
_NOBODY = {"0.0.0.0", "::"}  # noqa: S104 - no address to listen at
_WORD = {Direction.EGRESS: "src", Direction.INGRESS: "dst"}
REJECT = {
    Family.IPV4: "-j REJECT --reject-with icmp-admin-prohibited",
    Family.IPV6: "-j REJECT --reject-with icmp6-adm-prohibited",
}
NO_SYN = f"-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j {names.DENIED}"
# Of each pod and direction; a scan of its ports is no flood of messages.
LIMIT = "-m limit --limit 10/sec --limit-burst 20"
# What the node sends to itself, whose address may lie among those of pods.
OWN = "-i lo -j RETURN"
# Router and neighbour discovery, which nothing works without.
DISCOVERY = tuple(f"-p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j RETURN" for kind in range(133, 138))


class EntryKey(NamedTuple):
    """`group`: `CHAINS` or `IPSETS`, whose keys are names, or an ipset's name, whose keys are its elements."""

    group: str
    key: str


Entries: TypeAlias = dict[EntryKey, tuple[str, ...]]
# Of each entry the value before and after; None where there is none.
Changes: TypeAlias = dict[EntryKey, Change[tuple[str, ...] | None]]


class ChainCompiler:
    """Keeps the chains and ipsets of one family.

    The value of a chain is its rules, of an ipset its type. `pod_ranges`: the node's own.
    `has_ipsets`: whether the host has them. `missing`: what could not be expressed without, by policy and direction;
    such a policy accepts nothing.
    """

    def __init__(
        self, family: Family, settings: PolicySettings, pod_ranges: tuple[str, ...], *, has_ipsets: bool
    ) -> None:
        self.family = family
        self._entries: SharedEntries[EntryKey, tuple[str, ...]] = SharedEntries()
        self.missing: dict[PolicyRules, str] = {}
        self._settings = settings
        self._pod_ranges = pod_ranges
        self._has_ipsets = has_ipsets
        self._writer = Writer(family, None if has_ipsets else self)
        self._rules: dict[PolicyRules, Rules] = {}
        self._pods: dict[Address, Isolation] = {}
        self._sets: dict[PeerSet | PortSet, None] = {}
        self._members: dict[str, set[Address]] = {}
        self._places: dict[str, set[PortPlace]] = {}
        self._combinations: Counter[Combination] = Counter()
        self._by_policy: dict[PolicyRules, set[Combination]] = {}
        # By a selector's id, and by a port's name.
        self._by_selector: dict[str, set[PolicyRules]] = {}
        self._by_port: dict[str, set[PolicyRules]] = {}
        # Without ipsets, what leads to pods; with them, how many pods are led to each chain, and those that are not in
        # the node's one range.
        self._trees = {direction: PrefixTree(_WIDTH[family]) for direction in Direction}
        self._led = {direction: Counter[str]() for direction in Direction}
        self._elsewhere: set[Address] = set()
        self._dirty: dict[Combination, None] = {}
        # Where denials are told to an nflog group: the pods of each combination.
        self._logged: dict[Combination, dict[Address, str]] = {}
        self._untold: dict[Combination, None] = {}
        self._write_fixed()
        self._write_roots()

    def update(self, facts: Mapping[Id, Any]) -> Changes:
        """What changes: of each entry the value before and after, None where there is none."""
        pods = {}
        for id_, fact in facts.items():
            if isinstance(id_, PolicyRules):
                self._update_rules(id_, fact)
            elif not isinstance(id_, LocalPod):
                self._update_set(id_, fact)
            elif is_of(self.family, id_.address):
                pods[id_.address] = fact
        if pods:
            self._update_pods(pods)
        for combination in self._dirty.keys() & self._combinations.keys():
            self._write_combination(combination)
        for combination in self._untold:
            self._write_log(combination)
        self._dirty, self._untold = {}, {}
        return self._entries.take()

    def otherwise(self, *, has_ipsets: bool) -> ChainCompiler:
        """A compiler that knows the same facts, and makes of them what a host with, or without, ipsets can do."""
        other = ChainCompiler(self.family, self._settings, self._pod_ranges, has_ipsets=has_ipsets)
        selected = {name: dict.fromkeys(members, True) for name, members in self._members.items()}
        ports = {name: dict.fromkeys(places, True) for name, places in self._places.items()}
        facts: dict[Id, Any] = {Members(0): Membership(selected, ports)}
        facts.update(dict.fromkeys(self._sets, True))
        facts.update(self._rules.items())
        facts.update({LocalPod(address): isolation for address, isolation in self._pods.items()})
        other.update(facts)
        return other

    @property
    def entries(self) -> Mapping[EntryKey, tuple[str, ...]]:
        """All that is wanted."""
        return self._entries.now

    @property
    def combinations(self) -> Mapping[str, Combination]:
        """Those that isolate some pod, by the names of their chains."""
        return {names.combination_chain(combination): combination for combination in self._combinations}

    # ---- what is always there ----

    def _write_fixed(self) -> None:
        self._chain("FORWARD", (f"-m conntrack ! --ctstate RELATED,ESTABLISHED -j {names.FORWARD}",))
        self._chain(names.DENIED, ("-j DROP" if self._settings.denial is Denial.DROP else REJECT[self.family],))
        if self._settings.strict:
            to_itself = (self_rule(self.family),) if self._has_ipsets else ()
            self._chain(names.STRICT, (*to_itself, NO_SYN))
        if self._settings.node_input:
            self._chain(names.NODE, (OWN, *self._discovery, f"-j {names.ROOTS[Direction.EGRESS]}"))
            self._chain("INPUT", (f"-m conntrack ! --ctstate RELATED,ESTABLISHED -j {names.NODE}",))

    @property
    def _discovery(self) -> tuple[str, ...]:
        return DISCOVERY if self.family is Family.IPV6 else ()

    @property
    def around_pods(self) -> str:
        """With ipsets, the one range that has all of this node's pods, so that other packets pass; "" for none."""
        is_one = self._has_ipsets and len(self._pod_ranges) == 1 and not self._elsewhere
        return self._pod_ranges[0] if is_one else ""

    # -A RULEGEN-NP-FORWARD -s 10.244.1.0/24 -j RULEGEN-NP-EGRESS
    def _write_forward(self) -> None:
        around = self.around_pods
        roots = (
            f"{_OPTION[direction]} {around} -j {names.ROOTS[direction]}" if around else f"-j {names.ROOTS[direction]}"
            for direction in (Direction.EGRESS, Direction.INGRESS)
        )
        self._chain(names.FORWARD, (*self._discovery, *roots))

    @property
    def is_wanted(self) -> bool:
        """Whether there is a policy, or pods that nobody knows are closed."""
        return bool(self._rules) or bool(self._closed)

    @property
    def _closed(self) -> tuple[str, ...]:
        """The ranges in which pods that nobody knows are closed."""
        return self._pod_ranges if self._settings.fail_closed else ()

    def set_pod_ranges(self, ranges: tuple[str, ...]) -> None:
        """Takes the ranges of this node's pods; `update` tells what that changes."""
        if ranges == self._pod_ranges:
            return
        self._pod_ranges = ranges
        if self._has_ipsets:
            self._elsewhere = {address for address in self._pods if self._is_elsewhere(address)}
            self._write_roots()
        elif self._settings.fail_closed:
            self._close_branches()

    def _close_branches(self) -> None:
        for direction, tree in self._trees.items():
            leaves = [self._prefix(address) for address in self._pods if self._leaf(direction, address)]
            present = {branch.prefix for node in tree.nodes() for branch in tree.branches(node) if not branch.is_chain}
            shape = tree.change(sorted(set(leaves) - present), sorted(present - set(leaves)))
            for node in shape.gone:
                self._entries.set(EntryKey(CHAINS, self._branch_name(direction, node)), None)
            for node in list(tree.nodes()):
                self._write_branch(direction, node)

    # ---- ipsets ----

    def _update_set(self, id_: Id, fact: object) -> None:
        is_there = bool(fact)
        match id_:
            case PeerSet(set_id):
                self._note_set(id_, is_there=is_there)
                self._ipset(names.selector_ipset(self.family, set_id), "hash:ip", is_there=is_there)
            case PortSet(name):
                self._note_set(id_, is_there=is_there)
                self._ipset(names.named_ipset(self.family, name), "hash:ip,port", is_there=is_there)
            case Members() if isinstance(fact, Membership):
                for selector, addresses in fact.selected.items():
                    mine = {address: came for address, came in addresses.items() if is_of(self.family, address)}
                    self._update_members(selector, mine)
                for name, places in fact.ports.items():
                    found = {place: came for place, came in places.items() if is_of(self.family, place[0])}
                    self._update_places(name, found)

    def _note_set(self, id_: PeerSet | PortSet, *, is_there: bool) -> None:
        if is_there:
            self._sets[id_] = None
        else:
            self._sets.pop(id_, None)

    def _update_members(self, set_id: str, addresses: Mapping[Address, bool]) -> None:
        _change(self._members, set_id, addresses)
        if not self._has_ipsets:
            self._note_users(self._by_selector.get(set_id, ()))
            return
        ipset = names.selector_ipset(self.family, set_id)
        for address, is_there in addresses.items():
            self._element(ipset, _plain(address), is_there=is_there)

    def _update_places(self, name: str, places: Mapping[PortPlace, bool]) -> None:
        _change(self._places, name, places)
        if not self._has_ipsets:
            self._note_users(self._by_port.get(name, ()))
            return
        ipset = names.named_ipset(self.family, name)
        for (address, protocol, port), is_there in places.items():
            self._element(ipset, f"{_plain(address)},{protocol.lower()}:{port}", is_there=is_there)

    def _note_users(self, users: Iterable[PolicyRules]) -> None:
        for rules in users:
            self._dirty |= dict.fromkeys(self._by_policy.get(rules, ()))

    def of_selector(self, selector_id: str) -> Collection[Address]:
        """See `rules.Members`."""
        return self._members.get(selector_id, ())

    def of_port(self, name: str, direction: Direction) -> Collection[PortPlace]:
        """See `rules.Members`."""
        places = self._places.get(name, set())
        if direction is Direction.INGRESS:
            return [place for place in places if place[0] in self._pods]
        return places

    def _ipset(self, name: str, kind: str, *, is_there: bool) -> None:
        if self._has_ipsets:
            self._entries.set(EntryKey(IPSETS, name), (kind,) if is_there else None)

    def _element(self, name: str, text: str, *, is_there: bool) -> None:
        # ipset holds no address that is nobody's (0.0.0.0, ::), and no packet to be forwarded has one.
        if self._has_ipsets and text.partition(",")[0] not in _NOBODY:
            self._entries.set(EntryKey(name, text), () if is_there else None)

    # ---- policies ----

    def _update_rules(self, id_: PolicyRules, new: Rules | None) -> None:
        old = self._rules.pop(id_, ())
        if new is not None:
            self._rules[id_] = new
        for users, before, after in (
            (self._by_selector, _selector_ids(old), _selector_ids(new or ())),
            (self._by_port, _port_names(old), _port_names(new or ())),
        ):
            for name in before - after:
                users[name].discard(id_)
                if not users[name]:
                    del users[name]
            for name in after:
                users.setdefault(name, set()).add(id_)
        if self._has_ipsets:
            self._entries.use(self._block_sets(new or ()))
            self._entries.drop(self._block_sets(old))
        self._dirty |= dict.fromkeys(self._by_policy.get(id_, ()))

    def _block_sets(self, rules: Rules) -> Entries:
        found: Entries = {}
        for rule in rules:
            blocks = rule.blocks_of(self.family)
            cidrs = [cidr for block in blocks for cidr in cidrs_of(*block)]
            if len(cidrs) > MAX_RANGES:
                name = names.blocks_ipset(self.family, blocks)
                found[EntryKey(IPSETS, name)] = ("hash:net",)
                found |= {EntryKey(name, _net_text(cidr)): () for cidr in cidrs}
        return found

    # ---- pods ----

    def _update_pods(self, pods: Mapping[Address, Isolation | None]) -> None:
        for address, after in pods.items():
            before = self._pods.pop(address, None)
            if after is not None:
                self._pods[address] = after
            self._update_combinations(before, after)
            if self._settings.log_group is not None:
                self._log(address, before, after)
            if self._has_ipsets:
                self._lead(address, before, after)
        if self._has_ipsets:
            self._write_roots()
            return
        for direction, tree in self._trees.items():
            self._move_branches(direction, tree, pods)
        # A named port of ingress is one of this node's pods.
        for users in self._by_port.values():
            self._note_users(users)

    def _update_combinations(self, before: Isolation | None, after: Isolation | None) -> None:
        for direction in Direction:
            if after is not None:
                self._use_combination(after.of(direction))
            if before is not None:
                self._drop_combination(before.of(direction))

    def _log(self, address: Address, before: Isolation | None, after: Isolation | None) -> None:
        for direction in Direction:
            for isolation in (before, after):
                for part in _stages(None if isolation is None else isolation.of(direction)):
                    pods = self._logged.setdefault(part, {})
                    if isolation is after and after is not None:
                        pods[address] = after.pod
                    else:
                        pods.pop(address, None)
                    self._untold[part] = None

    # -A RULEGEN-NP-L-1b2c -d 10.244.1.5/32 -m limit ... -j NFLOG --nflog-prefix "rulegen in shop/db by shop/deny"
    def _write_log(self, combination: Combination) -> None:
        """What tells of a combination's denials, each of its pods by name, before they are denied."""
        pods = self._logged[combination]
        key = EntryKey(CHAINS, names.log_chain(combination))
        if not pods:
            del self._logged[combination]
            self._entries.set(key, None)
            return
        group = f" --nflog-group {self._settings.log_group}" if self._settings.log_group else ""
        option = _OPTION[combination.direction]
        rules = [
            f'{option} {host_text(address)} {LIMIT} -j NFLOG --nflog-prefix "{log_prefix(pod, combination)}"{group}'
            for address, pod in sorted(pods.items())
        ]
        self._entries.set(key, (*rules, f"-j {names.DENIED}"))

    def _denied(self, combination: Combination) -> str:
        return names.DENIED if self._settings.log_group is None else names.log_chain(combination)

    def _lead(self, address: Address, before: Isolation | None, after: Isolation | None) -> None:
        """Moves a pod to the set of those that are led to the chain of what isolates it."""
        if after is not None and self._is_elsewhere(address):
            self._elsewhere.add(address)
        else:
            self._elsewhere.discard(address)
        if self._settings.fail_closed:
            self._element(names.known_ipset(self.family), _plain(address), is_there=after is not None)
        for direction, led in self._led.items():
            old, new = (self._target(isolation, direction) for isolation in (before, after))
            if old == new:
                continue
            for chain, is_there in ((old, False), (new, True)):
                if chain is not None:
                    led[chain] += 1 if is_there else -1
                    ipset = names.subjects_ipset(self.family, direction, chain)
                    self._element(ipset, _plain(address), is_there=is_there)

    def _is_elsewhere(self, address: Address) -> bool:
        """Whether a pod has an address outside of the node's one range."""
        return len(self._pod_ranges) != 1 or not _is_in(self._pod_ranges[0], address)

    # -A RULEGEN-NP-INGRESS -m set --match-set rulegen-i-1b2c dst -g RULEGEN-NP-I-1b2c
    def _write_roots(self) -> None:
        """What leads to pods: with ipsets one rule for all pods that the same policies isolate."""
        self._write_forward()
        if not self._has_ipsets:
            for direction in Direction:
                self._write_branch(direction, ROOT)
            return
        known = names.known_ipset(self.family)
        self._ipset(known, "hash:ip", is_there=self._settings.fail_closed)
        for direction, led in self._led.items():
            self._chain(names.ROOTS[direction], tuple(self._root_rules(direction, led, known)))

    def _root_rules(self, direction: Direction, led: Counter[str], known: str) -> Iterator[str]:
        option, word = _OPTION[direction], _WORD[direction]
        for chain in [chain for chain, pods in led.items() if not pods]:
            del led[chain]
            self._ipset(names.subjects_ipset(self.family, direction, chain), "hash:ip", is_there=False)
        for chain in sorted(led):
            ipset = names.subjects_ipset(self.family, direction, chain)
            self._ipset(ipset, "hash:ip", is_there=True)
            yield f"-m set --match-set {ipset} {word} -g {chain}"
        if self._closed:
            yield f"-m set --match-set {known} {word} -j RETURN"
        yield from (f"{option} {cidr} -j DROP" for cidr in self._closed)

    def _move_branches(self, direction: Direction, tree: PrefixTree, pods: Iterable[Address]) -> None:
        present = {branch.prefix for node in tree.nodes() for branch in tree.branches(node) if not branch.is_chain}
        touched = {address: self._prefix(address) for address in pods}
        wanted = {prefix for address, prefix in touched.items() if self._leaf(direction, address)}
        shape = tree.change(
            sorted(wanted - present), sorted(set(touched.values()) & present - wanted), sorted(wanted & present)
        )
        for node in shape.gone:
            self._entries.set(EntryKey(CHAINS, self._branch_name(direction, node)), None)
        for node in shape.changed:
            self._write_branch(direction, node)

    def _prefix(self, address: Address) -> Prefix:
        return Prefix(int.from_bytes(address, "big"), _WIDTH[self.family])

    def _write_branch(self, direction: Direction, node: Prefix) -> None:
        rules: list[str] = []
        for branch in self._trees[direction].branches(node):
            rules += self._branch_rules(direction, branch)
        rules += [f"{_OPTION[direction]} {cidr} -j DROP" for cidr in self._closed]
        self._chain(self._branch_name(direction, node), tuple(rules))

    def _branch_rules(self, direction: Direction, branch: Branch) -> list[str]:
        if branch.is_chain:
            place = f"{_OPTION[direction]} {self._cidr(branch.prefix)}"
            return [f"{place} -g {self._branch_name(direction, branch.prefix)}"]
        return self._leaf(direction, self._address(branch.prefix))

    def _leaf(self, direction: Direction, address: Address) -> list[str]:
        """What leads a pod's packets to its policies, all but those to itself."""
        isolation = self._pods.get(address)
        if isolation is None:
            return []
        host = host_text(address)
        target = self._target(isolation, direction)
        if target is None:
            return [f"{_OPTION[direction]} {host} -j RETURN"] if self._closed else []
        return [f"-s {host} -d {host} -j RETURN", f"{_OPTION[direction]} {host} -g {target}"]

    def _target(self, isolation: Isolation | None, direction: Direction) -> str | None:
        """The chain to which a pod's packets are led; None where nothing isolates it."""
        if isolation is None:
            return None
        combination = isolation.of(direction)
        if combination is not None:
            return names.combination_chain(combination)
        is_isolated = isolation.ingress is not None or isolation.egress is not None
        return names.STRICT if is_isolated and self._settings.strict else None

    def _branch_name(self, direction: Direction, node: Prefix) -> str:
        return names.ROOTS[direction] if node == ROOT else names.branch_chain(direction, self._cidr(node))

    def _cidr(self, prefix: Prefix) -> str:
        return f"{host_text(self._address(prefix)).partition('/')[0]}/{prefix.length}"

    def _address(self, prefix: Prefix) -> Address:
        return prefix.value.to_bytes(_WIDTH[self.family] // 8, "big")

    # ---- combinations ----

    def _use_combination(self, combination: Combination | None) -> None:
        for part in _stages(combination):
            self._combinations[part] += 1
            if self._combinations[part] == 1:
                for policy in part.policies:
                    self._by_policy.setdefault(PolicyRules(policy, part.direction), set()).add(part)
                self._dirty[part] = None

    def _drop_combination(self, combination: Combination | None) -> None:
        for part in _stages(combination):
            self._combinations[part] -= 1
            if self._combinations[part]:
                continue
            del self._combinations[part]
            self._entries.set(EntryKey(CHAINS, names.combination_chain(part)), None)
            for policy in part.policies:
                users = self._by_policy[PolicyRules(policy, part.direction)]
                users.discard(part)
                if not users:
                    del self._by_policy[PolicyRules(policy, part.direction)]
                    self.missing.pop(PolicyRules(policy, part.direction), None)

    def _write_combination(self, combination: Combination) -> None:
        rest = combination._replace(admin=())
        rules = [self_rule(self.family)] if self._has_ipsets else []
        denied = self._denied(combination)
        rules += [NO_SYN.replace(names.DENIED, denied)] if self._settings.strict else []
        if combination.admin:
            onward = f"-g {names.combination_chain(rest)}" if rest.policies else "-j RETURN"
            rules += self._rules_of(combination, combination.admin, onward)
            rules += [onward] if rest.policies else []
        else:
            rules += self._rules_of(combination, combination.policies, "-j RETURN")
            rules += [f"-j {denied}"] if combination.network else []
        # A chain that others lead to is in a rendered file only with a rule.
        self._chain(names.combination_chain(combination), tuple(rules) or ("-j RETURN",))

    def _rules_of(self, combination: Combination, policies: Iterable[PolicyName], onward: str) -> list[str]:
        denial = f"-j {self._denied(combination)}"
        targets = {Action.ACCEPT: "-j RETURN", Action.DENY: denial, Action.PASS: onward}
        found: list[str] = []
        for policy in policies:
            id_ = PolicyRules(policy, combination.direction)
            try:
                written = [line for rule in self._rules.get(id_, ()) for line in self._lines(id_, rule, targets)]
            except NoIpsetError as error:
                self.missing[id_] = str(error)
                # Isolated, not opened: a NetworkPolicy accepts nothing, a ClusterNetworkPolicy denies everything.
                written = [] if policy.namespace else [denial]
            else:
                self.missing.pop(id_, None)
            found += written
        return found

    def _lines(self, id_: PolicyRules, rule: Rule, targets: dict[Action, str]) -> list[str]:
        return list(self._writer.rules(id_.policy, rule, id_.direction, targets))

    # ---- entries ----

    def _chain(self, name: str, rules: tuple[str, ...]) -> None:
        self._entries.set(EntryKey(CHAINS, name), rules)


# What the kernel keeps of a prefix (XT_NFLOG's 64 bytes, less the closing NUL).
_MAX_PREFIX = 63


def log_prefix(pod: str, combination: Combination) -> str:
    """`rulegen in shop/db by shop/deny and 2`: a pod and the policies that select it; `~` ends a name that is cut."""
    first, *others = (f"{name.namespace}/{name.name}".lstrip("/") for name in combination.policies)
    begin = "rulegen in " if combination.direction is Direction.INGRESS else "rulegen out "
    rest = f" and {len(others)}" if others else ""
    room = _MAX_PREFIX - len(f"{begin} by {rest}")
    policy = _cut(first, max(room // 2, room - len(pod)))
    return f"{begin}{_cut(pod, room - len(policy))} by {policy}{rest}"


def _cut(text: str, length: int) -> str:
    safe = safe_comment(text)
    return safe if len(safe) <= length else f"{safe[: length - 1]}~"


def _stages(combination: Combination | None) -> list[Combination]:
    """The chains of a combination: what comes behind the admin tier stands in one of its own."""
    if combination is None:
        return []
    rest = combination._replace(admin=())
    return [combination, rest] if combination.admin and rest.policies else [combination]


def _port_names(rules: Rules) -> set[str]:
    return {named.name for rule in rules if rule.ports is not None for named in rule.ports.named}


def _change(sets: dict[str, set[T]], name: str, changes: Mapping[T, bool]) -> None:
    """Puts into a set what came, and takes out what left."""
    found = sets.setdefault(name, set())
    for item, is_there in changes.items():
        if is_there:
            found.add(item)
        else:
            found.discard(item)
    if not found:
        del sets[name]


# -m bpf --bytecode "6,32 0 0 12,..." -j RETURN
def self_rule(family: Family) -> str:
    """Lets a pod reach itself, as through a Service."""
    return f'-m bpf --bytecode "{same_address(family)}" -j RETURN'


@lru_cache(maxsize=8)
def _bounds(cidr: str) -> tuple[bytes, bytes]:
    network = ip_network(cidr)
    return network.network_address.packed, network.broadcast_address.packed


def _is_in(cidr: str, address: Address) -> bool:
    first, last = _bounds(cidr)
    return len(first) == len(address) and first <= address <= last


def _plain(address: Address) -> str:
    """An address as ipset writes it."""
    return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)


def _net_text(cidr: str) -> str:
    """A range as ipset writes it: of one address, without a length."""
    network = ip_network(cidr)
    address = _plain(network.network_address.packed)
    return address if network.prefixlen == network.max_prefixlen else f"{address}/{network.prefixlen}"


def _selector_ids(rules: Rules) -> set[str]:
    return {selector_id(selector) for rule in rules for selector in rule.selectors}
