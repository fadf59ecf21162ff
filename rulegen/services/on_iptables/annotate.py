"""Chains in words: what each is for and what each of its rules does. Pure.

In: chains, or those of their rules that matter. Out: for each its place and what it is for, its rules as iptables-save
writes them and what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import Struct

from rulegen.iptables.chains import FILTER, EntryKey, Rules
from rulegen.iptables.names import PREFIX
from rulegen.iptables.rules import Rule, parse_rule
from rulegen.iptables.transaction import IP_KEYWORD
from rulegen.services.on_iptables.dispatch_trees import DispatchTree

_KIND = re.compile(rf"{PREFIX}(SVC|SVL|EXT|SRC|LB|[A-Z])-")


class AnnotatedRule(Struct, frozen=True):
    """A rule as iptables-save writes it, after the chain's name."""

    rule: str
    meaning: str


class AnnotatedChain(Struct, frozen=True, tag_field="type", tag="chain"):
    """A chain. `table`: `ip nat`, `ip6 filter`; `rules`: those that matter."""

    table: str
    chain: str
    meaning: str
    rules: tuple[AnnotatedRule, ...]


def annotate(chains: Iterable[tuple[EntryKey, Rules]]) -> tuple[AnnotatedChain, ...]:
    """The chains in their order; those without rules have nothing to say."""
    return tuple(_chain(key, rules) for key, rules in chains if rules)


def place(key: EntryKey) -> str:
    """A chain with its table: `ip nat RULEGEN-VIPS`."""
    return f"{IP_KEYWORD[key.family]} {key.table} {key.chain}"


def _chain(key: EntryKey, rules: Rules) -> AnnotatedChain:
    parsed = [parse_rule(rule) for rule in rules]
    kind = _kind(key)
    meanings = _draws(parsed) if kind in _LISTS else (_rule(key, rule) for rule in parsed)
    return AnnotatedChain(
        f"{IP_KEYWORD[key.family]} {key.table}",
        key.chain,
        _purpose(key),
        tuple(AnnotatedRule(rule, meaning) for rule, meaning in zip(rules, meanings, strict=True)),
    )


# ---- chains ----

_LISTS = {"SVC", "SVL", "LB"}
_ROOTS = {(tree.table, tree.letter): tree.root.removeprefix(PREFIX) for tree in DispatchTree}
_PURPOSES: Mapping[str, str] = {
    "PREROUTING": "what arrives",
    "INPUT": "what this node receives",
    "FORWARD": "what this node forwards",
    "OUTPUT": "what this node sends",
    "POSTROUTING": "what leaves",
    f"{PREFIX}FIREWALL": "VIPs that only some sources may reach, by address",
    f"{PREFIX}SERVICES": "the first packet of each connection",
    f"{PREFIX}VIPS": "ClusterIPs, externalIPs and VIPs, by address",
    f"{PREFIX}NODE": "which addresses of this node accept NodePorts",
    f"{PREFIX}NODEPORTS": "NodePorts, by protocol and port",
    f"{PREFIX}HOST-PORTS": "host ports, by protocol and port (D21)",
    f"{FILTER} {PREFIX}NODEPORTS": "NodePorts without an endpoint, by protocol and port",
    f"{PREFIX}POSTROUTING": "whose source address is replaced",
    f"{PREFIX}MASQUERADE": "masquerading, once (SVC-46)",
    f"{PREFIX}INPUT": "new connections to this node",
    f"{PREFIX}FORWARD": "new connections to elsewhere",
    f"{PREFIX}ACCEPT": "what other programs' firewalls shall let through (D14)",
    f"{PREFIX}HEALTH-CHECKS": "where load balancers ask for the health of Services, by port",
    f"{PREFIX}NO-ENDPOINTS": "frontends without an endpoint, by address",
    f"{PREFIX}CLUSTER-IPS": "ClusterIPs, by address",
    "SVC": "the Cluster list",
    "SVL": "the Local list",
    "LB": "a part of a list",
    "EXT": "external frontends",
    "SRC": "the sources that may reach a VIP",
}


def _kind(key: EntryKey) -> str:
    """A Service's chain by its kind, one of a tree by its root, the others by their names."""
    found = _KIND.match(key.chain)
    if found is None:
        return key.chain.removeprefix(PREFIX)
    return _ROOTS.get((key.table, found[1]), found[1])


def _purpose(key: EntryKey) -> str:
    return _known_purpose(key) or f"a part of {PREFIX}{_kind(key)}"


def _known_purpose(key: EntryKey) -> str:
    """Of a tree's branch none is known: its addresses or ports say what it is."""
    names = (f"{key.table} {key.chain}", key.chain, _kind(key))
    return next((_PURPOSES[name] for name in names if name in _PURPOSES), "")


# ---- rules ----


def _rule(key: EntryKey, rule: Rule) -> str:
    """Who, and what becomes of them."""
    who = ", ".join(_who(rule))
    what = _VERDICTS.get((_kind(key), rule.target)) or _TARGETS.get(rule.target) or _jump(key, rule.target)
    return ": ".join(filter(None, (who, what)))


def _who(rule: Rule) -> Iterator[str]:
    """The packets that a rule matches, in a few words for each match that tells them from others."""
    for option, words in _MATCHES.items():
        if option in rule.options and (text := words(rule.options[option])):
            yield f"not {text}" if option in rule.negated else text
    if destination := _destination(rule):
        yield f"to {destination}"


_MATCHES: Mapping[str, Callable[[str], str]] = {
    "-s": lambda value: f"from {_address(value)}",
    "-i": lambda value: f"by {value.removesuffix('+')}{'...' if value.endswith('+') else ''}",
    "--src-type": lambda _: "from this node",
    "--dst-type": lambda _: "to this node",
    "--mark": lambda _: "marked",
    "--bytecode": lambda _: "an endpoint that was given itself (SVC-44)",
}


def _destination(rule: Rule) -> str:
    """`10.96.0.10 port 80/tcp`, `addresses in 10.96.0.0/20`, `ports 30080 to 30095/tcp`."""
    protocol = rule.options.get("-p", "")
    first, _, last = rule.options.get("--dport", "").partition(":")
    address = _address(rule.options.get("-d", ""))
    if "/" in address:
        address = f"addresses in {address}"
    if not first:
        return address or (f"{protocol} ports" if protocol else "")
    ports = f"ports {first} to {last}" if last else f"port {first}"
    return " ".join(filter(None, (address, f"{ports}/{protocol}")))


def _address(value: str) -> str:
    """An address without the prefix length that says it is one."""
    return value.removesuffix("/128") if ":" in value else value.removesuffix("/32")


_MARK = "marked, to be masqueraded"
_TARGETS: Mapping[str, str] = {"MARK": _MARK, "MASQUERADE": "the source address becomes this node's"}
_VERDICTS: Mapping[tuple[str, str], str] = {
    ("MASQUERADE", "MARK"): "the mark goes",
    ("SRC", "RETURN"): "let in",
    ("SRC", "DROP"): "all others: dropped (SVC-51)",
    ("NODE", "RETURN"): "never NodePorts (SVC-63)",
    ("EXT", "ACCEPT"): "no endpoint: left to the verdict in filter (SVC-37, SVC-38)",
    ("NO-ENDPOINTS", "REJECT"): "no endpoint: rejected (SVC-36)",
    ("NO-ENDPOINTS", "DROP"): "no endpoint on this node: dropped (SVC-37)",
    ("NODEPORTS", "REJECT"): "no endpoint: rejected (SVC-36)",
    ("NODEPORTS", "DROP"): "no endpoint on this node: dropped (SVC-37)",
    ("CLUSTER-IPS", "REJECT"): "ports that it does not have: rejected (SVC-67)",
    ("FORWARD", "DROP"): "no Service's: dropped (SVC-67)",
    ("FORWARD", "ACCEPT"): "later packets of a connection: let through (D14)",
    ("ACCEPT", "ACCEPT"): "let through (D14)",
    ("HEALTH-CHECKS", "ACCEPT"): "let in (SVC-84)",
}


def _jump(key: EntryKey, target: str) -> str:
    """What the chain is for that a rule leads to."""
    return "further ranges" if _kind(key) == "SRC" else _known_purpose(key._replace(chain=target))


# ---- lists of endpoints ----


def _draws(rules: Iterable[Rule]) -> Iterator[str]:
    """The rules of a list: each takes its chance of what those before it let through, so that these are the shares."""
    left = 1.0
    for rule in rules:
        target = rule.options.get("--to-destination", "a part of the list")
        if rule.target == "MARK":
            yield f"{', '.join(_who(rule))}: {_MARK}"
        elif "--update" in rule.options:
            yield f"clients remembered less than {rule.options['--seconds']} s ago: back to {target} (SVC-57)"
        else:
            share = left * float(rule.options.get("--probability", "1"))
            left -= share
            remembered = ", and remembered" if "--set" in rule.options else ""
            yield f"{100 * share:.3g} % to {target}{remembered}"
