"""What network policies have said of a packet: the chains and rules that it met come in, words go out. Pure.

On nftables each policy has a chain of its name; on iptables a rule has it in a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rulegen.policies.on_iptables.names import PREFIX

_CHAIN = re.compile(r"(?:cluster-)?(?P<direction>ingress|egress)/(?P<name>.+)")
_COMMENT = re.compile(r"(?:Cluster)?NetworkPolicy (?P<name>\S+)")
_COMBINATION = re.compile(rf"{PREFIX}(?P<direction>[EI])-.*")
_DIRECTIONS = {"E": "egress", "I": "ingress"}


def of_nftables(chains: Sequence[str], last: str, verdict: str) -> str:
    """`last`: the chain whose rule decided. "" where no policy was concerned."""
    met = [found for chain in chains if (found := _CHAIN.fullmatch(chain))]
    decided = _CHAIN.fullmatch(last)
    if verdict == "accept":
        return f"network policies ({decided['direction']}): allowed by {decided['name']}" if decided else ""
    direction = met[0]["direction"] if met else "egress" if "egress" in chains[0] else "ingress"
    return _denied(direction, (found["name"] for found in met))


def is_of_iptables(chain: str) -> bool:
    """Whether a chain of iptables is the policies'."""
    return chain.startswith(PREFIX)


def is_combination(chain: str) -> bool:
    """Whether a chain of iptables holds the rules of the policies that isolate a pod."""
    return _COMBINATION.fullmatch(chain) is not None


def of_iptables(combination: str, comments: Iterable[str]) -> str:
    """What a packet that is let through by none meets: the chain, and the comments of its rules."""
    found = _COMBINATION.fullmatch(combination)
    names = (policy["name"] for comment in comments if (policy := _COMMENT.fullmatch(comment)))
    return _denied(_DIRECTIONS[found["direction"]] if found else "", names)


def _denied(direction: str, names: Iterable[str]) -> str:
    policies = ", ".join(dict.fromkeys(names))
    return f"network policies ({direction}): {f'none of {policies} allows it' if policies else 'nothing allows it'}"
