"""The text of the chains that come and go with policies: blocks as they stand in a table. Pure.

A policy's chain changes with the policy alone. The chain of a combination only names policies. What makes policies of
one tier depend on each other is a rule that passes on: it stands in the chain of the tier, from which it returns,
between the parts of its policy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from rulegen.config import Family
from rulegen.policies.model import Action, Combination, Direction, PolicyName, Rule, Rules, Tier
from rulegen.policies.names import combination_chain, note_chain, policy_chain, tier_chain
from rulegen.policies.on_nftables.rules import denial, rule_lines

RulesOf = Callable[[PolicyName], Rules]


def chain_text(name: str, lines: Iterable[str], comment: str = "") -> str:
    """A chain as a block of a table."""
    above = f"\t# {comment}\n" if comment else ""
    return f"{above}\tchain {name} {{\n" + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n"


def policy_chains(name: PolicyName, direction: Direction, rules: Rules, family: Family) -> dict[str, str]:
    """The chains of a policy's rules, by name; those of a NetworkPolicy are one, even if it is empty."""
    parts = list(_parts(rules)) if not name.namespace else [rules]
    return {
        chain: chain_text(chain, _lines(part, direction, family), f"{name}, {direction.word}")
        for chain, part in _chains_of(name, direction, parts)
        if part or name.namespace
    }


def tier_text(
    direction: Direction, tier: Tier, policies: tuple[PolicyName, ...], rules_of: RulesOf, family: Family
) -> str:
    """The chain of a tier: the policies one after the other. What returns from here goes on to the next tier."""
    lines: list[str] = []
    for name in policies:
        rules = rules_of(name)
        number = 0
        for is_passing, group in groupby(rules, key=_is_passing):
            if is_passing:
                lines += _lines(tuple(group), direction, family)
            else:
                number += 1
                lines.append(f"jump {policy_chain(name, direction, number)}")
    return chain_text(tier_chain(direction, tier, policies), lines, f"{tier.value}: {', '.join(map(str, policies))}")


def tiers_of(combination: Combination) -> list[tuple[Tier, tuple[PolicyName, ...]]]:
    """The tiers of ClusterNetworkPolicies that a combination has."""
    tiers = ((Tier.ADMIN, combination.admin), (Tier.BASELINE, combination.baseline))
    return [(tier, policies) for tier, policies in tiers if policies]


def combination_text(combination: Combination) -> str:
    """The chain of a combination. Who is isolated by NetworkPolicies receives what one of them accepts, and no more.

    They are asked twice: who comes from one set into another while a packet looks into both is in one of them the
    second time.
    """
    direction = combination.direction
    lines = []
    if combination.admin:
        lines.append(f"jump {tier_chain(direction, Tier.ADMIN, combination.admin)}")
    lines += [f"jump {policy_chain(name, direction)}" for name in combination.network * 2]
    if combination.network:
        lines.append(denial(direction))
    elif combination.baseline:
        lines.append(f"jump {tier_chain(direction, Tier.BASELINE, combination.baseline)}")
    return chain_text(combination_chain(combination), lines)


# NF_LOG_PREFIXLEN, less the closing NUL.
_MAX_PREFIX = 127
# Of each pod and direction; a scan of its ports is no flood of messages.
_NOTES = "limit rate 10/second burst 20 packets"


def note_text(pod: str, combination: Combination, group: int) -> str:
    """The chain that tells an nflog group of a denial, with the pod and the policies that select it."""
    policies = ",".join(f"{name.namespace}/{name.name}".lstrip("/") for name in combination.policies)
    prefix = f"rulegen denied {combination.direction.word} {pod} by {policies} "[:_MAX_PREFIX]
    return chain_text(note_chain(pod, combination), [f'{_NOTES} log prefix "{prefix}" group {group}'])


def _is_passing(rule: Rule) -> bool:
    return rule.action is Action.PASS


def _parts(rules: Rules) -> Iterator[Rules]:
    for is_passing, group in groupby(rules, key=_is_passing):
        if not is_passing:
            yield tuple(group)


def _chains_of(name: PolicyName, direction: Direction, parts: Sequence[Rules]) -> Iterator[tuple[str, Rules]]:
    for number, part in enumerate(parts, 1):
        yield policy_chain(name, direction, number), part


def _lines(rules: Rules, direction: Direction, family: Family) -> list[str]:
    return [line for rule in rules for line in rule_lines(rule, direction, family)]
