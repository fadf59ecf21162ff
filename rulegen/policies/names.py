"""Names of the sets and chains that come and go with policies. A name always stands for the same thing. Pure.

Those of nftables, and the parts of which iptables, which takes shorter ones, makes its own.
"""

from __future__ import annotations

import re
from base64 import b32encode
from collections.abc import Iterable
from hashlib import sha256

from rulegen.policies.model import AddressRange, Combination, Direction, PolicyName, PortRange, Tier

# A chain's name stands in the comment of an element, beside two digests.
_MAX_NAME = 80
_PORT_NAME = re.compile(r"[a-z0-9-]{1,15}")


def digest(parts: Iterable[object]) -> str:
    """Fifteen letters and digits that stand for some values and their order.

    Of a SHA-256 as many bits (75) as the shortest names, iptables' chains, have room for: what one tenant writes must
    not come to stand for what another wrote.
    """
    return b32encode(sha256(repr(list(parts)).encode()).digest()).decode().lower()[:15]


def blocks_name(blocks: Iterable[AddressRange]) -> str:
    """The set of some ranges of addresses."""
    return f"blocks-{digest(blocks)}"


def ports_name(ranges: Iterable[PortRange]) -> str:
    """The set of some ranges of ports."""
    return f"ports-{digest(map(tuple, ranges))}"


def named_port_name(name: str) -> str:
    """The set of the places where a port has this name."""
    return f"named-{name}" if _PORT_NAME.fullmatch(name) else f"named_{digest([name])}"


def policy_chain(name: PolicyName, direction: Direction, part: int = 1) -> str:
    """The chain of a policy's rules: `ingress/default/web`; of a ClusterNetworkPolicy, of a part of them."""
    if name.namespace:
        text = f"{direction.word}/{name.namespace}/{name.name}"
    else:
        text = f"cluster-{direction.word}/{name.name}" + (f"/{part}" if part > 1 else "")
    return text if len(text) <= _MAX_NAME else f"{text[: _MAX_NAME - 16]}_{digest([text])}"


def combination_chain(combination: Combination) -> str:
    """The chain of all policies that isolate a pod in a direction."""
    return f"{combination.direction.word}-{combination_digest(combination)}"


def combination_digest(combination: Combination) -> str:
    """What tells a combination from others of its direction."""
    return digest(combination[1:])


def note_chain(pod: str, combination: Combination) -> str:
    """The chain that notes a denial of a pod's."""
    return f"note-{combination.direction.word}-{digest((pod, combination))}"


def tier_chain(direction: Direction, tier: Tier, policies: tuple[PolicyName, ...]) -> str:
    """The chain of the ClusterNetworkPolicies of one tier."""
    return f"{tier.value.lower()}-{direction.word}-{digest(policies)}"
