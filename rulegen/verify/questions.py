"""What a person can ask: rules against what objects mean, kube-proxy's rules against rulegen's, rules against rules.

In: a Store and where the rules are. Out: a Report.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from math import gcd
from types import MappingProxyType
from typing import NamedTuple

from rulegen.config import Family as HostFamily
from rulegen.config import NodeConfiguration
from rulegen.netfilter.intervals import EMPTY, Intervals
from rulegen.netfilter.machine import Endpoint, Machine
from rulegen.netfilter.model import Family, Ruleset
from rulegen.reconcile.feature import Feature
from rulegen.services.feature import NAME as SERVICES
from rulegen.services.model import Backend, ServicePort
from rulegen.services.store import Store
from rulegen.verify.compare import ROUNDING, Bound
from rulegen.verify.explanations import explain
from rulegen.verify.layers import Node, parts, uncovered
from rulegen.verify.meaning import FAMILIES, ON_IPTABLES, ON_NFTABLES, Meaning, loopback, networks
from rulegen.verify.prove import Progress, Question, RulesAnswer, prove
from rulegen.verify.report import FamilyProof, Report
from rulegen.verify.rulesets import Source

# Beyond so many slots weights are rounded (D9): to a hundredth of a share, or to one slot.
_MOST_SLOTS = 4096
_ROUNDED = Fraction(1, 100)
_DRAWS = 64


def local_addresses(family: HostFamily, addresses: Iterable[str]) -> Intervals:
    """Those of the node that are known, loopback included."""
    own = (address for address in addresses if (":" in address) is (family is HostFamily.IPV6))
    return loopback(FAMILIES[family]) | networks(own)


def against_objects(
    source: Source,
    store: Store,
    configuration: NodeConfiguration,
    addresses: Collection[str],
    progress: Progress | None = None,
    features: Sequence[Feature] = (),
) -> Report:
    """Whether rules do what the objects mean. `features`: those that are on."""
    unknown = [*not_proved(features), *source.uncovered]
    if not_proved(features):
        # Features meet in the same packets: what one of them does may be meant by another.
        return Report(source.name, "what the objects mean", (), (), unknown)
    missing, proofs = [], []
    for meaning in meanings(store, configuration, addresses, is_iptables=source.is_iptables, features=features):
        ruleset = source.rulesets.get(meaning.family)
        if ruleset is None:
            missing.append(f"there are no rules for {meaning.node.family.value}")
            continue
        machine = Machine(ruleset, meaning.local_addresses, meaning.foreign_addresses)
        question = Question(
            meaning.family,
            meaning.local_addresses,
            meaning.mark,
            RulesAnswer(machine),
            meaning,
            bound=weights_bound(store.service_ports()),
            preferred=meaning.preferred(),
            foreign_addresses=meaning.foreign_addresses,
        )
        proof = prove(question, progress)
        proofs.append(FamilyProof(meaning.family, proof))
    return Report(source.name, "what the objects mean", proofs, missing, unknown)


def meanings(
    store: Store,
    configuration: NodeConfiguration,
    addresses: Collection[str],
    *,
    is_iptables: bool,
    features: Sequence[Feature] = (),
) -> Iterator[Meaning]:
    """Of each family that gets rules."""
    habits = ON_IPTABLES if is_iptables else ON_NFTABLES
    for family in configuration.families:
        node = store.node_settings(family)
        if node is not None:
            local = local_addresses(family, addresses)
            added = parts(features, Node(configuration, family, is_iptables))
            service_ports = [*store.service_ports(), *(port for part in added for port in part.service_ports)]
            layers = [layer for part in added for layer in part.layers]
            yield Meaning(service_ports, node, 1 << configuration.masquerade_bit, local, habits, layers)


def not_proved(features: Sequence[Feature]) -> list[str]:
    """A line for each feature that is on and of which nothing is known."""
    return [f"nothing is proved about {name}" for name in uncovered(features)]


class KnownAddresses(NamedTuple):
    """`own`: the node's. `foreign`: by family, those that are not, such as its pods'."""

    own: Collection[str] = ()
    foreign: Mapping[Family, Intervals] = MappingProxyType({})


def known_addresses(
    store: Store, configuration: NodeConfiguration, addresses: Collection[str], features: Sequence[Feature]
) -> KnownAddresses:
    """What objects say about addresses. `addresses`: the node's own."""
    found = meanings(store, configuration, addresses, is_iptables=False, features=features)
    return KnownAddresses(addresses, {meaning.family: meaning.foreign_addresses for meaning in found})


def against_rules(
    left: Source,
    right: Source,
    mark: int,
    known: KnownAddresses,
    progress: Progress | None = None,
) -> Report:
    """Whether two rulesets do the same. What only iptables can do, to accept in front of others, does not count.

    `known`: of all other addresses it is tried that they are the node's, and that they are not.
    """
    proofs, missing = [], []
    for host_family, family in FAMILIES.items():
        sides = [source.rulesets.get(family) for source in (left, right)]
        if sides == [None, None]:
            continue
        one, two = sides
        if one is None or two is None:
            missing.append(f"only {(left if two is None else right).name} has rules for {host_family.value}")
            continue
        local = local_addresses(host_family, known.own)
        question = _question(family, local, mark, (one, two), known.foreign.get(family, EMPTY))
        proofs.append(FamilyProof(family, prove(question, progress)))
    return Report(left.name, right.name, proofs, missing, (*left.uncovered, *right.uncovered))


def beyond_kube_proxy(features: Iterable[Feature]) -> tuple[str, ...]:
    """A line for each feature that is on and of which kube-proxy does nothing."""
    others = (feature.name for feature in features if feature.name != SERVICES)
    return tuple(f"nothing is proved about {name}: kube-proxy does nothing of it" for name in others)


def replacing_kube_proxy(
    theirs: Source,
    ours: Source,
    store: Store,
    configuration: NodeConfiguration,
    addresses: Collection[str],
    progress: Progress | None = None,
) -> Report:
    """Whether anything changes for packets; each difference with the decision that explains it.

    `ours`: the Services' rules alone.
    """
    proofs, missing = [], []
    for meaning in meanings(store, configuration, addresses, is_iptables=ours.is_iptables):
        family = meaning.family
        one, two = theirs.rulesets.get(family), ours.rulesets.get(family)
        if one is None or two is None:
            lacking = theirs if one is None else ours
            missing.append(f"{lacking.name}: no rules for {meaning.node.family.value}")
            continue
        question = _question(family, meaning.local_addresses, meaning.mark, (one, two), meaning.foreign_addresses)
        why = partial(explain, meaning=meaning, is_iptables=theirs.is_iptables)
        proofs.append(FamilyProof(family, prove(question._replace(explain=why), progress)))
    return Report(theirs.name, ours.name, proofs, missing, (*theirs.uncovered, *ours.uncovered))


def _question(
    family: Family, local: Intervals, mark: int, sides: tuple[Ruleset, Ruleset], foreign: Intervals
) -> Question:
    left, right = (RulesAnswer(Machine(side, local, foreign)) for side in sides)
    ignored = frozenset({"accepted"})
    return Question(family, local, mark, left, right, ignored=ignored, foreign_addresses=foreign)


def weights_bound(service_ports: Iterable[ServicePort]) -> Bound:
    """What shares may differ by: the kernel's rounding, and of endpoints in lists that need too many slots, D9's."""
    rounded: set[Endpoint] = set()
    for port in service_ports:
        for backends in (port.cluster_endpoints, port.local_endpoints):
            if _is_rounded(backends):
                rounded |= {_endpoint(backend) for backend in backends}
    bound = ROUNDING * _DRAWS

    def of(endpoint: Endpoint | None, share: Fraction) -> Fraction:
        if endpoint in rounded:
            return max(bound, share * _ROUNDED, Fraction(1, _MOST_SLOTS))
        return bound

    return of


def _is_rounded(backends: Iterable[Backend]) -> bool:
    weights = [backend.weight for backend in backends]
    return bool(weights) and sum(weights) // gcd(*weights) > _MOST_SLOTS


def _endpoint(backend: Backend) -> Endpoint:
    from ipaddress import ip_address

    return int(ip_address(backend.address)), backend.port
